"""What a thousand rollout workers cost the driver, the object store and the writer. No simulator runs here.

`python -m benchmarks.scale [--workers 1000] [--episodes 200000] [--each 8] [--nodes 1 4 8] [--rows 1000000]`

In process: the dispatcher and the recorder alone, fed with reports as real workers send them. With actors: the whole
pool, its logical workers shared by a few real Ray actors that sleep where simulators would compute. Reports carry
PushT's tables, `each` episodes a report; rows go into a run directory and are published. Time is the driver's CPU time,
Ray's threads in it included; making the reports is the workers' and not counted. Then the same pool over raylets
(`benchmarks.raylets`), and the writer alone (`benchmarks.writer`).
"""

import argparse
import gc
import json
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks import raylets, writer
from benchmarks.contest import machine
from benchmarks.crowd import JOB, SLOTS, TASK, CrowdedPool, crowds, made_up
from bet_ray.dispatch import Dispatcher, Finished
from bet_ray.ledger import Ledger
from bet_ray.recorder import Recorder
from bet_ray.session import session
from bet_ray.worker import Lease, Whereabouts

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


def with_actors(workers: int, episodes: int, each: int, run: Path) -> Cost:
    """The pool as it is, through Ray."""
    cost = Cost(f"{ACTORS} real actors", workers, episodes, each)
    with (
        session(ACTORS),
        CrowdedPool(crowds(each, workers, [{}] * ACTORS), workers) as pool,
        recording(cost, run) as record,
    ):
        pool.submit(JOB, range(episodes))
        while not pool.idle:
            with cost.counting("Ray, leases, reports"):
                finished = pool.poll()
            record(finished)
    return cost


def show(costs: Sequence[Cost], console: Console) -> None:
    console.print(f"the driver; {machine()}")
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
    parser.add_argument("--nodes", type=int, nargs="+", default=raylets.NODES, help="raylets beside the head")
    parser.add_argument("--rows", type=int, default=writer.ROWS, help="that the writer takes")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    console = Console(width=140, highlight=False)
    costs = []
    for measure, each in ((in_process, options.each), (in_process, 1), (in_process, 64), (with_actors, options.each)):
        episodes = options.episodes if each >= options.each else options.episodes // 4
        with tempfile.TemporaryDirectory() as folder, console.status(f"{measure.__name__}, {each} a report"):
            costs.append(measure(options.workers, episodes, each, Path(folder)))
        gc.collect()
        pa.default_memory_pool().release_unused()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    show(costs, console)
    loads, moves = raylets.study(options.nodes, options.workers, console=console)
    raylets.show(loads, moves, console)
    rows = writer.study(options.rows, console=console)
    writer.show(rows, console)
    if options.out:
        found = {"costs": costs, "loads": loads, "moves": moves, "rows": rows}
        lists = {name: [asdict(one) for one in ones] for name, ones in found.items()}
        what = {"machine": machine(), "peak_mb": peak} | lists
        options.out.write_text(json.dumps(what, indent=2) + "\n")


if __name__ == "__main__":
    main()
