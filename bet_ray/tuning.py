"""The sweep: Ray Tune places the trials that the study proposes, the pool judges them, the best are measured afresh.

Resuming needs no state of Tune's: a setting has its own directory, a training its checkpoint, an episode its row, a
proposal its place in the study. Run the same sweep again and what is done is found done.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from bet import tasks
from bet.config import ConfigError
from bet.errors import FailedRunError, UsageError
from bet.measure import Measurement
from bet_ray.manifest import MANIFEST, SWEEP_YAML, earlier_manifest, write_manifest, write_text
from bet_ray.selection import Contest, OnTrials
from bet_ray.service import RolloutService
from bet_ray.session import last_line, session
from bet_ray.study import Proposals
from bet_ray.sweep import Scheduler, Sweep, parse_sweep, sweep_yaml
from bet_ray.tracking import Kind, interval_numbers, tracking
from bet_ray.trainable import WATCHING, Context, judge, rung_numbers
from bet_ray.training import set_best, trial_id
from bet_ray.trials import Rung, Status, TrialRecord, read_record, read_trials, write_record, write_trials
from bet_ray.worker import Job

log = logging.getLogger(__name__)

CLOSING_SECONDS = 30.0  # for the last episodes to be published; as parts they are as safe
# What a resume cannot change.
_FIXED = ("task", "base", "space", "settings", "search", "seeds_per_trial", "scheduler", "objective")
SETTING = "setting"  # the one key of a Tune config


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep."""

    run: Path
    trials: list[TrialRecord]
    """Best first."""
    winner: TrialRecord
    tune: Rung
    """What the winner was chosen by."""
    report: Measurement
    """What fresh episodes say of it."""


@dataclass(frozen=True)
class Shares:
    """How a cluster's CPUs are divided."""

    actors: int
    cpus_per_actor: float
    trials_at_once: int
    cpus_per_trial: float
    seeds_at_once: int = 1
    """Of a trial."""


def divide(sweep: Sweep, cpus: int) -> Shares:
    """The pool reserves a quarter, trials take the rest; on one or two CPUs both take halves.

    Rollouts are short beside training, so on a small machine a core reserved for them would mostly idle. Seeds of a
    setting train side by side where there are more cores than settings.
    """
    resources = sweep.resources
    threads = sweep.config({}).train.threads * resources.workers_per_trial
    if cpus <= 2:
        actors, trials = resources.actors or cpus, resources.trials_at_once or cpus
        return Shares(actors, 0.5 * cpus / actors, trials, 0.5 * cpus / trials, resources.seeds_at_once or 1)
    actors = min(resources.actors or max(cpus // 4, 1), cpus - 1)
    fitting = max((cpus - actors) // threads, 1)  # trainings
    trials = min(resources.trials_at_once or fitting, sweep.trial_count)
    alone = sweep.gpus == 0 and resources.workers_per_trial == 1
    seeds = resources.seeds_at_once or (max(fitting // trials, 1) if alone else 1)
    seeds = min(seeds, sweep.seeds_per_trial, fitting)
    trials = min(resources.trials_at_once or fitting, fitting // seeds)
    return Shares(actors, 1.0, trials, min(threads * seeds, cpus - actors), seeds)


def run_sweep(sweep: Sweep, run: Path, *, resume: bool = False, on_trials: OnTrials | None = None) -> SweepResult:
    """Run a sweep into a run directory and measure its winner on `report`.

    Raises `ConfigError`, `DataError`, `RunError`, or `UsageError` for a storage that does not open, before anything
    runs; `FailedRunError` when no trial succeeds.
    """
    episodes = tasks.simulated(sweep.task).load(sweep.config({}).data)
    _prepare(sweep, run, resume, episodes.digest)
    run = run.resolve()
    with tracking(sweep.track, run, Kind.SWEEP, sweep.model_dump(mode="json")) as tracker, session() as cpus:
        sweep = sweep.model_copy(update={"track": tracker.track})  # what cannot be had here is not tried in each trial
        shares = divide(sweep, cpus)
        shared = ray.put(episodes)
        service: Any = (
            ray.remote(RolloutService)
            .options(num_cpus=0, max_concurrency=2 * shares.trials_at_once * sweep.seeds_per_trial + 4)
            .remote(run, sweep.task, shared, shares.actors, sweep.resources.slots, shares.cpus_per_actor)
        )
        try:
            context = Context(sweep, run, shared, service, shares.seeds_at_once, shares.cpus_per_trial)
            _search(context, shares.trials_at_once, on_trials)
            trials = read_trials(run, sweep.objective)
            write_trials(run, sweep, trials)
            if not any(trial.rungs for trial in trials):
                errors = sorted({trial.error for trial in trials if trial.error})
                raise FailedRunError(f"no trial succeeded: {errors[0] if errors else 'see the logs of Ray'}")

            def roll_out(jobs: Sequence[Job], episodes: int) -> list[pa.Table]:
                return ray.get([service.evaluate.remote(job, episodes) for job in jobs])

            contest = Contest(sweep, run, roll_out, on_trials)
            trials = contest.decide()
            write_trials(run, sweep, trials)
            winner = trials[0]
            rung, report = winner.best(sweep.objective), contest.reports[winner.trial]
            assert rung is not None
            names = dict(zip(rung.by_seed, winner.policies(rung), strict=True))
            set_best(run, names[max(rung.by_seed, key=lambda seed: rung.by_seed[seed])])
            tracker.summary(rung_numbers(rung) | interval_numbers("report_primary", report.primary))
            tracker.table("trials", pq.read_table(run / "trials.parquet"))
        except RayTaskError as error:
            if isinstance(error.cause, UsageError | FailedRunError):
                raise error.cause from error
            raise
        except RayActorError as error:
            raise FailedRunError("the actor that hands out rollouts died; --resume continues the sweep") from error
        finally:
            with suppress(RayError, KeyboardInterrupt):
                ray.get(service.close.remote(), timeout=CLOSING_SECONDS)
            ray.kill(service)
    return SweepResult(run, trials, winner, rung, report)


def _prepare(sweep: Sweep, run: Path, resume: bool, dataset_digest: str) -> None:
    """Refuse a directory in use, and a resume that is not of the same sweep; then write the manifest."""
    manifest = earlier_manifest(run, resume)
    if manifest is not None:
        before = parse_sweep(manifest["sweep"], str(run / MANIFEST)) if "sweep" in manifest else None
        same = {key: getattr(before, key, None) == getattr(sweep, key) for key in _FIXED}
        same["eval.rungs"] = before is not None and before.eval.rungs == sweep.eval.rungs
        same["demonstrations"] = manifest.get("dataset_digest") == dataset_digest
        for key in [key for key, equal in same.items() if not equal]:
            raise ConfigError(f"{run}: cannot resume, {key!r} is not what the run began with; choose another --out")
        (run / "trials.parquet").unlink(missing_ok=True)  # by it readers know that the search is over
    config = sweep.config({})
    protocol = tasks.simulated(sweep.task).recipe(config.eval, config.data).protocol.model_dump(mode="json")
    asked = sweep.model_dump(mode="json")
    write_manifest(run, "sweep", sweep.task, {"sweep": asked, "protocol": protocol, "dataset_digest": dataset_digest})
    write_text(run / SWEEP_YAML, sweep_yaml(sweep))


def _search(context: Context, at_once: int, on_trials: OnTrials | None) -> None:
    """Run the trials under Tune."""
    sweep, run = context.sweep, context.run
    records = [_as_asked_now(sweep, run, record) for record in read_trials(run, sweep.objective)]
    proposals = Proposals(sweep, run, records)
    if not proposals.left:
        return
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_DISABLE_SIGINT_HANDLER="1", RAY_AIR_NEW_OUTPUT="0")
    alone = sweep.resources.workers_per_trial == 1
    resources = {"cpu": context.cpus, "gpu": sweep.gpus} if alone else {"cpu": WATCHING}
    # Tune's own bookkeeping is not needed to resume, so it does not belong in the run.
    with tempfile.TemporaryDirectory(prefix="bet-ray-tune-") as storage:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, context=context), resources),
            tune_config=tune.TuneConfig(
                search_alg=_Proposed(proposals, sweep.objective.mode),
                scheduler=asha(sweep, records) if sweep.scheduler is Scheduler.ASHA else None,
                num_samples=-1,  # as many as are proposed
                max_concurrent_trials=at_once,
                reuse_actors=alone,  # but where it has a group of workers, which must end with the trial
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[_Listener(context, proposals, on_trials)],
            ),
        ).fit()


def _trial(config: Mapping[str, Any], context: Context) -> None:
    """The Tune trainable."""
    if context.sweep.resources.workers_per_trial == 1:
        judge(context, config[SETTING], tune.report)
        return
    from bet_ray.distributed import judge_on_workers  # three seconds that only such trials take

    judge_on_workers(context, config[SETTING])


def _as_asked_now(sweep: Sweep, run: Path, record: TrialRecord) -> TrialRecord:
    """A record whose rungs were judged by another number of episodes goes on: what is there is not run again."""
    asked = sweep.eval.episodes * sweep.seeds_per_trial
    if all(rung.episodes == asked for rung in record.rungs):
        return record
    record = record.model_copy(update={"status": Status.RUNNING})
    write_record(run, record)
    return record


def asha(sweep: Sweep, records: Sequence[TrialRecord]) -> ASHAScheduler:
    """Successive halving over epochs of the training; its rungs know the trials of an earlier start."""
    rungs = sweep.rung_epochs(sweep.config({}).train.epochs)
    scheduler = ASHAScheduler("epoch", "objective", sweep.objective.mode, max_t=rungs[-1] + 1, grace_period=rungs[0])
    known: Any = scheduler  # whose methods ask of a trial only its name, and nothing of who runs it
    for record in records:
        if record.status in (Status.RUNNING, Status.ERROR):
            continue
        trial = SimpleNamespace(trial_id=record.trial)
        known.on_trial_add(None, trial)
        for count in range(len(record.rungs)):
            best = record.model_copy(update={"rungs": record.rungs[: count + 1]}).best(sweep.objective)
            assert best is not None
            known.on_trial_result(None, trial, {"epoch": record.rungs[count].epoch, "objective": best.objective})
    return scheduler


class _Proposed(Searcher):
    """The study, as Tune asks for settings."""

    def __init__(self, proposals: Proposals, mode: str) -> None:
        super().__init__(metric="objective", mode=mode)
        self._proposals = proposals

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        proposal = self._proposals.next()
        if proposal is not None:
            return {SETTING: proposal.setting}
        # What is under way may fail, and be tried again.
        return None if self._proposals.under_way else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """`_Listener` tells the study, which wants to know more than this."""

    def save(self, checkpoint_path: str) -> None:
        """The study is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """It is never restored."""


class _Listener(tune.Callback):
    """Keeps the records of what Tune knows before a trial does, and tells the study and the caller."""

    def __init__(self, context: Context, proposals: Proposals, on_trials: OnTrials | None) -> None:
        self._sweep, self._run = context.sweep, context.run
        self._proposals, self._on_trials = proposals, on_trials
        self._failed: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore a run; we never do, and a live display cannot be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._heard(trial)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        # The scheduler stops a trial without a word to it.
        self._heard(trial, lambda record: {"status": Status.STOPPED} if record.status is Status.RUNNING else {})

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Its process died, or a node, or it raised what is no fault of its setting: it goes on in another process."""
        if trial.trial_id in self._failed:  # Tune may tell it twice
            return
        self._failed.add(trial.trial_id)
        error = trial.get_pickled_error() or trial.get_error()
        reason = "did not finish" if error is None else last_line(error)

        def change(record: TrialRecord) -> dict[str, Any]:
            failures = record.failures + 1
            spent = failures > self._sweep.resources.retries
            return {"failures": failures, "error": reason, "status": Status.ERROR if spent else Status.RUNNING}

        record = self._heard(trial, change)
        if record.status is Status.RUNNING:
            self._proposals.again(record)

    def _heard(self, trial: Any, change: Callable[[TrialRecord], dict[str, Any]] = lambda _: {}) -> TrialRecord:
        setting = trial.config[SETTING]
        name = trial_id(self._sweep.config(setting))
        record = read_record(self._run, name)
        if record is None:  # it died before it could begin
            record = TrialRecord(trial=name, setting=setting, status=Status.RUNNING, rungs=[], train_seconds=0.0)
        changes = change(record)
        if changes:
            record = record.model_copy(update=changes)
            write_record(self._run, record)
        self._proposals.heard(record)
        if self._on_trials:
            self._on_trials(read_trials(self._run, self._sweep.objective))
        return record
