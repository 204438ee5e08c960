"""The rollout pool: Ray actors that run episodes, and the dispatcher that keeps them busy.

The dispatcher leases episodes to workers, always more than a worker has slots, so no slot idles while work remains. A
worker that dies gives its leases back. Where an episode ran, and how often it was tried, never shows in its row.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from bet import tasks
from bet.config import Split
from bet.errors import FailedRunError
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import EpisodeResult, Rollout, failed
from bet_ray.results import EpisodeSource, episodes_table, execution_table, trajectories_table

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.25  # how long a worker runs before it reports: long against a 1 ms round trip, short for a person
POISON_DEATHS = 3  # an episode that took this many workers down becomes an `error` row
FAILED_STARTS = 3  # workers in a row that died before they took an episode
GIVEN_UP = 3  # episodes in a row that were given up: not the episodes are at fault


class PoolError(FailedRunError):
    """Workers cannot run; the message says why."""


@dataclass(frozen=True)
class Job:
    """Episodes of one policy to roll out."""

    source: EpisodeSource
    packed: tuple[bytes, bytes]
    """`Policy.pack()`; travels once per node through the object store."""
    recipe: Recipe
    split: Split
    keep_trajectories: bool = False

    @classmethod
    def of(cls, policy: Policy, recipe: Recipe, split: Split, *, keep_trajectories: bool = False) -> "Job":
        """Raises `UsageError` here, not in a worker, when the policy does not fit the protocol."""
        Rollout(policy, recipe, split, 1).close()
        source = EpisodeSource.of(policy, recipe.protocol, split)
        return cls(source, policy.pack(), recipe, split, keep_trajectories)


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
class _Active:
    """A job inside a worker."""

    job: Job
    rollout: Rollout
    waiting: deque[int] = field(default_factory=deque)
    started: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Report:
    """What a worker sends back of one job: finished results as Arrow IPC bytes, and the seconds each took."""

    job: str
    indices: list[int]
    episodes: bytes
    trajectories: bytes | None
    wall_seconds: list[float]
    node: str
    actor: str


class RolloutWorker:
    """A Ray actor of one CPU: `slots` episodes at once, of as many policies as it is given."""

    def __init__(self, slots: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._slots = slots
        self._active: dict[str, _Active] = {}

    def ready(self) -> None:
        """Returns once the worker has started, so that a failed start is not blamed on an episode."""

    def advance(self, new: Sequence[tuple[str, int]], jobs: dict[str, list[ray.ObjectRef]]) -> list[_Report]:
        """Take on new episodes (job, index), run for a moment, return what finished.

        `jobs` holds a reference to each `Job` that occurs, inside a list so that it is only fetched when unknown here.
        """
        for name, index in new:
            if name not in self._active:
                job: Job = ray.get(jobs[name][0])
                about, weights = job.packed
                policy = Policy.unpack(about, weights)
                if policy.numerics != job.source.numerics:
                    raise PoolError(
                        f"this node computes with {policy.numerics!r}, the episodes were asked for with "
                        f"{job.source.numerics!r}; run on nodes of one kind"
                    )
                self._active[name] = _Active(job, Rollout(policy, job.recipe, job.split, self._slots))
            self._active[name].waiting.append(index)
        finished: dict[str, list[EpisodeResult]] = {}
        deadline = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < deadline and self._work():
            free = self._slots - sum(active.rollout.running for active in self._active.values())
            for name, active in self._active.items():
                count = min(free, len(active.waiting))
                indices = [active.waiting.popleft() for _ in range(count)]
                active.rollout.start(indices)
                active.started |= dict.fromkeys(indices, time.monotonic())
                free -= count
                results = active.rollout.step()
                if results:
                    finished.setdefault(name, []).extend(results)
        return [self._report(name, results) for name, results in finished.items()]

    def forget(self, name: str) -> None:
        """Drop a finished job's policy and environment."""
        active = self._active.pop(name, None)
        if active is not None:
            active.rollout.close()

    def _work(self) -> bool:
        return any(active.waiting or active.rollout.running for active in self._active.values())

    def _report(self, name: str, results: list[EpisodeResult]) -> _Report:
        active = self._active[name]
        now, context = time.monotonic(), ray.get_runtime_context()
        return _Report(
            name,
            [result.index for result in results],
            *_tables(active.job, results, active.rollout.policy.bin_centers),
            [now - active.started.pop(result.index) for result in results],
            context.get_node_id(),
            context.get_actor_id() or "",
        )


@dataclass
class _Worker:
    """A worker as the dispatcher sees it."""

    handle: Any
    ready: bool = False
    leases: dict[tuple[str, int], None] = field(default_factory=dict)  # ordered
    call: ray.ObjectRef | None = None


@dataclass
class _Work:
    """A job as the dispatcher sees it."""

    job: Job
    ref: ray.ObjectRef
    left: int


class Pool:
    """The dispatcher. Not thread-safe: one thread submits and polls.

    `submit` queues episodes, `poll` hands out work and returns what finished meanwhile. Use as a context manager.
    """

    def __init__(self, actors: int, slots: int, cpus_per_actor: float = 1.0) -> None:
        if actors < 1 or slots < 1:
            raise ValueError(f"a pool needs at least one actor and one slot, got {actors} and {slots}")
        self._slots = slots
        self._remote = ray.remote(num_cpus=cpus_per_actor, max_restarts=0)(RolloutWorker)
        self._queue: deque[tuple[str, int]] = deque()
        self._suspects: deque[tuple[str, int]] = deque()  # run alone: the next death convicts
        self._deaths: dict[tuple[str, int], int] = {}
        self._failed_starts = 0
        self._given_up = 0
        self._failure: PoolError | None = None
        self._work: dict[str, _Work] = {}
        self._workers = [self._new_worker() for _ in range(actors)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            ray.kill(worker.handle)

    @property
    def idle(self) -> bool:
        return not self._work

    def submit(self, job: Job, indices: Sequence[int]) -> str:
        """Queue episodes; returns the job's name, which `Finished` carries."""
        name = uuid4().hex
        wanted = list(dict.fromkeys(indices))
        if wanted:
            self._work[name] = _Work(job, ray.put(job), len(wanted))
            self._queue.extend((name, index) for index in wanted)
        return name

    def poll(self, timeout: float = 1.0) -> list[Finished]:
        """Hand out work, wait for a report or `timeout` seconds, and return what finished.

        Raises `PoolError` when workers keep dying before any episode ends; what had finished was returned before.
        """
        if self._failure is not None:
            raise self._failure
        for worker in self._workers:
            if worker.call is None:
                self._call(worker)
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not calls:
            return []
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=timeout)
        finished: list[Finished] = []
        for ref in ready:
            worker = calls[ref]
            worker.call = None
            try:
                reports: list[_Report] | None = ray.get(ref)
            except RayError as error:  # of the actor, of its node, or of the call itself
                finished += self._lost(worker, error)
                continue
            if reports is None:  # it answered `ready`
                worker.ready, self._failed_starts = True, 0
            for report in reports or ():
                for index in report.indices:
                    worker.leases.pop((report.job, index), None)
            self._call(worker)  # before booking, so that the worker goes on meanwhile
            finished += [self._book(report) for report in reports or ()]
        if self._failure is not None and not finished:
            raise self._failure
        return finished

    def _new_worker(self) -> _Worker:
        return _Worker(self._remote.remote(self._slots))

    def _call(self, worker: _Worker) -> None:
        """Top up a worker's leases and let it run; first wait for its start."""
        if not worker.ready:
            worker.call = worker.handle.ready.remote()
            return
        new: list[tuple[str, int]] = []
        if any(lease in self._deaths and self._deaths[lease] >= POISON_DEATHS - 1 for lease in worker.leases):
            pass  # a suspect runs alone
        elif not worker.leases and self._suspects:
            new = [self._suspects.popleft()]
        else:
            # Twice the slots, but near the end no more than a fair share: the last episodes spread over all workers.
            outstanding = len(self._queue) + sum(len(other.leases) for other in self._workers)
            target = min(2 * self._slots, -(-outstanding // len(self._workers)))
            for _ in range(min(target - len(worker.leases), len(self._queue))):
                new.append(self._queue.popleft())
        worker.leases |= dict.fromkeys(new)
        if worker.leases:
            worker.call = worker.handle.advance.remote(new, {name: [self._work[name].ref] for name, _ in new})

    def _book(self, report: _Report) -> Finished:
        self._given_up = 0
        attempts = [self._deaths.pop((report.job, index), 0) + 1 for index in report.indices]
        job = self._work[report.job].job
        return self._finish(
            report.job,
            job,
            report.indices,
            (report.episodes, report.trajectories),
            [
                {"node": report.node, "actor": report.actor, "wall_seconds": seconds, "attempts": tries}
                for seconds, tries in zip(report.wall_seconds, attempts, strict=True)
            ],
        )

    def _finish(
        self,
        name: str,
        job: Job,
        indices: list[int],
        tables: tuple[bytes, bytes | None],
        execution: list[dict[str, Any]],
    ) -> Finished:
        work = self._work[name]
        work.left -= len(indices)
        if work.left == 0:
            del self._work[name]
            for worker in self._workers:
                worker.handle.forget.remote(name)
        rows = [job.source.key | {"index": index} | row for index, row in zip(indices, execution, strict=True)]
        episodes, trajectories = tables
        return Finished(
            name, _from_ipc(episodes), execution_table(rows), None if trajectories is None else _from_ipc(trajectories)
        )

    def _lost(self, worker: _Worker, error: Exception) -> list[Finished]:
        """Give a lost worker's leases back and replace it; an episode that took too many down ends as an error."""
        reason = str(error).strip().splitlines()[-1]
        log.warning("a rollout worker was lost (%s); its episodes run again", reason)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                self._failure = PoolError(f"{FAILED_STARTS} rollout workers in a row could not start: {reason}")
                return []
        ray.kill(worker.handle)
        self._workers[self._workers.index(worker)] = self._new_worker()
        finished = []
        for lease in worker.leases:
            self._deaths[lease] = self._deaths.get(lease, 0) + 1
            if self._deaths[lease] >= POISON_DEATHS:
                finished.append(self._give_up(lease))
            elif self._deaths[lease] == POISON_DEATHS - 1:
                self._suspects.append(lease)
            else:
                self._queue.appendleft(lease)
        if self._given_up >= GIVEN_UP:
            self._failure = PoolError(f"{GIVEN_UP} episodes in a row took down every worker that ran them: {reason}")
        return finished

    def _give_up(self, lease: tuple[str, int]) -> Finished:
        name, index = lease
        job = self._work[name].job
        self._given_up += 1
        log.error("episode %d was given up after %d lost workers", index, POISON_DEATHS)
        tables = _tables(job, [failed(job.recipe.protocol, job.split, index)])
        attempts = self._deaths.pop(lease)
        row = {"node": "", "actor": "", "wall_seconds": None, "attempts": attempts}
        return self._finish(name, job, [index], tables, [row])


def _tables(
    job: Job, results: list[EpisodeResult], centers: NDArray[np.float32] | None = None
) -> tuple[bytes, bytes | None]:
    task = tasks.simulated(job.source.task)
    episodes = _to_ipc(episodes_table(task, job.source, results))
    if centers is None or not job.keep_trajectories:
        return episodes, None
    return episodes, _to_ipc(trajectories_table(task, job.source, results, centers))


def _to_ipc(table: pa.Table) -> bytes:
    # Bytes are the cheapest thing to send through Ray; RecordBatch objects are the dearest.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
