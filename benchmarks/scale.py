"""What a thousand rollout workers cost the driver: leases, reports, tables, files. No simulator runs here.

`python -m benchmarks.scale [--workers 1000] [--episodes 200000] [--each 8]`

In process: the dispatcher and the recorder alone, fed with reports as real workers send them. With actors: the whole
pool, its logical workers shared by a few real Ray actors that sleep where simulators would compute. Reports carry
PushT's tables, `each` episodes a report; rows go into a run directory and are published. Time is the driver's CPU time,
Ray's threads in it included; making the reports is the workers' and not counted.
"""

import argparse
import asyncio
import gc
import json
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil
import pyarrow as pa
import ray
from rich.console import Console
from rich.table import Table

from benchmarks.contest import machine
from bet import tasks
from bet.config import Split
from bet.metrics import PushTOutcome
from bet.protocol import Recipe
from bet.rollout import End, EpisodeResult
from bet_ray.dispatch import Dispatcher, Finished
from bet_ray.ledger import Ledger
from bet_ray.pool import Pool
from bet_ray.recorder import Recorder
from bet_ray.results import EpisodeSource
from bet_ray.session import session
from bet_ray.worker import Job, Lease, Moment, Report, Usage, Whereabouts, report

TASK = tasks.get("pusht")
SOURCE = EpisodeSource("0" * 64, TASK.protocol.digest, "torch", "report", "pusht", TASK.protocol.name, 0)
JOB = Job(SOURCE, (b"", b""), Recipe(TASK.protocol), Split.REPORT)
SLOTS = 32
ACTORS = 4  # real ones
SAMPLES = 10  # looks at the memory
TARGET = 100.0  # microseconds per episode, in process


@dataclass
class Cost:
    """What a number of episodes cost the driver."""

    name: str
    workers: int
    episodes: int
    each: int
    """Episodes in a report."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of the driver, by what it did."""
    wall: float = 0.0
    memory: list[float] = field(default_factory=list)
    """MB of the driver, from the first tenth of the episodes to the last."""

    @property
    def per_episode(self) -> float:
        """Microseconds."""
        return 1e6 * sum(self.seconds.values()) / self.episodes

    @contextmanager
    def counting(self, what: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.process_time() - began

    def look(self, done: int) -> None:
        """Remember the memory, ten times in all."""
        if done * SAMPLES >= (len(self.memory) + 1) * self.episodes:
            self.memory.append(psutil.Process().memory_info().rss / 2**20)


def made_up(name: str, leases: Sequence[Lease], where: Whereabouts) -> Report:
    """A report as a worker sends it, of episodes that nobody ran."""
    results = [
        EpisodeResult(
            lease.index, lease.index, False, 0.5, 1.0, 1.0, 300, End.TIME_LIMIT, PushTOutcome(best_coverage=0.5), None
        )
        for lease in leases
    ]
    return report(JOB, name, [(result, lease, 0.5) for result, lease in zip(results, leases, strict=True)], where)


def in_process(workers: int, episodes: int, each: int, run: Path) -> Cost:
    """The driver's own work, without Ray."""
    cost = Cost("in process", workers, episodes, each)
    dispatcher = Dispatcher(SLOTS, workers)
    where = Whereabouts("0" * 56, "0" * 32, 1)
    backlog: list[deque[Lease]] = [deque() for _ in range(workers)]
    with cost.counting("leases"):
        for worker in range(workers):
            dispatcher.join(worker)
        name = dispatcher.submit(JOB, range(episodes))
    with recording(cost, run) as record:
        while not dispatcher.idle:
            for worker, mine in enumerate(backlog):
                with cost.counting("leases"):
                    mine.extend(dispatcher.assign(worker))
                if not mine:
                    continue
                arrived = made_up(name, [mine.popleft() for _ in range(min(each, len(mine)))], where)
                with cost.counting("reports"):
                    finished = dispatcher.accept(worker, [arrived])
                record(finished)
    return cost


@contextmanager
def recording(cost: Cost, run: Path) -> Iterator[Callable[[Sequence[Finished]], None]]:
    """Rows go into a run directory as they come, and are published in the end."""
    recorder, done = Recorder(Ledger(run, TASK)), 0

    def record(finished: Sequence[Finished]) -> None:
        nonlocal done
        with cost.counting("files"):
            for one in finished:
                recorder.add(one)
            recorder.flush_if_due()
        done += sum(map(len, finished))
        cost.look(done)

    began = time.perf_counter()
    yield record
    with cost.counting("publishing"), recorder:
        pass
    cost.wall = time.perf_counter() - began


class Crowd:
    """A real actor that is many logical workers: each sleeps for its moment, and has finished some episodes then."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._backlog: dict[int, deque[Lease]] = {}

    async def ready(self, worker: int) -> Whereabouts:
        self._backlog[worker] = deque()
        return Whereabouts("elsewhere", f"{worker:032d}", 0)

    async def advance(
        self, worker: int, new: Sequence[Lease], jobs: object, over: object, seconds: float, more: bool, rested: bool
    ) -> Moment:
        mine = self._backlog[worker]
        mine.extend(new)
        await asyncio.sleep(seconds)
        leases = [mine.popleft() for _ in range(min(self._each, len(mine)))]
        where = Whereabouts("0" * 56, f"{worker:032d}", 0)
        return Moment([made_up(leases[0].job, leases, where)] if leases else [], Usage())


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
    """A pool whose workers share a few real actors."""

    def __init__(self, actors: Sequence[Any], workers: int) -> None:
        self._crowds = actors
        self._made = 0
        super().__init__(workers, SLOTS)

    def _start(self) -> Logical:
        self._made += 1
        return Logical(self._crowds[self._made % len(self._crowds)], self._made)

    def _fire(self, worker: Any) -> None:
        del self._workers[worker.number]


def with_actors(workers: int, episodes: int, each: int, run: Path) -> Cost:
    """The pool as it is, through Ray."""
    cost = Cost(f"{ACTORS} real actors", workers, episodes, each)
    with session(ACTORS):
        crowd = cast(Any, ray.remote(num_cpus=0)(Crowd)).options(max_concurrency=2 * workers)
        actors = [crowd.remote(each) for _ in range(ACTORS)]
        with CrowdedPool(actors, workers) as pool:
            while len(pool.whereabouts) < workers:
                pool.poll()
            with recording(cost, run) as record:
                pool.submit(JOB, range(episodes))
                while not pool.idle:
                    with cost.counting("Ray, leases, reports"):
                        finished = pool.poll()
                    record(finished)
    return cost


def show(costs: Sequence[Cost], console: Console) -> None:
    table = Table()
    columns = ("", "workers", "episodes", "a report", "µs/episode", "of which", "episodes/s", "memory, MB")
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "of which") else "right")
    for cost in costs:
        parts = ", ".join(f"{1e6 * spent / cost.episodes:.0f} {what}" for what, spent in cost.seconds.items())
        table.add_row(
            cost.name,
            f"{cost.workers:,}",
            f"{cost.episodes:,}",
            str(cost.each),
            f"{cost.per_episode:.0f}",
            parts,
            f"{cost.episodes / cost.wall:,.0f}",
            f"{cost.memory[0]:.0f} .. {max(cost.memory):.0f}",
        )
    console.print(table)
    first = costs[0]
    said = "reached" if first.per_episode <= TARGET else "missed"
    console.print(f"in process: {first.per_episode:.0f} µs an episode, target {TARGET:g}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What many rollout workers cost the driver.")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=8, help="episodes in a report")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    console = Console(width=140, highlight=False)
    console.print(machine())
    costs = []
    for measure, each in ((in_process, options.each), (in_process, 1), (in_process, 64), (with_actors, options.each)):
        episodes = options.episodes if each >= options.each else options.episodes // 4
        with tempfile.TemporaryDirectory() as folder, console.status(f"{measure.__name__}, {each} a report"):
            costs.append(measure(options.workers, episodes, each, Path(folder)))
        gc.collect()
        pa.default_memory_pool().release_unused()
    show(costs, console)
    if options.out:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        what = {"machine": machine(), "peak_mb": peak, "costs": [asdict(cost) for cost in costs]}
        options.out.write_text(json.dumps(what, indent=2) + "\n")


if __name__ == "__main__":
    main()
