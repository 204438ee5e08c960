"""Evaluate policies on one pool, into ledgers."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet.config import ConfigError, Split, changed
from bet.errors import FailedRunError
from bet.measure import Measurement, judged_by, measure
from bet.policy import BEST, POLICY_JSON, Policy
from bet.protocol import Recipe
from bet.rollout import End
from bet.tasks import SimulatedTask
from bet.wording import counted, duration
from bet_ray.driver import this_process
from bet_ray.inference import Inference
from bet_ray.ledger import Ledger, MixedNumericsError
from bet_ray.manifest import DRIVER, EVALUATIONS, UNDER_WAY, RunError, amend_manifest, read_manifest
from bet_ray.pool import PATIENCE, Pool, rollout_cpus
from bet_ray.recorder import Recorder
from bet_ray.results import END, episodes_schema, unique_rows
from bet_ray.session import session
from bet_ray.storage import local
from bet_ray.tracking import track_evaluation
from bet_ray.worker import Job, Usage

log = logging.getLogger(__name__)

Progress = Callable[[int, int, int], None]
"""Called with episodes done, episodes in all, and how many of them were already in the ledger."""


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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One policy under one recipe, and where its episodes go."""

    path: Path
    policy: Policy
    recipe: Recipe
    job: Job
    ledger: Ledger | None

    @classmethod
    def of(
        cls,
        path: Path,
        out: Path | None,
        split: Split | None = None,
        settings: Mapping[str, Any] = NO_CHANGES,
        *,
        trajectories: bool = False,
        allow_mixed_numerics: bool = False,
        inference: Inference | None = None,
    ) -> "Evaluation":
        """Reads the policy and checks everything; runs nothing. Without a split it is that of the settings.

        Raises `PolicyError`, `RunError`, `ConfigError`, `MixedNumericsError`.
        """
        policy = load_policy(path)
        recipe = recipe_of(policy, settings)
        split = split or changed(policy.config, settings).eval.split
        job = Job.of(policy, recipe, split, keep_trajectories=trajectories, inference=inference)
        ledger = None if out is None else Ledger(out, tasks.simulated(policy.config.task))
        if ledger is not None and not allow_mixed_numerics:
            check_numerics(ledger, job)
        return cls(path, policy, recipe, job, ledger)

    @property
    def task(self) -> SimulatedTask:
        return tasks.simulated(self.policy.config.task)

    @property
    def run(self) -> Path:
        """The run directory that keeps its episodes, or would."""
        return run_of(self.path) if self.ledger is None else self.ledger.run

    def recorded(self) -> pa.Table:
        """Its episodes that are recorded, by index."""
        return episodes_schema(self.task).empty_table() if self.ledger is None else self.ledger.of(self.job.source)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal policies have equal episodes, and share them."""
        return (self.ledger and self.ledger.run.resolve(), *self.job.source.key.values())

    def missing(self, episodes: int, *, retry_errors: bool = False) -> list[int]:
        """Which of the episodes 0..episodes-1 are not recorded, or not with their steps where those are asked for."""
        recorded = self.recorded()
        errors = recorded.column(END).to_numpy() == End.ERROR.value
        indices = recorded.column("index").to_numpy()
        known = set(indices[~errors].tolist())
        if self.ledger is not None and self.job.keep_trajectories:
            begun = self.ledger.trajectories.read(self.job.source.rows & (pc.field("step") == 0))
            known &= set(begun.column("index").to_pylist())
        if not retry_errors:
            known |= set(indices[errors].tolist())
        return [index for index in range(episodes) if index not in known]


@dataclass(frozen=True)
class PoolShape:
    """How many workers a pool has, and how long it waits for them."""

    actors: int | None = None
    """None: one for each CPU."""
    slots: int = 32
    patience: float = PATIENCE
    """Seconds after which a worker that says nothing is taken for hung."""


USUAL = PoolShape()


@dataclass(frozen=True)
class Evaluated:
    """What evaluations came to."""

    tables: list[pa.Table]
    """Rows of each, by index."""
    ran: int
    """Episodes that were run now."""
    seconds: float
    """That they took, from when the first worker was ready."""
    started: float
    """Seconds before that, which Ray took."""
    usage: Usage


class LazyPool:
    """A pool that starts when the first episode is to be run: Ray takes seconds, and what is recorded needs none.

    Use as a context manager.
    """

    def __init__(self, shape: PoolShape) -> None:
        self.shape = shape
        self._stack = ExitStack()
        self._pool: Pool | None = None

    def __enter__(self) -> "LazyPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> Pool:
        """Start Ray and the pool, or go on with it. Raises what Ray raises."""
        if self._pool is None:
            self._stack.enter_context(session(self.shape.actors))
            actors = self.shape.actors or rollout_cpus() or 1
            self.shape = replace(self.shape, actors=actors)
            pool = Pool(actors, self.shape.slots, patience=self.shape.patience)
            self._pool = self._stack.enter_context(pool)
        return self._pool


def evaluate_all(
    evaluations: Sequence[Evaluation],
    episodes: int,
    lazy: LazyPool,
    *,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> Evaluated:
    """Roll out episodes 0..episodes-1 of each on one pool; the tail of one is filled by the next.

    Recorded episodes are not run again, but for those that ended in an error where that is asked for. Raises
    `PoolError` and `FailedRunError`; what finished by then is kept.
    """
    distinct = {one.identity: one for one in evaluations}
    missing = {key: one.missing(episodes, retry_errors=retry_errors) for key, one in distinct.items()}
    collected = {key: [episodes_schema(one.task).empty_table()] for key, one in distinct.items()}
    ledgers = _ledgers(evaluations)
    ran, total = 0, episodes * len(distinct)
    before = total - sum(map(len, missing.values()))
    began = ready = time.monotonic()
    usage = Usage()
    if before < total:
        for ledger in ledgers.values():
            ledger.check_writable()
    if progress:
        progress(before, total, before)
    if before < total:
        for key, one in distinct.items():
            if one.ledger is not None and missing[key]:
                _announce(one, episodes, len(missing[key]))
        asked = {"runs": list(map(str, ledgers)), "episodes": total - before, "policies": len(distinct)}
        log.info("%s to run, of %s", counted(total - before, "episode"), counted(total, "episode"), extra=asked)
        pool = lazy.start()
        jobs = {pool.submit(one.job, missing[key]): key for key, one in distinct.items()}
        with ExitStack() as stack:  # also after Ctrl-C what finished is published
            recorders = {run: stack.enter_context(Recorder(ledger)) for run, ledger in ledgers.items()}
            while not pool.idle:
                for finished in pool.poll():
                    key = jobs[finished.job]
                    if distinct[key].ledger is None:
                        collected[key].append(finished.episodes)
                    else:
                        recorders[key[0]].add(finished)
                    ran += len(finished)
                for recorder in recorders.values():
                    recorder.flush_if_due()
                if progress:
                    progress(before + ran, total, before)
        usage, ready = pool.take_usage(), max(pool.ready_at, began)
    else:
        for ledger in ledgers.values():
            with suppress(OSError):  # where nothing can be written, parts are as good to read
                ledger.publish()  # what a killed process left
    seconds = time.monotonic() - ready
    if ran:
        told = {"runs": list(map(str, ledgers)), "episodes": ran, "seconds": round(seconds, 3)}
        log.info("%s run in %s", counted(ran, "episode"), duration(seconds), extra=told)
    for key, one in distinct.items():
        if one.ledger is not None and missing[key]:
            _note(one, episodes, len(missing[key]), lazy.shape, ran / seconds, usage)
    tables = {
        key: unique_rows(pa.concat_tables(collected[key])) if one.ledger is None else one.recorded()
        for key, one in distinct.items()
    }
    tables = {key: table.filter(pc.field("index") < episodes) for key, table in tables.items()}
    torn = sum(episodes - table.num_rows for table in tables.values())
    if torn:
        raise FailedRunError(
            f"{counted(torn, 'recorded episode')} were in files damaged since; the same command runs them again"
        )
    return Evaluated(
        [tables[one.identity] for one in evaluations],
        ran,
        seconds,
        ready - began,
        usage,
    )


def _ledgers(evaluations: Sequence[Evaluation]) -> dict[Path, Ledger]:
    """By run directory. Raises `RunError` where two tasks would share one."""
    ledgers: dict[Path, Ledger] = {}
    for ledger in (one.ledger for one in evaluations if one.ledger):
        other = ledgers.setdefault(ledger.run.resolve(), ledger)
        if other.task.name != ledger.task.name:
            raise RunError(f"{ledger.run}: episodes of {other.task.name} and of {ledger.task.name} need an --out each")
    return ledgers


def _announce(one: Evaluation, episodes: int, missing: int) -> None:
    """Leave in the manifest that an evaluation has begun, for whoever looks on; once it has ended, `_note` follows."""
    assert one.ledger is not None
    entry = one.job.source.key | {
        "began": _now(),
        "episodes": episodes,
        "missing": missing,
        DRIVER: this_process(),
    }

    def begin(manifest: dict[str, Any]) -> None:
        manifest[UNDER_WAY] = [*_others(manifest, one), entry]

    try:
        amend_manifest(one.ledger.run, one.task.name, begin)
    except (OSError, RunError) as error:
        log.warning("%s: the manifest does not tell of this evaluation: %s", one.ledger.run, error)


def _others(manifest: Mapping[str, Any], one: Evaluation) -> list[dict[str, Any]]:
    """What else is under way in a run."""
    key = one.job.source.key
    return [entry for entry in manifest.get(UNDER_WAY, ()) if {name: entry.get(name) for name in key} != key]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _note(one: Evaluation, episodes: int, ran: int, shape: PoolShape, per_second: float, usage: Usage) -> None:
    """Leave in the manifest how an evaluation went; its rows say what it found."""
    assert one.ledger is not None
    entry = one.job.source.key | {
        "when": _now(),
        "episodes": episodes,
        "ran": ran,
        "actors": shape.actors,
        "slots": shape.slots,
        "episodes_per_second": per_second,
        "utilisation": usage.utilisation,
        "utilisation_before_tail": usage.utilisation_before_tail,
        "overhead": usage.overhead,
        "usage": asdict(usage),
    }

    def end(manifest: dict[str, Any]) -> None:
        manifest.setdefault(EVALUATIONS, []).append(entry)
        manifest[UNDER_WAY] = _others(manifest, one)
        if not manifest[UNDER_WAY]:
            del manifest[UNDER_WAY]

    try:
        amend_manifest(one.ledger.run, one.task.name, end)
    except (OSError, RunError) as error:  # the rows are safe, and say what was found
        log.warning("%s: the manifest does not tell of this evaluation: %s", one.ledger.run, error)


def evaluate(
    path: str | Path,
    *,
    episodes: int = 100,
    actors: int | None = None,
    slots: int = 32,
    pool: LazyPool | None = None,
    out: str | Path | None = None,
    split: Split | str = Split.REPORT,
    settings: Mapping[str, Any] = NO_CHANGES,
    trajectories: bool = False,
    allow_mixed_numerics: bool = False,
    progress: Progress | None = None,
) -> pa.Table:
    """Roll out episodes 0..episodes-1 of a policy and return their rows, as in `episodes/*.parquet`, by index.

    `path` is a run or policy directory, or its location on a store. Workers take seconds to start: those of a `pool`
    stay for the next evaluation, and it says how many there are. With `out`, a run directory, finished episodes are
    recorded as they come and those already there are not run again. `settings` are dotted `eval.*` and `track.*`
    settings over those the policy was trained with; trackers write below `out`, else below the policy's run. Raises
    `PolicyError`, `RunError`, `ConfigError`, `PoolError`, `MixedNumericsError`, and of a store `StoreError`.
    """
    one = Evaluation.of(
        local(path),
        None if out is None else local(out),
        Split(split),
        settings,
        trajectories=trajectories,
        allow_mixed_numerics=allow_mixed_numerics,
    )
    with nullcontext(pool) if pool else LazyPool(PoolShape(actors, slots)) as workers:
        (table,) = evaluate_all([one], episodes, workers, progress=progress).tables
    track(one, settings, table)
    return table


def track(one: Evaluation, settings: Mapping[str, Any], table: pa.Table) -> None:
    """Show an evaluation to the trackers that its settings name, if any."""
    wanted = changed(one.policy.config, settings).track
    if wanted.on:
        track_evaluation(wanted, one.run, one.policy, one.recipe, one.job.split, table, measurement(one.task, table))


def measurement(task: SimulatedTask, table: pa.Table, confidence: float = 0.95) -> Measurement:
    """Measure rows of `episodes_schema`."""
    return measure(
        task,
        table.column("primary").to_numpy(),
        table.column("success").to_numpy(zero_copy_only=False),
        {name: table.column(name).to_pylist() for name in judged_by(task)},
        table.column("train_seed").to_numpy(),
        confidence,
    )


def run_of(path: Path) -> Path:
    """The run directory that a run or policy directory belongs to; a policy outside any run is its own."""
    for parent in (*path.parents, *path.resolve().parents):  # as it was given, where that tells
        if parent.name == "policies":
            return parent.parent
    return path


def policies_of(path: Path) -> list[Path]:
    """Every policy directory of a run, by trial, seed and epoch; a policy directory is its own only one.

    Raises `RunError` for a directory without any.
    """
    if (path / POLICY_JSON).exists():
        return [path]
    found = [file.parent for file in path.glob(f"policies/*/*/*/{POLICY_JSON}")]
    if not found:
        raise RunError(f"{path}: holds no policy")
    return sorted(found, key=lambda directory: (*directory.parts[-3:-1], int(directory.name)))


def check_numerics(ledger: Ledger, job: Job) -> None:
    """Raises `MixedNumericsError` if this policy was evaluated here under other numerics."""
    same = (pc.field("policy_digest") == job.source.policy_digest) & (
        pc.field("protocol_digest") == job.source.protocol_digest
    )
    others = ledger.numerics(same) - {job.source.numerics}
    if others:
        raise MixedNumericsError(
            f"{ledger.run}: holds episodes of this policy made with {sorted(others)[0]!r}, this machine has "
            f"{job.source.numerics!r}; use another --out, or --allow-mixed-numerics"
        )
