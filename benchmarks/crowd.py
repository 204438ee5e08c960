"""A pool of a thousand workers on a few cores: logical ones, which share real actors and sleep where others simulate.

What the driver does for them is all real, and what it costs is what is counted.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ray

from bet import tasks
from bet.config import Split
from bet.metrics import PushTOutcome
from bet.protocol import Recipe
from bet.rollout import End, EpisodeResult
from bet_ray.pool import Pool
from bet_ray.results import EpisodeSource
from bet_ray.worker import Job, Lease, Moment, Report, Usage, Whereabouts, report

TASK = tasks.get("pusht")
SOURCE = EpisodeSource("0" * 64, TASK.protocol.digest, "torch", "report", "pusht", TASK.protocol.name, 0)
JOB = Job(SOURCE, (b"", b""), Recipe(TASK.protocol), Split.REPORT)
SLOTS = 32


def made_up(name: str, leases: Sequence[Lease], where: Whereabouts) -> Report:
    """A report as a worker sends it, of episodes that nobody ran."""
    results = [
        EpisodeResult(
            lease.index, lease.index, False, 0.5, 1.0, 1.0, 300, End.TIME_LIMIT, PushTOutcome(best_coverage=0.5), None
        )
        for lease in leases
    ]
    return report(JOB, name, [(result, lease, 0.5) for result, lease in zip(results, leases, strict=True)], where)


class Crowd:
    """A real actor that is many logical workers: each sleeps for its moment, and has finished some episodes then.

    Policies are fetched as by real workers, but once for all of a crowd.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._backlog: dict[int, deque[Lease]] = {}
        self._known: set[str] = set()  # jobs

    async def ready(self, worker: int) -> Whereabouts:
        self._backlog[worker] = deque()
        return Whereabouts(ray.get_runtime_context().get_node_id(), f"{worker:032d}", 0)

    async def advance(
        self,
        worker: int,
        new: Sequence[Lease],
        jobs: Mapping[str, list[ray.ObjectRef]],
        over: object,
        seconds: float,
        more: bool,
        rested: bool,
    ) -> Moment:
        mine = self._backlog[worker]
        mine.extend(new)
        for name, (ref,) in jobs.items():
            if name not in self._known:
                self._known.add(name)
                await ref
        await asyncio.sleep(seconds)
        leases = [mine.popleft() for _ in range(min(self._each, len(mine)))]
        where = Whereabouts("0" * 56, f"{worker:032d}", 0)
        by_job: dict[str, list[Lease]] = {}
        for lease in leases:
            by_job.setdefault(lease.job, []).append(lease)
        return Moment([made_up(name, some, where) for name, some in by_job.items()], Usage())

    async def fetched(self) -> set[str]:
        """Jobs whose policies came through the object store since this was last asked."""
        known, self._known = self._known, set()
        return known

    async def fetch(self, jobs: Sequence[list[ray.ObjectRef]]) -> int:
        """Take policies out of the object store; returns their bytes."""
        return sum([sum(map(len, (await ref).packed)) for (ref,) in jobs])


def crowds(each: int, workers: int, places: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Real actors for so many logical workers; `places` has Ray's options for each of them."""
    kind = cast(Any, ray.remote(num_cpus=0)(Crowd))
    return [kind.options(max_concurrency=2 * workers + 2, **place).remote(each) for place in places]


@dataclass(frozen=True)
class _Method:
    call: Callable[..., Any]

    def remote(self, *args: object) -> Any:
        return self.call(*args)


@dataclass(frozen=True)
class Logical:
    """A worker's handle: one of many in a real actor."""

    actor: Any
    number: int

    @property
    def ready(self) -> _Method:
        return _Method(partial(self.actor.ready.remote, self.number))

    @property
    def advance(self) -> _Method:
        return _Method(partial(self.actor.advance.remote, self.number))


class CrowdedPool(Pool):
    """A pool whose workers share a few real actors. `seconds`: how long they sleep, instead of what is usual."""

    def __init__(self, actors: Sequence[Any], workers: int, seconds: float | None = None) -> None:
        self._crowds = actors
        self._made = 0
        super().__init__(workers, SLOTS)
        if seconds is not None:
            self._seconds = seconds
        while len(self.whereabouts) < workers:
            self.poll()

    def _start(self) -> Logical:
        self._made += 1
        return Logical(self._crowds[self._made % len(self._crowds)], self._made)

    def _fire(self, worker: Any) -> None:
        del self._workers[worker.number]
