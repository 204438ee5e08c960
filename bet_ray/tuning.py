"""The sweep: Ray Tune chooses and places trials, each trains its seeds and has the pool judge them rung by rung.

Resuming needs no state of Tune's: a setting has its own directory, a training its checkpoint, an episode its row. Run
the same sweep again and what is done is found done.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from bet import tasks
from bet.config import ConfigError, Split
from bet.data.episodes import Episodes
from bet.errors import FailedRunError, UsageError
from bet.measure import Measurement
from bet.policy import Policy
from bet.training import Epoch, TrainingDivergedError
from bet_ray.evaluation import measurement, recipe_of
from bet_ray.manifest import earlier_manifest, write_manifest
from bet_ray.service import RolloutService
from bet_ray.session import last_line, session
from bet_ray.sweep import Objective, Scheduler, Search, Sweep
from bet_ray.tracking import Kind, Trackers, epoch_numbers, interval_numbers, tracking
from bet_ray.training import Progress, SeedRun, set_best, trial_id
from bet_ray.trials import TRIAL_JSON, Rung, Status, TrialRecord, read_trials, write_record, write_trials
from bet_ray.worker import Job

log = logging.getLogger(__name__)

STUDY_DB = "study.db"
CLOSING_SECONDS = 30.0  # for the last episodes to be published; as parts they are as safe
# What a resume cannot change.
_FIXED = ("task", "base", "space", "settings", "search", "seeds_per_trial", "scheduler", "objective")
SETTING = "setting"  # the one key of a Tune config where we enumerate the settings ourselves


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


OnTrials = Callable[[list[TrialRecord]], None]
"""Called with all trials, best first, whenever one has news."""


@dataclass(frozen=True)
class Shares:
    """How a cluster's CPUs are divided."""

    actors: int
    cpus_per_actor: float
    trials_at_once: int
    cpus_per_trial: float


def divide(sweep: Sweep, cpus: int) -> Shares:
    """The pool reserves a quarter, trials take the rest; on one or two CPUs both take halves.

    Rollouts are short beside training, so on a small machine a core reserved for them would mostly idle.
    """
    resources, threads = sweep.resources, sweep.config({}).train.threads
    if cpus <= 2:
        actors, trials = resources.actors or cpus, resources.trials_at_once or cpus
        return Shares(actors, 0.5 * cpus / actors, trials, 0.5 * cpus / trials)
    actors = min(resources.actors or max(cpus // 4, 1), cpus - 1)
    fitting = max((cpus - actors) // threads, 1)
    trials = min(resources.trials_at_once or fitting, fitting)
    return Shares(actors, 1.0, trials, min(threads, cpus - actors))


def run_sweep(sweep: Sweep, run: Path, *, resume: bool = False, on_trials: OnTrials | None = None) -> SweepResult:
    """Run a sweep into a run directory and measure its winner on `report`.

    Raises `ConfigError`, `DataError` or `RunError` before anything runs; `FailedRunError` when no trial succeeds.
    """
    episodes = tasks.simulated(sweep.task).load(sweep.config({}).data)
    _prepare(sweep, run, resume, episodes.digest)
    with tracking(sweep.track, run, Kind.SWEEP, sweep.model_dump(mode="json")) as tracker, session() as cpus:
        sweep = sweep.model_copy(update={"track": tracker.track})  # what cannot be had here is not tried in each trial
        shares = divide(sweep, cpus)
        service: Any = (
            ray.remote(RolloutService)
            .options(num_cpus=0, max_concurrency=2 * shares.trials_at_once * sweep.seeds_per_trial + 4)
            .remote(run.resolve(), sweep.task, shares.actors, sweep.resources.slots, shares.cpus_per_actor)
        )
        try:
            _search(sweep, run.resolve(), episodes, service, shares, on_trials)
            trials = read_trials(run, sweep.objective)
            write_trials(run, sweep, trials)
            if not trials or not trials[0].rungs:
                errors = sorted({trial.error for trial in trials if trial.error})
                raise FailedRunError(f"no trial succeeded: {errors[0] if errors else 'see the logs of Ray'}")
            winner = trials[0]
            rung = winner.best(sweep.objective)
            assert rung is not None
            report = _measure_winner(sweep, run, winner, rung, service)
            tracker.summary(_rung_numbers(rung) | interval_numbers("report_primary", report.primary))
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


def _close_records(sweep: Sweep, run: Path, results: tune.ResultGrid) -> None:
    """Tune has ended: say of every trial that still calls itself running what became of it.

    The scheduler stops a trial without a word to it; one that Tune gave up on ends as an error, to be tried again.
    """
    gave_up = {
        trial_id(sweep.config(_setting(result.config))): last_line(result.error)
        for result in results
        if result.error is not None and result.config is not None
    }
    for record in read_trials(run, sweep.objective):
        if record.status is Status.RUNNING:
            error = gave_up.get(record.trial)
            stopped = error is None and sweep.scheduler is Scheduler.ASHA
            status = Status.STOPPED if stopped else Status.ERROR
            reason = None if stopped else error or "did not finish"
            write_record(run, record.model_copy(update={"status": status, "error": reason}))


def _setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The setting in a Tune config, ours or Optuna's."""
    return dict(config.get(SETTING, config))


def _prepare(sweep: Sweep, run: Path, resume: bool, dataset_digest: str) -> None:
    """Refuse a directory in use, and a resume that is not of the same sweep; then write the manifest."""
    asked = sweep.model_dump(mode="json")
    manifest = earlier_manifest(run, resume)
    if manifest is not None:
        before = manifest.get("sweep") or {}
        same = {key: before.get(key) == asked[key] for key in _FIXED}
        same["eval.rungs"] = before.get("eval", {}).get("rungs") == sweep.eval.rungs
        same["demonstrations"] = manifest.get("dataset_digest") == dataset_digest
        for key in [key for key, equal in same.items() if not equal]:
            raise ConfigError(f"{run}: cannot resume, {key!r} is not what the run began with; choose another --out")
        (run / "trials.parquet").unlink(missing_ok=True)  # by it readers know that the search is over
    config = sweep.config({})
    protocol = tasks.simulated(sweep.task).recipe(config.eval, config.data).protocol.model_dump(mode="json")
    write_manifest(run, "sweep", sweep.task, {"sweep": asked, "protocol": protocol, "dataset_digest": dataset_digest})


def _search(
    sweep: Sweep, run: Path, episodes: Episodes, service: Any, shares: Shares, on_trials: OnTrials | None
) -> None:
    """Run the trials under Tune."""
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_DISABLE_SIGINT_HANDLER="1", RAY_AIR_NEW_OUTPUT="0")
    trainable = tune.with_resources(
        tune.with_parameters(_trial, sweep=sweep, run=run, episodes=episodes, service=service),
        {"cpu": shares.cpus_per_trial},
    )
    scheduler = None
    if sweep.scheduler is Scheduler.ASHA:
        rungs = sweep.rung_epochs(sweep.config({}).train.epochs)
        scheduler = ASHAScheduler(time_attr="epoch", max_t=rungs[-1] + 1, grace_period=rungs[0])
    if sweep.search.method is Search.TPE:
        space: dict[str, Any] = {}
        searcher, count = _optuna(sweep, run)
        algorithm: Any = ConcurrencyLimiter(searcher, max_concurrent=shares.trials_at_once)
    else:
        space = {SETTING: tune.grid_search(list(sweep.enumerated()))}
        algorithm, count = BasicVariantGenerator(max_concurrent=shares.trials_at_once), 1
    if count == 0:
        return
    # Tune's own bookkeeping is not needed to resume, so it does not belong in the run.
    with tempfile.TemporaryDirectory(prefix="bet-ray-tune-") as storage:
        results = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="objective",
                mode=sweep.objective.mode,
                search_alg=algorithm,
                scheduler=scheduler,
                num_samples=count,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[_News(run, sweep.objective, on_trials)] if on_trials else [],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        ).fit()
        _close_records(sweep, run, results)


def _optuna(sweep: Sweep, run: Path) -> tuple[OptunaSearch, int]:
    """The TPE searcher on the run's study, and how many settings it still has to try.

    Settings that were under way when a run was killed come first again; they continue from their checkpoints.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{run / STUDY_DB}")
    study = optuna.create_study(
        storage=storage,
        study_name=run.name,
        direction="maximize" if sweep.objective.mode == "max" else "minimize",
        load_if_exists=True,
    )
    finished = 0
    for trial in study.get_trials(deepcopy=False):
        if trial.state is optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
        elif trial.state is optuna.trial.TrialState.COMPLETE:
            finished += 1
    # A sampler that began with the same seed again would propose again what an earlier start has tried.
    seed = sweep.search.seed + len(study.get_trials(deepcopy=False))
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    searcher = OptunaSearch(
        space=sweep.distributions,
        metric="objective",
        mode=sweep.objective.mode,
        sampler=sampler,
        study_name=run.name,
        storage=storage,
    )
    return searcher, max(sweep.trial_count - finished, 0)


def _trial(config: Mapping[str, Any], sweep: Sweep, run: Path, episodes: Episodes, service: Any) -> None:
    """The Tune trainable: one setting, all its training seeds, judged at every rung while the training goes on."""
    setting = _setting(config)
    configs = [sweep.config(setting, seed) for seed in range(sweep.seeds_per_trial)]
    trial = trial_id(configs[0])
    rungs: list[Rung] = []
    began = time.monotonic()

    def record(status: Status, error: str | None = None) -> None:
        write_record(
            run,
            TrialRecord(
                trial=trial,
                setting=setting,
                status=status,
                rungs=rungs,
                train_seconds=time.monotonic() - began,
                error=error,
            ),
        )

    def settle(pending: tuple[int, float, list[ray.ObjectRef]]) -> None:
        epoch, val_loss, evaluations = pending
        rungs.append(_rung(sweep, epoch, val_loss, ray.get(evaluations)))
        tracker.log(epoch, _rung_numbers(rungs[-1]))
        record(Status.RUNNING)
        _report(sweep, rungs)

    before = _finished_before(sweep, run, trial, configs[0].train.epochs)
    if before is not None:
        for count in range(len(before.rungs)):
            _report(sweep, before.rungs[: count + 1])
        return
    record(Status.RUNNING)
    title = " ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in setting.items())
    with tracking(sweep.track, run, Kind.TRIAL, configs[0].model_dump(mode="json"), trial, title) as tracker:
        try:
            runs = [SeedRun(run, config, episodes) for config in configs]
            pending = None
            for epoch in sweep.rung_epochs(configs[0].train.epochs):
                ray.get(service.check.remote())
                jobs = [_train_to(r, epoch, _epochs_to(tracker, r.config.train.seed)) for r in runs]
                val_loss = sum(r.training.history[epoch - 1].val_loss for r in runs) / len(runs)
                if pending is not None:
                    settle(pending)  # the last rung was simulated while this one trained
                pending = epoch, val_loss, [service.evaluate.remote(job, sweep.eval.episodes) for job in jobs]
            assert pending is not None
            settle(pending)
            record(Status.DONE)
        except (UsageError, TrainingDivergedError) as error:
            record(Status.ERROR, str(error))  # this setting cannot work; the others go on


def _finished_before(sweep: Sweep, run: Path, trial: str, epochs: int) -> TrialRecord | None:
    """What an earlier start of this sweep found of a trial, if it was judged as it would be now."""
    path = run / "policies" / trial / TRIAL_JSON
    if not path.exists():
        return None
    record = TrialRecord.model_validate_json(path.read_text())
    judged = [rung.epoch for rung in record.rungs] == sweep.rung_epochs(epochs)
    episodes = {rung.episodes for rung in record.rungs} == {sweep.eval.episodes * sweep.seeds_per_trial}
    whole = record.status is Status.DONE and judged
    return record if episodes and (whole or record.status is Status.STOPPED) else None


def _report(sweep: Sweep, rungs: list[Rung]) -> None:
    """Tell Tune the best rung so far: by it a setting is ranked, so by it Optuna should learn."""
    choose = max if sweep.objective.mode == "max" else min
    tune.report({"objective": choose(rung.objective for rung in rungs), "epoch": rungs[-1].epoch})


def _epochs_to(tracker: Trackers, seed: int) -> Progress:
    """Has the epochs of one seed tracked."""

    def show(done: float, epoch: Epoch | None) -> None:
        if epoch is not None:
            numbers = {f"seed {seed}/{name}": value for name, value in epoch_numbers(epoch).items()}
            tracker.log(epoch.epoch, numbers)

    return show


def _rung_numbers(rung: Rung) -> dict[str, float]:
    """What trackers show of a rung."""
    numbers = {"objective": rung.objective, "mean_val_loss": rung.val_loss, "episodes": rung.episodes}
    for name, interval in (("primary", rung.primary), ("success", rung.success)):
        numbers |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return numbers


def _train_to(seed_run: SeedRun, epoch: int, progress: Progress) -> Job:
    """Train one seed to a rung and make its policy a job; a rung that an earlier start passed is read back."""
    seed_run.train_to(epoch, progress)
    policy, _ = seed_run.export(epoch)
    seed_run.save()
    return _job(policy, Split.TUNE)


def _job(policy: Policy, split: Split) -> Job:
    task = tasks.simulated(policy.config.task)
    # The routes of a point mass are drawn from trajectories; elsewhere they would be large and nobody looks.
    keep = task.by_modes and split is Split.REPORT
    return Job.of(policy, recipe_of(policy), split, keep_trajectories=keep)


def _rung(sweep: Sweep, epoch: int, val_loss: float, tables: list[pa.Table]) -> Rung:
    task = tasks.simulated(sweep.task)
    overall = measurement(task, pa.concat_tables(tables))
    by_seed = {}
    for table in tables:
        one = measurement(task, table)
        by_seed[table.column("train_seed")[0].as_py()] = (one.primary.estimate, one.success.estimate)
    primary, success = overall.primary, overall.success
    objective = {
        Objective.PRIMARY: primary.estimate,
        Objective.SUCCESS: success.estimate,
        Objective.VAL_LOSS: val_loss,
    }[sweep.objective]
    return Rung(
        epoch=epoch,
        objective=objective,
        primary=(primary.estimate, primary.low, primary.high),
        success=(success.estimate, success.low, success.high),
        episodes=overall.episodes,
        val_loss=val_loss,
        by_seed=by_seed,
    )


def _measure_winner(sweep: Sweep, run: Path, winner: TrialRecord, rung: Rung, service: Any) -> Measurement:
    """Roll the winner out on fresh episodes; `best` becomes its seed that did best on `tune`."""
    names = {seed: f"{winner.trial}/{seed}/{rung.epoch}" for seed in rung.by_seed}
    set_best(run, names[max(rung.by_seed, key=lambda seed: rung.by_seed[seed])])
    jobs = [_job(Policy.load(run / "policies" / name), Split.REPORT) for name in names.values()]
    tables = ray.get([service.evaluate.remote(job, sweep.eval.winner_episodes) for job in jobs])
    return measurement(tasks.simulated(sweep.task), pa.concat_tables(tables))


class _News(tune.Callback):
    """Tells the caller when a trial has news."""

    def __init__(self, run: Path, objective: Objective, on_trials: OnTrials) -> None:
        self._run, self._objective, self._on_trials = run, objective, on_trials

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore a run; we never do, and a live display cannot be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._tell()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._tell()

    def _tell(self) -> None:
        self._on_trials(read_trials(self._run, self._objective))
