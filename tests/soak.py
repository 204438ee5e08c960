"""A long random campaign of faults: `python -m tests.soak --minutes 10 --seed 0`, or `make soak`.

Rounds of real `bet-ray eval` commands, each into a run directory of its own, meet faults at random moments: processes
are killed, stopped and interrupted, files torn and deleted, drivers doubled. Meanwhile somebody reads. At the end of
each round the last command is left in peace, and then the published tables must be those of an undisturbed one: every
episode once, its row the same to the last bit. Exit code 1 on any difference.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bet import tasks
from bet.config import make_config
from bet.rollout import End
from bet_ray.ledger import PARTS, Ledger
from bet_ray.results import END, KEY
from bet_ray.training import begin, train
from tests.bet.test_rollout import pusht

BET_RAY = [
    sys.executable,
    "-c",
    # A campaign that was put into the background ignores Ctrl-C, and so would its children.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from bet_ray.cli import main; main()",
]
TABLES = ("episodes", "execution", "trajectories")
PATIENCE = 4  # of the commands, with workers that say nothing
FAULTS_PER_ROUND = 15
DRIVERS = 2  # at once, at most
LEAVES = {0, 1, 130, 143, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM, signal.SIGTERM}  # as a command may end


@dataclass(frozen=True)
class Subject:
    """A policy, and what its episodes are where nothing goes wrong."""

    name: str
    policy: Path
    table: pa.Table


@dataclass
class Round:
    """Commands on one run directory, and the faults they meet."""

    subject: Subject
    run: Path
    arguments: list[str]
    dice: random.Random
    log: Path
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    paused: list[psutil.Process] = field(default_factory=list)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            driver = subprocess.Popen(
                [*BET_RAY, *self.arguments, *more], stdout=log, stderr=log, start_new_session=True
            )
        self.drivers.append(driver)
        return driver

    def tidy(self) -> None:
        """Forget drivers that have ended; there is always one while faults last."""
        for driver in [driver for driver in self.drivers if driver.poll() is not None]:
            if driver.returncode not in LEAVES:
                raise AssertionError(f"a command ended with {driver.returncode}: see {self.log}")
            self.drivers.remove(driver)
        if not self.drivers:
            self.start()

    def workers(self) -> list[psutil.Process]:
        found = []
        for driver in self.drivers:
            with suppress(psutil.NoSuchProcess):
                family = psutil.Process(driver.pid).children(recursive=True)
                found += [process for process in family if _name(process).startswith("ray::RolloutWor")]
        return found

    def look(self) -> None:
        """Read as others would: no row twice, none that is wrong."""
        rows = Ledger(self.run, tasks.simulated(self.subject.name)).read()
        rows = rows.filter(pc.field(END) != End.ERROR.value)
        there = pc.field("index").isin(rows.column("index").to_pylist())
        assert rows.equals(self.subject.table.filter(there)), "a reader saw rows that are wrong, or twice"

    def verify(self) -> int:
        """The published tables; returns how many episodes ran more than once."""
        rows = _published(self.run, "episodes")
        assert rows.equals(self.subject.table), "the published rows are not those of an undisturbed run"
        execution = _published(self.run, "execution")
        indices = set(execution.column("index").to_pylist())
        assert len(indices) == execution.num_rows, "an execution row is there twice"
        assert indices <= set(rows.column("index").to_pylist())
        if "--save-trajectories" in self.arguments:
            steps = _published(self.run, "trajectories")
            wanted = sum(rows.column("length").to_pylist()) + rows.num_rows
            assert steps.num_rows == wanted, f"{steps.num_rows} steps are recorded, {wanted} were made"
        assert not list((self.run / "episodes" / PARTS).glob("*.parquet")), "parts are left over"
        return sum(attempts > 1 for attempts in execution.column("attempts").to_pylist())

    # The faults. Each says what it did, or None where there was nothing to do it to.

    def kill_worker(self) -> str | None:
        return self._signal(self.workers(), signal.SIGKILL)

    def stop_worker(self) -> str | None:
        return self._signal(self.workers(), signal.SIGSTOP)

    def pause_worker(self) -> str | None:
        """Stopped, and continued before anybody minds, or after."""
        before = len(self.paused)
        said = self._signal(self.workers(), signal.SIGSTOP, self.paused)
        return said if len(self.paused) > before else None

    def kill_driver(self) -> str | None:
        return self._signal([psutil.Process(driver.pid) for driver in self.drivers], signal.SIGKILL)

    def interrupt_driver(self) -> str | None:
        """Ctrl-C, which reaches the whole process group; once, or in haste."""
        driver = self.dice.choice(self.drivers)
        times = self.dice.choice([1, 1, 2, 3])
        for _ in range(times):
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGINT)
            time.sleep(0.1)
        return f"{times} times"

    def terminate_driver(self) -> str | None:
        return self._signal([psutil.Process(driver.pid) for driver in self.drivers], signal.SIGTERM)

    def suspend_driver(self) -> str | None:
        """Ctrl-Z, and fg after longer than the driver's own patience."""
        driver = self.dice.choice(self.drivers)
        seconds = self.dice.uniform(0.5, 2 * PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.killpg(driver.pid, signal.SIGCONT)
        return f"{seconds:.1f} s"

    def kill_raylet(self) -> str | None:
        """Ray itself dies; the driver then ends without a word to us."""
        found = []
        for driver in self.drivers:
            with suppress(psutil.NoSuchProcess):
                found += [child for child in psutil.Process(driver.pid).children() if _name(child) == "raylet"]
        return self._signal(found, signal.SIGKILL)

    def start_second_driver(self) -> str | None:
        if len(self.drivers) >= DRIVERS:
            return None
        return f"pid {self.start().pid}"

    def tear_part(self) -> str | None:
        return self._tear([file for table in TABLES for file in (self.run / table / PARTS).glob("*.parquet")])

    def tear_published_file(self) -> str | None:
        return self._tear([file for table in TABLES for file in (self.run / table).glob("*.parquet")])

    def delete_unfinished_file(self) -> str | None:
        for file in self.run.glob(f"*/{PARTS}/.*"):
            file.unlink(missing_ok=True)
            return file.name
        return None

    def _signal(
        self, processes: list[psutil.Process], number: signal.Signals, to: list[psutil.Process] | None = None
    ) -> str | None:
        if not processes:
            return None
        victim = self.dice.choice(processes)
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(number)
            if to is not None:
                to.append(victim)
            return f"pid {victim.pid}"
        return None

    def _tear(self, files: list[Path]) -> str | None:
        if not files:
            return None
        file = self.dice.choice(sorted(files))
        with suppress(FileNotFoundError):
            size = file.stat().st_size
            os.truncate(file, self.dice.randrange(size))
            return f"{file.relative_to(self.run)}"
        return None


FAULTS: dict[Callable[[Round], str | None], int] = {
    Round.kill_worker: 10,
    Round.stop_worker: 4,
    Round.pause_worker: 4,
    Round.kill_driver: 2,
    Round.interrupt_driver: 2,
    Round.terminate_driver: 1,
    Round.suspend_driver: 1,
    Round.kill_raylet: 1,
    Round.start_second_driver: 2,
    Round.tear_part: 4,
    Round.tear_published_file: 1,
    Round.delete_unfinished_file: 2,
}
"""And how often each is drawn."""


def play(subject: Subject, run: Path, dice: random.Random, until: float, say: Callable[[str], None]) -> Counter[str]:
    """A round: faults at random moments, then peace; the faults that there were. Raises `AssertionError`."""
    arguments = ["eval", str(subject.policy), "--episodes", str(subject.table.num_rows), "--out", str(run)]
    arguments += ["--actors", str(dice.choice([1, 2])), "--slots", str(dice.choice([4, 8, 32]))]
    arguments += ["--patience", str(PATIENCE), *(["--save-trajectories"] if dice.random() < 0.4 else [])]
    one = Round(subject, run, arguments, dice, run.with_suffix(".log"))
    say(f"{run.name}: bet-ray {' '.join(arguments)}")
    happened: Counter[str] = Counter()
    one.start()
    wanted = FAULTS_PER_ROUND
    while wanted and time.monotonic() < until:
        time.sleep(dice.expovariate(1 / 3))
        one.tidy()
        for process in one.paused if dice.random() < 0.5 else []:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        if not one.workers() and dice.random() < 0.9:
            continue  # most faults are to meet work
        fault = dice.choices(list(FAULTS), list(FAULTS.values()))[0]
        try:
            what = fault(one)
        except psutil.NoSuchProcess:
            what = None
        if what:
            wanted -= 1
            happened[fault.__name__.replace("_", " ")] += 1
            say(f"{run.name}: {fault.__name__.replace('_', ' ')}: {what}")
        if run.exists():
            one.look()
    for process in one.paused:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    blamed = _in_peace(one)
    again = one.verify()
    say(f"{run.name}: {subject.table.num_rows} rows the same; {again} of them ran again, {blamed} were blamed")
    happened["episodes"] += subject.table.num_rows
    happened["ran again after a worker was lost"] += again
    happened["blamed for a fault, then good"] += blamed
    return happened


def _in_peace(one: Round) -> int:
    """Let the drivers end, and another complete what they left; returns how many episodes were blamed for a fault."""
    for driver in one.drivers:
        driver.wait(timeout=600)
    with suppress(AssertionError):  # one that met a fault in its last moment
        one.tidy()
    one.drivers[-1].wait(timeout=600)
    rows = Ledger(one.run, tasks.simulated(one.subject.name)).read()
    blamed = rows.filter(pc.field(END) == End.ERROR.value).num_rows
    last = one.start("--retry-errors")
    assert last.wait(timeout=600) == 0, f"undisturbed, the command ended with {last.returncode}: see {one.log}"
    return blamed


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _published(run: Path, table: str) -> pa.Table:
    """What a reader finds who knows nothing of parts."""
    found = pa.concat_tables([pq.read_table(file) for file in (run / table).glob("*.parquet")])
    return found.sort_by([(name, "ascending") for name in KEY])


def _subjects(folder: Path, episodes: int) -> list[Subject]:
    """A trained policy of the point mass, and one with random weights for PushT, whose simulator has contacts."""
    config = make_config("pointmass2", {"train.epochs": 1, "train.lr": 3e-3, "train.batch_size": 256})
    demonstrations = tasks.get("pointmass2").load(config.data)
    begin(folder / "pointmass2", config, demonstrations, resume=False)
    train(folder / "pointmass2", config, demonstrations)
    pusht().save(folder / "pusht")
    subjects = []
    for name, count in (("pointmass2", episodes), ("pusht", max(episodes // 25, 1))):
        arguments = ["eval", str(folder / name), "--episodes", str(count), "--out", str(folder / f"{name}-undisturbed")]
        subprocess.run([*BET_RAY, *arguments], check=True, stdout=subprocess.DEVNULL)
        subjects.append(Subject(name, folder / name, _published(folder / f"{name}-undisturbed", "episodes")))
    return subjects


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A long random campaign of faults.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=10_000, help="of the point mass; of PushT a 25th")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of files that are set aside: we tore them
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    os.environ["RAY_TMPDIR"] = str(folder / "ray")  # what killed sessions leave goes with the rest
    dice, totals, rounds = random.Random(options.seed), Counter[str](), 0

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    subjects = _subjects(folder, options.episodes)
    until = began + 60 * options.minutes
    try:
        while time.monotonic() < until:
            rounds += 1
            totals += play(dice.choice(subjects), folder / f"round-{rounds}", dice, until, say)
    except AssertionError as error:
        print(f"DIFFERENT in round {rounds}, seed {options.seed}: {error}; everything is kept in {folder}")
        sys.exit(1)
    width = max(map(len, totals))
    for name, count in sorted(totals.items()):
        print(f"  {name:<{width}}  {count:,}")
    print(f"SAME: {rounds} rounds, seed {options.seed}, {(time.monotonic() - began) / 60:.1f} minutes")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
