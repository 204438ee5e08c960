"""How far a run is, by what lies in its directory: also of a run on another machine, or of one that died. Only reads.

On the machine that it ran on, whether its process lives; elsewhere, when something was last written.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet.config import Config
from bet.measure import Measurement
from bet.rollout import End
from bet.tasks import SimulatedTask
from bet_ray.driver import lives
from bet_ray.evaluation import measurement
from bet_ray.ledger import Ledger
from bet_ray.manifest import DRIVER, LOCK, MANIFEST, SWEEP_LOCK, UNDER_WAY, read_manifest
from bet_ray.results import END, ERROR, KEY
from bet_ray.selection import RaceRecord, read_race
from bet_ray.sweep import Sweep, parse_sweep
from bet_ray.training import HISTORY_JSON
from bet_ray.trials import Rung, Status, TrialRecord, read_trials

_GROUP = tuple(name for name in KEY if name != "index")


@dataclass(frozen=True)
class Training:
    """Of one policy."""

    name: str
    """TRIAL/SEED."""
    epochs: int
    """Finished ones, as far as the last checkpoint tells."""
    of_epochs: int
    val_loss: float | None
    """The best so far."""

    @classmethod
    def of(cls, file: Path, epochs: int) -> "Training":
        """By the history that it keeps."""
        rows = json.loads(file.read_text())
        return cls("/".join(file.parts[-3:-1]), len(rows), epochs, min((row["val_loss"] for row in rows), default=None))


@dataclass(frozen=True)
class Rollouts:
    """The episodes of one policy, protocol and split."""

    policy_digest: str
    split: str
    done: int
    asked: int | None
    """None where all that was asked for is there."""
    errors: int
    found: Measurement | None
    """Of those that are done."""
    remaining: float | None
    """Seconds, at the rate so far."""


@dataclass(frozen=True)
class Search:
    """The trials of a sweep."""

    counts: Mapping[Status, int]
    of: int
    """Settings to try."""
    best: TrialRecord | None
    rung: Rung | None
    """Of the best, the one that counts."""
    race: RaceRecord | None
    over: bool
    """The winner is measured."""
    remaining: float | None
    """Seconds of the search, at the rate so far."""


@dataclass(frozen=True)
class RunStatus:
    """What a run directory tells at one moment."""

    run: Path
    kind: str
    task: str
    written: datetime
    """When something last was."""
    trainings: list[Training]
    search: Search | None
    episodes: int
    """In all."""
    rollouts: list[Rollouts]
    """Of a sweep only those under way: its trials tell of the others."""
    errors: list[str]
    """Distinct ones, the most frequent first."""
    made: bool
    """All that was to be trained or searched is."""
    running: int | None
    """The process id of what drives it, seen alive."""
    ended: bool
    """What drove it is seen to live no more."""

    @property
    def finished(self) -> bool:
        """Nothing that was asked for is missing."""
        return self.made and all(one.asked is None for one in self.rollouts)


def status(run: Path) -> RunStatus:
    """Raises `RunError` for a directory that is not a run."""
    manifest = read_manifest(run)
    task, written = tasks.get(manifest["task"]), _last_write(run)
    sweep = parse_sweep(manifest["sweep"], str(run / MANIFEST)) if "sweep" in manifest else None
    trials = [] if sweep is None else read_trials(run, sweep.objective)
    reasons = Counter(trial.fault for trial in trials if trial.fault)
    episodes, rollouts, under_way = 0, [], manifest.get(UNDER_WAY, [])
    if isinstance(task, SimulatedTask):
        ledger = Ledger(run, task, watched=True)
        rows = ledger.read()
        episodes = rows.num_rows
        rollouts = list(_rollouts(task, rows, under_way, written, every=sweep is None))
        reasons.update(reason for reason in ledger.execution.read().column(ERROR).to_pylist() if reason)
    trainings = list(_trainings(run, manifest) if sweep is None else _trainings_of(run, sweep, trials))
    search = None if sweep is None else _search(run, sweep, trials)
    made = all(one.epochs >= one.of_epochs for one in trainings) if search is None else search.over
    drivers = [one[DRIVER] for one in (*([] if made else [manifest]), *under_way) if DRIVER in one]
    alive = [lives(driver) for driver in drivers]
    return RunStatus(
        run,
        manifest.get("kind", "eval"),
        task.name,
        written,
        trainings,
        search,
        episodes,
        rollouts,
        [reason for reason, _ in reasons.most_common()],
        made,
        next((driver["pid"] for driver, lives_ in zip(drivers, alive, strict=True) if lives_), None),
        set(alive) == {False},
    )


def _last_write(run: Path) -> datetime:
    """Of any file but locks, which those touch, too, who wait."""
    newest = 0.0
    for path in run.rglob("*"):
        try:
            if path.name not in (LOCK, SWEEP_LOCK):
                newest = max(newest, path.stat().st_mtime)
        except FileNotFoundError:  # published meanwhile
            continue
    return datetime.fromtimestamp(newest, UTC)


def _trainings(run: Path, manifest: Mapping[str, Any]) -> Iterator[Training]:
    """Of a run that is no sweep."""
    if "config" not in manifest:
        return
    epochs = Config.model_validate(manifest["config"]).train.epochs
    files = sorted((run / "policies").glob(f"*/*/{HISTORY_JSON}"))
    yield from (Training.of(file, epochs) for file in files)
    if not files:
        yield Training("", 0, epochs, None)


def _trainings_of(run: Path, sweep: Sweep, trials: list[TrialRecord]) -> Iterator[Training]:
    """Those under way in a sweep."""
    known = {trial.trial: trial for trial in trials}
    for file in sorted((run / "policies").glob(f"*/*/{HISTORY_JSON}")):
        trial = known.get(file.parts[-3])
        if trial is None or trial.status is Status.RUNNING:
            yield Training.of(file, sweep.config(trial.setting if trial else {}).train.epochs)


def _search(run: Path, sweep: Sweep, trials: list[TrialRecord]) -> Search:
    counts = Counter(trial.status for trial in trials)
    done = sum(count for state, count in counts.items() if state is not Status.RUNNING)
    spans = [(trial.began, trial.ended) for trial in trials if trial.began and trial.ended]
    remaining = None
    if spans and done < sweep.trial_count:
        took = max(ended for _, ended in spans) - min(began for began, _ in spans)
        remaining = took.total_seconds() / len(spans) * (sweep.trial_count - done)
    best = trials[0] if trials and trials[0].rungs else None
    over = (run / "trials.parquet").exists() and best is not None and best.report is not None
    rung = best.best(sweep.objective) if best else None
    return Search(counts, sweep.trial_count, best, rung, read_race(run), over, remaining)


def _rollouts(
    task: SimulatedTask, rows: pa.Table, under_way: Sequence[Mapping[str, Any]], written: datetime, *, every: bool
) -> Iterator[Rollouts]:
    """Of those evaluations that are under way, or of every one."""
    asked = {tuple(entry[name] for name in _GROUP): entry for entry in under_way}
    there = rows.group_by(list(_GROUP)).aggregate([]).to_pylist() if every else []
    for key in dict.fromkeys([*asked, *(tuple(group[name] for name in _GROUP) for group in there)]):
        source, entry = dict(zip(_GROUP, key, strict=True)), asked.get(key)
        mine = rows.filter(reduce(and_, (pc.field(name) == value for name, value in source.items())))
        yield Rollouts(
            source["policy_digest"],
            source["split"],
            mine.num_rows,
            entry["episodes"] if entry else None,
            mine.column(END).to_pylist().count(End.ERROR.value),
            measurement(task, mine) if mine.num_rows else None,
            _remaining(entry, mine.num_rows, written) if entry else None,
        )


def _remaining(entry: Mapping[str, Any], done: int, written: datetime) -> float | None:
    """Seconds that the missing episodes take at the rate of those that ran."""
    left = max(entry["episodes"] - done, 0)
    ran = entry["missing"] - left
    spent = (written - datetime.fromisoformat(entry["began"])).total_seconds()
    return spent / ran * left if ran > 0 and spent > 0 else None
