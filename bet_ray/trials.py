"""What is known of a sweep's trials: `policies/TRIAL/trial.json` as they go, `trials.parquet` of all in the end."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from bet.config import Frozen, canonical_json
from bet.wording import counted
from bet_ray.manifest import RunError, write_text
from bet_ray.results import trials_schema, write_table
from bet_ray.storage import pull
from bet_ray.sweep import Objective, Sweep
from bet_ray.training import write_history
from bet_ray.values import Estimate

TRIAL_JSON = "trial.json"


class Rung(Frozen):
    """A setting judged after some epochs, over its training seeds: by episodes, or so far by its loss alone."""

    epoch: int
    objective: float
    primary: Estimate | None = None
    """On `tune`; None before it is simulated."""
    success: Estimate | None = None
    episodes: int = 0
    val_loss: float
    by_seed: dict[int, tuple[float, float] | None]
    """Training seed -> its policy's primary and success rate."""


class Raced(Frozen):
    """What the race after the search says of a setting, on episodes that the search has not seen."""

    episodes: int
    primary: Estimate
    """Its interval is right whenever one stops."""
    beaten_by: str | None = None
    """The trial that is better beyond doubt; None of those left."""


class Measured(Frozen):
    """What `report` says of a finalist."""

    primary: Estimate
    success: Estimate
    episodes: int
    confidence: float
    """Of each interval, so that those of all finalists hold at once with 95%."""


class Status(StrEnum):
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """By the scheduler, at a rung."""
    ERROR = "error"


class TrialRecord(Frozen):
    """What is known of a trial; kept as `policies/TRIAL/trial.json`."""

    trial: str
    setting: dict[str, Any]
    status: Status
    rungs: list[Rung]
    train_seconds: float
    """Spent on its training, over all seeds; without what was lost to a crash."""
    act_seconds: float | None = None
    """Its policy takes for a batch of the protocol's observations on one core."""
    began: datetime | None = None
    ended: datetime | None = None
    failures: int = 0
    """How often it has failed."""
    error: str | None = None
    """Of the last failure."""
    tied: bool | None = None
    """Whether it is not known to be worse than the winner; None before the search is over."""
    race: Raced | None = None
    report: Measured | None = None

    @property
    def fault(self) -> str | None:
        """Why it failed; None where it went on after its failures."""
        return self.error if self.status is Status.ERROR else None

    @property
    def beaten(self) -> bool:
        """Whether it left the race to a better one."""
        return self.race is not None and self.race.beaten_by is not None

    def best(self, objective: Objective) -> Rung | None:
        """The rung that counts."""
        sign = 1 if objective.mode == "max" else -1
        return max(self.rungs, key=lambda rung: sign * rung.objective, default=None)

    def policies(self, rung: Rung) -> list[str]:
        """TRIAL/SEED/EPOCH of its policies at a rung, one for each training seed."""
        return [f"{self.trial}/{seed}/{rung.epoch}" for seed in rung.by_seed]


def write_record(run: Path, record: TrialRecord) -> None:
    write_text(run / "policies" / record.trial / TRIAL_JSON, record.model_dump_json(indent=2))


def read_record(run: Path, trial: str) -> TrialRecord | None:
    """None where the trial has not begun. Raises `RunError` for a damaged record."""
    path = run / "policies" / trial / TRIAL_JSON
    pull(path)  # it may run on another node
    return _read(path) if path.exists() else None


def _read(path: Path) -> TrialRecord:
    try:
        return TrialRecord.model_validate_json(path.read_text())
    except ValidationError as error:
        raise RunError(f"{path}: damaged; remove it, and --resume judges the trial anew from what it left") from error


def read_trials(run: Path, objective: Objective) -> list[TrialRecord]:
    """All trials of a run, best first, those without a result last. Raises `RunError` for a damaged record.

    Where they raced, those left come first, then those that stayed in longest.
    """
    records = [_read(path) for path in (run / "policies").glob(f"*/{TRIAL_JSON}")]
    sign = -1 if objective.mode == "max" else 1

    def rank(record: TrialRecord) -> tuple[bool, bool, int, float, float, str]:
        best, raced = record.best(objective), record.race
        score = sign * best.objective if best else 0.0
        stayed = raced.episodes if raced else 0
        ahead = -raced.primary.value if raced else 0.0
        # Of equals by what they set: a trial's name also depends on where its demonstrations lie.
        return best is None, record.beaten, -stayed, ahead, score, canonical_json(record.setting)

    return sorted(records, key=rank)


@dataclass(frozen=True)
class Rivals:
    """How sure the choice of the winner is."""

    tied: int
    """Other settings that are not known to be worse."""
    others: int
    """Other settings with a result."""

    def __str__(self) -> str:
        some = f"{self.tied:,}" if self.tied else "none"
        are = "are" if self.tied > 1 else "is"
        return f"{some} of {counted(self.others, 'other setting')} {are} tied with the winner: not known to be worse"


def rivals(trials: Sequence[TrialRecord]) -> Rivals | None:
    """The winner, first of the trials, beside the others; None before the search is over."""
    others = [trial for trial in trials if trial.tied is not None][1:]
    return Rivals(sum(bool(trial.tied) for trial in others), len(others)) if trials and trials[0].tied else None


def write_trials(run: Path, sweep: Sweep, trials: list[TrialRecord]) -> None:
    """Write `trials.parquet` and `history.parquet`."""
    rows = []
    for trial in trials:
        rung = trial.best(sweep.objective)
        row = trial.model_dump(exclude={"setting", "rungs", "race", "report"}) | {"seeds": sweep.seeds_per_trial}
        row |= {key: json.dumps(value) for key, value in trial.setting.items()}
        if rung is not None:
            row |= {"epoch": rung.epoch, "episodes": rung.episodes, "objective": rung.objective}
            row["val_loss"] = rung.val_loss
            if rung.primary and rung.success:
                row |= dict(zip(("primary", "primary_low", "primary_high"), rung.primary, strict=True))
                row |= dict(zip(("success_rate", "success_low", "success_high"), rung.success, strict=True))
        if trial.race is not None:
            row |= dict(zip(("race_primary", "race_low", "race_high"), trial.race.primary, strict=True))
            row |= {"race_episodes": trial.race.episodes, "beaten_by": trial.race.beaten_by}
        if trial.report is not None:
            row |= dict(zip(("report_primary", "report_low", "report_high"), trial.report.primary, strict=True))
            row |= {"report_episodes": trial.report.episodes, "report_confidence": trial.report.confidence}
        rows.append(row)
    write_table(pa.Table.from_pylist(rows, schema=trials_schema(sweep.searched)), run / "trials.parquet")
    rungs = {
        (trial.trial, seed, rung.epoch): scores
        for trial in trials
        for rung in trial.rungs
        for seed, scores in rung.by_seed.items()
        if scores
    }
    write_history(run, rungs)
