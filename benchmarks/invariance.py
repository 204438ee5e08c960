"""The same rows whatever happens: at length, and through the command line.

`python -m benchmarks.invariance [--run RUN] [--episodes 500] [--kills 20] [--seed 0]`

PushT episodes of one policy (a made-up one unless RUN is given) under 2 actors x 8 slots, 2 x 64, in one slot, and
under 2 x 32 while workers are killed with kill -9 at random moments, and the driver once, whose command is then
repeated. What the runs published is compared to the last bit. Exit code 1 where it differs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.contest import machine
from benchmarks.evaluation import pushing_policy

WORKER = "ray::RolloutWor"  # how Ray names its process
PAUSE = (0.3, 2.0)  # seconds between two kills


@dataclass(frozen=True)
class Way:
    """One way to run the episodes."""

    name: str
    actors: int
    slots: int
    episodes: int
    kills: int = 0
    driver_kills: int = 0


@dataclass
class Outcome:
    """What came of it."""

    way: Way
    rows: pa.Table
    killed: int = 0
    drivers_killed: int = 0
    retried: int = 0
    """Episodes that took more than one worker."""
    seconds: float = 0.0


def command(policy: Path, way: Way, out: Path) -> list[str]:
    arguments = ["eval", policy, "--episodes", way.episodes, "--actors", way.actors, "--slots", way.slots, "--out", out]
    return [sys.executable, "-c", "from bet_ray.cli import main; main()", *map(str, arguments)]


def run(policy: Path, way: Way, out: Path, chance: random.Random) -> Outcome:
    """Evaluate, with the faults of the way."""
    found, began = Outcome(way, pa.table({})), time.monotonic()
    while True:
        driver = subprocess.Popen(command(policy, way, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while driver.poll() is None and found.killed < way.kills:
            time.sleep(chance.uniform(*PAUSE))
            if found.drivers_killed < way.driver_kills and found.killed >= way.kills // 2:
                driver.kill()
                found.drivers_killed += 1
                break
            found.killed += kill_a_worker(driver, chance)
        if driver.wait() == 0:
            break
        assert found.drivers_killed, "the evaluation failed, and nobody killed it"
    assert (found.killed, found.drivers_killed) == (way.kills, way.driver_kills), (
        "it ended before all kills: fewer, please"
    )
    files = sorted((out / "episodes").glob("*.parquet"))
    found.rows = pa.concat_tables([pq.read_table(file) for file in files]).sort_by("index")
    attempts = pq.read_table(out / "execution").column("attempts").to_pylist()
    found.retried = sum(count > 1 for count in attempts)
    found.seconds = time.monotonic() - began
    return found


def kill_a_worker(driver: subprocess.Popen[bytes], chance: random.Random) -> int:
    """kill -9 of one rollout worker, if there is any; how many."""
    victims = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                victims += [process] * process.name().startswith(WORKER)
    if not victims:
        return 0
    with suppress(psutil.NoSuchProcess):
        chance.choice(victims).kill()
        return 1
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description="The same rows whatever happens.")
    parser.add_argument("--run", type=Path, help="a PushT run or policy directory (default: a made-up policy)")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console, chance, n = Console(width=110, highlight=False), random.Random(options.seed), options.episodes
    ways = [
        Way("2 actors x 8 slots", 2, 8, n),
        Way("2 actors x 64 slots", 2, 64, n),
        Way(f"2 x 32, {options.kills} kill -9 of workers, 1 of the driver", 2, 32, n, options.kills, 1),
        Way("1 actor x 1 slot", 1, 1, n // 10),
    ]
    console.print(f"pusht · {machine()}; {options.run or 'made-up policy'}")
    table = Table("", "episodes", "published", "twice", "kills", "retried", "s", "rows")
    rows: list[pa.Table] = []
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        policy = options.run or Path(folder) / "policy"
        if not options.run:
            pushing_policy().save(policy)
        for number, way in enumerate(ways):
            with console.status(way.name):
                found = run(policy, way, Path(folder) / str(number), chance)
            rows.append(found.rows)
            indices = found.rows.column("index").to_pylist()
            same = found.rows.equals(rows[0].slice(0, way.episodes)) and indices == list(range(way.episodes))
            wrong |= not same
            table.add_row(
                way.name,
                str(way.episodes),
                str(len(indices)),
                str(len(indices) - len(set(indices))),
                str(found.killed + found.drivers_killed),
                str(found.retried),
                f"{found.seconds:.0f}",
                "the first" if number == 0 else "identical" if same else "[red]DIFFERENT[/]",
            )
    console.print(table)
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
