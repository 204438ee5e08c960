"""Evaluate one policy on the pool, into the ledger."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet.config import ConfigError, Split, changed
from bet.errors import UsageError
from bet.measure import Measurement, measure
from bet.policy import BEST, POLICY_JSON, Policy
from bet.protocol import Recipe
from bet.tasks import SimulatedTask
from bet_ray.ledger import Ledger
from bet_ray.manifest import RunError, read_manifest
from bet_ray.pool import Finished, Job, Pool
from bet_ray.results import unique_rows
from bet_ray.session import session
from bet_ray.tracking import track_evaluation

FLUSH_SECONDS = 1.0  # finished episodes reach the disk at least this often

Progress = Callable[[int, int, int], None]
"""Called with episodes done, episodes in all, and how many of them were already in the ledger."""


class MixedNumericsError(UsageError):
    """Rows of different numerics would share a table."""


NO_CHANGES: Mapping[str, Any] = MappingProxyType({})


def load_policy(path: Path) -> Policy:
    """As `Policy.load`; besides raises `RunError` for a sweep that has no winner yet, or episodes alone."""
    policies = path / "policies"
    if policies.is_dir() and not (policies / BEST).exists() and read_manifest(path).get("kind") == "sweep":
        kept = next(iter(sorted(policies.glob(f"*/*/*/{POLICY_JSON}"))), policies / "TRIAL/SEED/EPOCH" / POLICY_JSON)
        raise RunError(
            f"{path}: the sweep is not finished, it has no winner yet; finish it with `bet-ray sweep FILE --out {path} "
            f"--resume`, or take one of its policies: {kept.parent}"
        )
    if (path / "episodes").is_dir() and not policies.is_dir() and not (path / POLICY_JSON).exists():
        raise RunError(f"{path}: holds episodes and no policy; name the run that the policy was trained in")
    return Policy.load(path)


def recipe_of(policy: Policy, settings: Mapping[str, Any] = NO_CHANGES) -> Recipe:
    """How a policy is evaluated: the settings it was trained with, and dotted ones over them.

    Raises `ConfigError` for a setting that is not of the evaluation, or out of range.
    """
    for key in settings:
        if not key.startswith(("eval.", "track.")) and key != "data.path":
            raise ConfigError(
                f"{key}: the policy is trained; an evaluation takes settings of eval. and track. (and data.path)"
            )
    config = changed(policy.config, settings)
    return tasks.simulated(config.task).recipe(config.eval, config.data)


def evaluate(
    path: str | Path,
    *,
    episodes: int = 100,
    actors: int | None = None,
    slots: int = 32,
    out: str | Path | None = None,
    split: Split | str = Split.REPORT,
    settings: Mapping[str, Any] = NO_CHANGES,
    trajectories: bool = False,
    allow_mixed_numerics: bool = False,
    progress: Progress | None = None,
) -> pa.Table:
    """Roll out episodes 0..episodes-1 of a policy and return their rows, as in `episodes/*.parquet`, by index.

    `path` is a run or policy directory. With `out`, a run directory, finished episodes are recorded as they come and
    those already there are not run again. `settings` are dotted `eval.*` and `track.*` settings over those the policy
    was trained with; trackers write below `out`, else below the policy's run. Raises `PolicyError`, `RunError`,
    `ConfigError`, `PoolError`, `MixedNumericsError`.
    """
    policy = load_policy(Path(path))
    task = tasks.simulated(policy.config.task)
    recipe = recipe_of(policy, settings)
    job = Job.of(policy, recipe, Split(split), keep_trajectories=trajectories)
    ledger = None if out is None else Ledger(Path(out), task)
    recorded = None if ledger is None else ledger.of(job.source)
    if ledger is not None and not allow_mixed_numerics:
        check_numerics(ledger, job)
    known = set() if recorded is None else set(recorded.column("index").to_pylist())
    missing = [index for index in range(episodes) if index not in known]
    before = episodes - len(missing)
    if progress:
        progress(before, episodes, before)
    collected = [] if recorded is None else [recorded]
    if missing:
        with session(actors) as cpus, Pool(actors or cpus, slots) as pool:
            pool.submit(job, missing)
            booked = Recorder(ledger)
            try:
                while not pool.idle:
                    for finished in pool.poll():
                        booked.add(finished)
                        collected.append(finished.episodes)
                    booked.flush_if_due()
                    if progress:
                        progress(before + booked.total, episodes, before)
            finally:  # also after Ctrl-C: what finished is in the published table
                booked.flush()
                if ledger is not None:
                    ledger.compact()
    table = unique_rows(pa.concat_tables(collected)).filter(pc.field("index") < episodes)
    track = changed(policy.config, settings).track
    if track.on:
        run = Path(out) if out is not None else run_of(Path(path))
        track_evaluation(track, run, policy, recipe, job.split, table, measurement(task, table))
    return table


def measurement(task: SimulatedTask, table: pa.Table) -> Measurement:
    """Measure rows of `episodes_schema`."""
    routes = table.column("route").to_pylist() if task.modes else None
    return measure(
        task,
        table.column("primary").to_numpy(),
        table.column("success").to_numpy(zero_copy_only=False),
        routes,
        table.column("train_seed").to_numpy(),
    )


def run_of(path: Path) -> Path:
    """The run directory that a run or policy directory belongs to; a policy outside any run is its own."""
    for parent in path.resolve().parents:
        if parent.name == "policies":
            return parent.parent
    return path


def check_numerics(ledger: Ledger, job: Job) -> None:
    """Raises `MixedNumericsError` if this policy was evaluated here under other numerics."""
    table = ledger.read()
    same = (pc.field("policy_digest") == job.source.policy_digest) & (
        pc.field("protocol_digest") == job.source.protocol_digest
    )
    others = set(table.filter(same).column("numerics").to_pylist()) - {job.source.numerics}
    if others:
        raise MixedNumericsError(
            f"{ledger.run}: holds episodes of this policy made with {sorted(others)[0]!r}, this machine has "
            f"{job.source.numerics!r}; use another --out, or --allow-mixed-numerics"
        )


class Recorder:
    """Collects finished episodes and writes them to a ledger about once a second."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._held: list[Finished] = []
        self._written = time.monotonic()
        self.total = 0

    def add(self, finished: Finished) -> None:
        self.total += len(finished)
        if self._ledger is not None:
            self._held.append(finished)

    def flush_if_due(self) -> None:
        """To be called often: puts on disk what has been held for a second."""
        if time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put everything held on disk."""
        if self._held and self._ledger is not None:
            kept = [f.trajectories for f in self._held if f.trajectories is not None]
            self._ledger.append(
                pa.concat_tables([f.episodes for f in self._held]),
                pa.concat_tables([f.execution for f in self._held]),
                pa.concat_tables(kept) if kept else None,
            )
        self._held = []
        self._written = time.monotonic()
