"""What a sweep left behind, read as it is now: the same way for a finished run and for one under way."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet.config import Split
from bet.data.episodes import DataError, Episodes
from bet.policy import Policy
from bet.protocol import Protocol
from bet.tasks import SimulatedTask
from bet.training import Epoch
from bet_ray.ledger import Ledger
from bet_ray.manifest import MANIFEST, RunError, read_manifest
from bet_ray.sweep import Sweep, parse_sweep
from bet_ray.training import HISTORY_JSON, kept_digest
from bet_ray.trials import Rung, Status, TrialRecord, read_trials
from bet_ray.values import Estimate

SEARCH_ENDED = "trials.parquet"  # written once, when the last trial is over


@dataclass(frozen=True)
class Winner:
    """The best trial so far, or for good once the search is over."""

    trial: TrialRecord
    rung: Rung
    """What it was chosen by."""
    rows: pa.Table
    """Its episodes on `report`, of one numerics, at most as many as the sweep promised to measure."""
    promised: int
    """How many `rows` there will be."""

    @property
    def policies(self) -> list[str]:
        """TRIAL/SEED/EPOCH of each training seed."""
        return self.trial.policies(self.rung)

    @property
    def measured(self) -> bool:
        return self.rows.num_rows == self.promised


class Judged(NamedTuple):
    """A trial with a result, and the rung that counts, which was simulated."""

    trial: TrialRecord
    rung: Rung
    primary: Estimate
    success: Estimate


@dataclass(frozen=True)
class Records:
    """Everything the report is computed from."""

    run: Path
    manifest: Mapping[str, Any]
    sweep: Sweep
    task: SimulatedTask
    protocol: Protocol
    """What judged the settings: the task's own, or a variation of it."""
    trials: Sequence[TrialRecord]
    """Best first, those without a result last."""
    started: int
    """Settings that have begun, also those that have nothing to tell yet."""
    history: Mapping[tuple[str, int], Sequence[Epoch]]
    """(trial, training seed) -> its epochs so far."""
    episodes: pa.Table
    search_over: bool
    winner: Winner | None

    @cached_property
    def demonstrations(self) -> Episodes | None:
        """What the settings learnt from; None where it is no longer to be had, or is not what it was."""
        try:
            episodes = self.task.load(self.sweep.config({}).data)
        except DataError:
            return None
        return episodes if self.manifest.get("dataset_digest") == episodes.digest else None

    def status(self, trial: TrialRecord) -> Status:
        """A trial's, with hindsight: one that was killed never got to write that it is over."""
        return Status.STOPPED if trial.status is Status.RUNNING and self.search_over else trial.status

    def is_winner(self, trial: TrialRecord) -> bool:
        return self.winner is not None and trial.trial == self.winner.trial.trial

    def judged(self) -> list[Judged]:
        """Trials that episodes have judged: where a loss chooses, none before the search is over."""
        best = [(trial, trial.best(self.sweep.objective)) for trial in self.trials]
        return [
            Judged(trial, rung, rung.primary, rung.success)
            for trial, rung in best
            if rung and rung.primary and rung.success
        ]

    def digests(self, trial: TrialRecord, rung: Rung) -> list[str]:
        """Of the policies that a rung was judged by, those that are kept."""
        found = (kept_digest(self.run / "policies" / name) for name in trial.policies(rung))
        return [digest for digest in found if digest is not None]

    def rows_of(self, trial: TrialRecord, rung: Rung) -> pa.Table:
        """The episodes on `tune` that a rung was judged by."""
        count = rung.episodes // len(rung.by_seed)
        return episodes_of(self.episodes, self.protocol, self.digests(trial, rung), Split.TUNE, count)


def read_records(run: Path) -> Records:
    """Raises `RunError` for a directory that is not a sweep's, `PolicyError` when its winner is damaged or gone."""
    manifest = read_manifest(run)
    if manifest.get("kind") != "sweep":
        raise RunError(f"{run}: a report is of a sweep, and this run is of kind {manifest.get('kind')}")
    sweep = parse_sweep(manifest["sweep"], str(run / MANIFEST))
    task = tasks.simulated(sweep.task)
    trials = read_trials(run, sweep.objective)
    protocol = Protocol.model_validate(manifest["protocol"]) if "protocol" in manifest else task.protocol
    episodes = Ledger(run, task).read()
    return Records(
        run=run,
        manifest=manifest,
        sweep=sweep,
        task=task,
        protocol=protocol,
        trials=trials,
        started=sum(1 for path in (run / "policies").glob("*") if path.is_dir()),
        history=dict(_histories(run)),
        episodes=episodes,
        search_over=(run / SEARCH_ENDED).exists(),
        winner=_winner(run, sweep, protocol, trials, episodes),
    )


def episodes_of(table: pa.Table, protocol: Protocol, digests: Sequence[str], split: Split, count: int) -> pa.Table:
    """Episodes 0..count-1 of some policies on a split. Of several numerics, the one with most rows: they never mix.

    Equal policies (with one bin, gamma is idle) have equal digests, and share their rows.
    """
    rows = table.filter(
        pc.field("policy_digest").isin(pa.array(digests, pa.string()))
        & (pc.field("split") == split.value)
        & (pc.field("protocol_digest") == protocol.digest)
        & (pc.field("index") < count)
    )
    kinds = rows.column("numerics").to_pylist()
    most = max(sorted(set(kinds)), key=kinds.count, default=None)
    return rows.filter(pc.field("numerics") == most)


def _winner(
    run: Path, sweep: Sweep, protocol: Protocol, trials: Sequence[TrialRecord], episodes: pa.Table
) -> Winner | None:
    best = trials[0] if trials else None
    rung = best.best(sweep.objective) if best else None
    if best is None or rung is None:
        return None
    names, count = best.policies(rung), sweep.eval.winner_episodes
    digests = [Policy.load(run / "policies" / name).digest for name in names]
    rows = episodes_of(episodes, protocol, digests, Split.REPORT, count)
    return Winner(best, rung, rows, count * len(names))


def _histories(run: Path) -> list[tuple[tuple[str, int], list[Epoch]]]:
    # Not history.parquet: that is written when the search is over, these files as the trainings go.
    files = sorted((run / "policies").glob(f"*/*/{HISTORY_JSON}"))
    return [
        ((file.parts[-3], int(file.parts[-2])), [Epoch(**row) for row in json.loads(file.read_text())])
        for file in files
    ]
