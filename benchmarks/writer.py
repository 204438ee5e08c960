"""What the writer takes: finished episodes into a run directory, up to a million rows. No Ray, no simulator.

`python -m benchmarks.writer [--rows 1000000] [--steps 600000]`

Rows are a sweep's, a thousand for each policy, and come in reports of 64; a part is written for every second of a
driver at its pace through Ray. CPU seconds of one thread and what it calls; reports are made outside of them.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.contest import machine
from benchmarks.crowd import SOURCE, TASK
from bet.rollout import EpisodeResult
from bet.trajectory import Trajectory
from bet_ray.dispatch import Finished
from bet_ray.ledger import Ledger
from bet_ray.recorder import Recorder
from bet_ray.results import EpisodeSource, episodes_table, execution_table, trajectories_table

MB = 2**20
ROWS = 1_000_000
STEPS = 600_000
EACH = 64  # episodes a report
POLICY = 1024  # episodes of each
PART = 4096  # rows in a part: a second of the driver through Ray
LENGTH = 300  # steps of an episode
MARKS = (0.1, 0.3, 1.0)  # shares of the rows at which is told what they took


@dataclass
class Written:
    """What it took to bring a run from one size to the next."""

    rows: int
    """In the run in the end."""
    steps: int = 0
    """The same of trajectories."""
    new: int = 0
    """Rows that were added."""
    files: float = 0.0
    """CPU seconds for parts."""
    publishing: float = 0.0
    """CPU seconds to make published files of parts."""
    pause: float = 0.0
    """Seconds of the longest publishing: the driver does nothing else meanwhile."""
    reading: float = 0.0
    """CPU seconds to find the rows of one policy, as a sweep does for each that it is to measure."""
    stored: float = 0.0
    """MB in the run in the end."""
    memory: float = 0.0
    """MB of this process, at most."""

    @property
    def per_second(self) -> float:
        """Rows, by one core."""
        return self.new / (self.files + self.publishing)


class _Timed(Ledger):
    """A ledger that counts what publishing takes."""

    publishing = 0.0
    pause = 0.0

    def publish(self) -> None:
        began, wall = time.process_time(), time.perf_counter()
        super().publish()
        self.publishing += time.process_time() - began
        self.pause = max(self.pause, time.perf_counter() - wall)


def source(policy: int) -> EpisodeSource:
    """Of the episodes of one policy: digests are as random as real ones."""
    digest = np.random.default_rng(policy).bytes(32).hex()
    return replace(SOURCE, policy_digest=digest)


def episode(random: np.random.Generator, index: int) -> EpisodeResult:
    """One that nobody ran."""
    path = Trajectory(
        random.uniform(0, 512, (LENGTH + 1, 5)).astype(np.float32),
        random.uniform(0, 512, (LENGTH, 2)).astype(np.float32),
        random.uniform(0, 1, LENGTH),
        {name: random.uniform(0, 1, LENGTH) for name in TASK.signals},
        random.integers(0, 64, LENGTH),
    )
    return EpisodeResult.of(TASK, path, index, int(random.integers(2**62)), terminated=False)


def reports(rows: int, *, steps: bool) -> Iterator[Finished]:
    """Reports of so many episodes: one is made, and for each told of other episodes, with numbers of their own."""
    random = np.random.default_rng(0)
    results = [episode(random, index) for index in range(EACH)]
    where = {"node": "0" * 56, "actor": "0" * 32, "attempts": 1, "error": None, "wall_seconds": 1.0}
    execution = execution_table([SOURCE.key | where | {"index": result.index} for result in results])
    episodes = episodes_table(TASK, SOURCE, results)
    centers = random.uniform(0, 512, (64, 2)).astype(np.float32)
    paths = trajectories_table(TASK, SOURCE, results, centers) if steps else None
    for start in range(0, rows, EACH):
        policy, first = divmod(start, POLICY)
        told = partial(_told, digest=source(policy).policy_digest, first=first, random=random)
        yield Finished("", told(episodes), told(execution), None if paths is None else told(paths))


def _told(table: pa.Table, digest: str, first: int, random: np.random.Generator) -> pa.Table:
    """The same table of other episodes; numbers are random ones, which no file makes small."""
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    for name, old in columns.items():
        if name == "policy_digest":
            columns[name] = pa.repeat(digest, len(old))
        elif name == "index":
            columns[name] = pa.array(old.to_numpy() + first)
        elif name == "seed":
            columns[name] = pa.array(random.integers(2**62, size=len(old)))
        elif pa.types.is_floating(old.type):
            columns[name] = pa.array(random.uniform(size=len(old)), old.type, mask=np.asarray(old.is_null()))
        elif pa.types.is_list(old.type):
            values = pa.array(random.uniform(size=len(old.values)), old.type.value_type)
            columns[name] = pa.ListArray.from_arrays(old.offsets, values, mask=old.is_null())
    return pa.table(columns, schema=table.schema)


def extended(ledger: _Timed, arriving: Iterator[Finished], rows: int, new: int) -> Written:
    """Take what arrives until the run has so many rows, and publish."""
    found, spent = Written(rows, new=new), 0.0
    ledger.publishing = ledger.pause = 0.0
    recorder, process, held = Recorder(ledger), psutil.Process(), 0
    for finished in islice(arriving, new // EACH):
        began = time.process_time()
        recorder.add(finished)
        held += len(finished)
        if held >= PART:
            recorder.flush()
            held = 0
            found.memory = max(found.memory, process.memory_info().rss / MB)
        spent += time.process_time() - began
    began = time.process_time()
    with recorder:
        pass
    found.files = spent + time.process_time() - began - ledger.publishing
    found.publishing, found.pause = ledger.publishing, ledger.pause
    found.memory = max(found.memory, process.memory_info().rss / MB)
    began = time.process_time()
    assert len(ledger.of(source(rows // POLICY // 2))) == POLICY
    found.reading = time.process_time() - began
    found.stored = sum(file.stat().st_size for file in ledger.run.rglob("*.parquet")) / MB
    return found


def written(rows: int, marks: Sequence[float], *, steps: bool) -> list[Written]:
    """A run that grows to so many rows, by and by."""
    sizes = [max(round(rows * mark / POLICY), 1) * POLICY for mark in marks]
    arriving, found = reports(sizes[-1], steps=steps), []
    with tempfile.TemporaryDirectory() as folder:
        ledger = _Timed(Path(folder), TASK)
        for before, size in pairwise((0, *sizes)):
            found.append(extended(ledger, arriving, size, size - before))
            found[-1].steps = size * (LENGTH + 1) if steps else 0
    return found


def study(rows: int, steps: int = STEPS, *, console: Console) -> list[Written]:
    """Episodes alone, and then with their trajectories."""
    with console.status(f"{rows:,} rows"):
        alone = written(rows, MARKS, steps=False)
    with console.status(f"{steps:,} steps"):
        return alone + written(steps // LENGTH, (1.0,), steps=True)


def show(found: Sequence[Written], console: Console) -> None:
    console.print(f"the writer; {machine()}")
    table = Table("rows", "steps", "rows/s, one core", "µs/row", "files", "publishing", "longest, s",
                  "a policy's, s", "MB", "MB/s", "memory, MB")  # fmt: skip
    for one in found:
        table.add_row(
            f"{one.rows:,}",
            f"{one.steps:,}" if one.steps else "none",
            f"{one.per_second:,.0f}",
            f"{1e6 / one.per_second:.0f}",
            f"{1e6 * one.files / one.new:.0f}",
            f"{1e6 * one.publishing / one.new:.0f}",
            f"{one.pause:.2f}",
            f"{one.reading:.3f}",
            f"{one.stored:.1f}",
            f"{one.stored / one.rows * one.per_second:.1f}",
            f"{one.memory:,.0f}",
        )
    for column in table.columns:
        column.justify = "right"
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the writer takes.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of trajectories, in a second run")
    options = parser.parse_args()
    console = Console(width=140, highlight=False)
    show(study(options.rows, options.steps, console=console), console)


if __name__ == "__main__":
    main()
