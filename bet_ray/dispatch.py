"""Who runs which episode: leases, retries and the poison limit. Knows nothing of Ray, and costs the same per episode
whether there are two workers or thousands.

Every worker has more leases than slots, so that no slot idles while work remains. A worker that dies gives its leases
back. Where a worker's death is not the first that a lease has met, the leases run apart, in ever smaller groups, until
the one that kills its workers is alone; what dies for other reasons is thereby never blamed on an episode.
"""

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from uuid import uuid4

import pyarrow as pa

from bet.rollout import failed
from bet_ray.worker import HERE, Job, Lease, PoolError, Report, quarters, report

log = logging.getLogger(__name__)

POISON_DEATHS = 3  # an episode that took this many workers down, with nothing beside it, ends as an error
POISON_HANGS = 2  # the same of workers that hung: each costs a minute, and one of them can be a computer's own trouble
FRUITLESS_DEATHS = 10  # times the workers, before any episode of a job ended: not an episode is at fault
NEVER_ENDS = "the workers that ran this policy's episodes died or hung, one and all"
HANGS_COUNT = 3  # times a death


@dataclass(frozen=True)
class Finished:
    """Episodes of one job that ended, as tables."""

    job: str
    episodes: pa.Table
    execution: pa.Table
    trajectories: pa.Table | None

    def __len__(self) -> int:
        return self.episodes.num_rows


@dataclass
class _Work:
    """A job with episodes to run."""

    job: Job
    indices: Sequence[int]
    given: int = 0
    """How many of the indices have been handed out once."""
    again: deque[int] = field(default_factory=deque)
    """Of a worker that died: to be handed out like new ones."""
    apart: deque[list[int]] = field(default_factory=deque)
    """Groups with a suspect among them: each for a worker that has nothing else."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Of the episodes that were handed out more than once."""
    alone: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Workers lost with nothing but one episode: by episode, and whether they hung."""
    done: int = 0
    fruitless: int = 0
    """Workers that died, before any of its episodes ended."""
    excused: int = 0
    """Workers that died with some of its episodes, maybe before they began."""
    hopeless: bool = False
    """Its episodes do nothing but kill workers: all that are left end as errors."""

    @property
    def waiting(self) -> int:
        """Episodes that no worker has and that may run beside others."""
        return len(self.again) + len(self.indices) - self.given

    def take(self, name: str, count: int) -> list[Lease]:
        """Leases of up to `count` episodes."""
        again = [self.again.popleft() for _ in range(min(count, len(self.again)))]
        fresh = self.indices[self.given : self.given + count - len(again)]
        self.given += len(fresh)
        return [Lease(name, index, self.attempts.get(index, 1)) for index in (*again, *fresh)]


@dataclass
class _Worker:
    """A worker, as far as its leases go."""

    leases: dict[tuple[str, int], None] = field(default_factory=dict)
    apart: bool = False
    """It runs a group with a suspect, and gets nothing else."""
    pace: int = 0
    """Episodes that its last report brought."""


class Dispatcher:
    """Hands out episodes and books what comes back.

    Workers are numbers. A worker is given what `assign` says, and what it sends back goes to `accept`; when it dies,
    `lose` takes its leases back. Raises `PoolError` when workers do nothing but die.
    """

    def __init__(self, slots: int, actors: int) -> None:
        self._slots, self._actors = slots, actors
        self._work: dict[str, _Work] = {}
        self._open: dict[str, _Work] = {}  # with something to hand out, in order
        self._workers: dict[int, _Worker] = {}
        self._draining: set[int] = set()  # get nothing until they can take a group
        self.leased = 0
        """Episodes that workers have."""
        self.waiting = 0
        """Episodes that no worker has and that may run beside others."""
        self._ended = False  # any episode, of any job

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return not self._work

    @property
    def open(self) -> bool:
        """Whether there is anything to hand out."""
        return bool(self._open)

    @property
    def workers(self) -> int:
        """How many have joined, and were not lost."""
        return len(self._workers)

    def active(self, name: str) -> bool:
        """Whether episodes of a job are missing yet."""
        return name in self._work

    def job(self, name: str) -> Job:
        """One of which episodes are missing yet."""
        return self._work[name].job

    def has_leases(self, worker: int) -> bool:
        """Whether a worker has anything to do."""
        return bool(self._workers[worker].leases)

    def submit(self, job: Job, indices: Sequence[int]) -> str:
        """Queue episodes, all different; returns the job's name, which `Finished` carries."""
        name = uuid4().hex
        if len(indices):
            self._work[name] = self._open[name] = _Work(job, indices)
            self.waiting += len(indices)
        return name

    def join(self, worker: int) -> None:
        """A worker is there, without leases."""
        self._workers[worker] = _Worker()

    def assign(self, worker: int) -> list[Lease]:
        """New leases for a worker, so that its slots stay full until it asks again."""
        found = self._workers[worker]
        self._draining.discard(worker)
        if found.apart and found.leases:
            return []
        found.apart = False
        # Enough to outlast the next report; near the end no more than a fair share.
        share = -(-(self.waiting + self.leased) // max(len(self._workers), self._actors))  # some are still to come
        count = min(self._slots + max(self._slots, 2 * found.pace), share) - len(found.leases)
        leases: list[Lease] = []
        for name, work in list(self._open.items()):
            whole = not (work.apart and self._wary(work))
            taken = work.take(name, max(count - len(leases), 0)) if work.waiting and whole else []
            leases += taken
            self.waiting -= len(taken)
            if work.apart and not taken and not (work.waiting and whole):
                if not (found.leases or leases):
                    group = work.apart.popleft()
                    leases = [Lease(name, index, work.attempts[index]) for index in group]
                    found.apart = True
                elif not leases and len(self._draining) < len(work.apart):
                    self._draining.add(worker)
                    self._tidy(name)
                    break
            self._tidy(name)
            if found.apart or len(leases) >= count:
                break
        self.leased += len(leases)
        found.leases |= dict.fromkeys((lease.job, lease.index) for lease in leases)
        return leases

    def accept(self, worker: int, reports: Sequence[Report]) -> list[Finished]:
        """Book what a worker finished."""
        found = self._workers[worker]
        found.pace = sum(len(report.indices) for report in reports)
        finished = []
        self._ended |= bool(reports)
        for arrived in reports:
            for index in arrived.indices:
                del found.leases[arrived.job, index]
            self.leased -= len(arrived.indices)
            finished.append(self._book(arrived))
        return finished

    def lose(self, worker: int, *, hung: bool = False, began: bool = True) -> list[Finished]:
        """A worker is gone, or hung and was killed: its episodes run again; those given up end as errors.

        `began`: it surely ran some. One that died while it rested did nothing with what it was given since.
        """
        lost = self._workers.pop(worker)
        self._draining.discard(worker)
        self.leased -= len(lost.leases)
        by_job: dict[str, list[int]] = {}
        for name, index in lost.leases:
            by_job.setdefault(name, []).append(index)
        finished = []
        for name, indices in by_job.items():
            work = self._work[name]
            self._open = {name: work} | self._open  # what runs again comes first
            if not began and not lost.apart and work.excused < self._actors:
                work.excused += 1  # once a worker, for it can also have been what it was given
                self._again(work, indices)
                continue
            for index in indices:
                work.attempts[index] = work.attempts.get(index, 1) + 1
            work.fruitless += HANGS_COUNT if hung else 1
            if work.hopeless:
                finished.append(self._fail(name, indices, NEVER_ENDS))
                continue
            if len(lost.leases) == 1:
                finished += self._blame(name, indices[0], hung)
            else:
                suspects = [index for index in indices if lost.apart or hung or work.attempts[index] > 2]
                work.apart.extend(quarters(suspects))
                self._again(work, [index for index in indices if index not in set(suspects)])
            if work.done == 0 and work.fruitless >= FRUITLESS_DEATHS * self._actors:
                finished.append(self._abandon(name, hung))
        return finished

    def _again(self, work: _Work, indices: Sequence[int]) -> None:
        work.again.extend(indices)
        self.waiting += len(indices)

    def _wary(self, work: _Work) -> bool:
        """No episode ends beside others: smaller groups come first, for one bad episode in ten looks the same."""
        return work.done == 0 and work.fruitless >= FRUITLESS_DEATHS * self._actors // 4

    def _abandon(self, name: str, hung: bool) -> Finished:
        """End a job none of whose episodes ends. Raises `PoolError` where no other's did either."""
        if not self._ended:
            raise PoolError(f"rollout workers do nothing but {'hang' if hung else 'die'}, and no episode ends")
        work = self._work[name]
        work.hopeless = True
        left = [*work.again, *chain(*work.apart), *work.indices[work.given :]]
        self.waiting -= work.waiting
        work.given = len(work.indices)
        work.again.clear()
        work.apart.clear()
        log.error(
            "all %d episodes of policy %s were given up: %s", len(left), work.job.source.policy_digest, NEVER_ENDS
        )
        return self._fail(name, left, NEVER_ENDS)

    def _fail(self, name: str, indices: Sequence[int], reason: str) -> Finished:
        """End episodes as errors."""
        work = self._work[name]
        protocol, split = work.job.recipe.protocol, work.job.split
        rows = [
            (failed(protocol, split, index, reason), Lease(name, index, work.attempts.get(index, 1)), None)
            for index in indices
        ]
        return self._book(report(work.job, name, rows, HERE))

    def _blame(self, name: str, index: int, hung: bool) -> list[Finished]:
        """A worker died that ran nothing else."""
        work = self._work[name]
        work.alone[index, hung] += 1
        limit = POISON_HANGS if hung else POISON_DEATHS
        if work.alone[index, hung] < limit:
            work.apart.append([index])
            return []
        work.attempts[index] -= 1
        reason = f"the {limit} workers that ran it alone {'hung' if hung else 'died'}"
        log.error("episode %d was given up: %s", index, reason)
        return [self._fail(name, [index], reason)]

    def _tidy(self, name: str) -> None:
        work = self._open[name]
        if not work.waiting and not work.apart:
            del self._open[name]

    def _book(self, arrived: Report) -> Finished:
        work = self._work[arrived.job]
        work.done += len(arrived.indices)
        if work.done == len(work.indices):
            del self._work[arrived.job]
        steps = None if arrived.trajectories is None else _from_ipc(arrived.trajectories)
        return Finished(arrived.job, _from_ipc(arrived.episodes), _from_ipc(arrived.execution), steps)


def _from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
