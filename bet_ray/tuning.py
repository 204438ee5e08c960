"""The sweep: Ray Tune places the trials that the study proposes, the pool judges them, the best are measured afresh.

Resuming needs no state of Tune's: a setting has its own directory, a training its checkpoint, an episode its row, a
proposal its place in the study. Run the same sweep again and what is done is found done.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from filelock import FileLock, Timeout
from ray import tune
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from bet import files, tasks
from bet.config import ConfigError
from bet.data.episodes import Episodes
from bet.errors import FailedRunError, UsageError
from bet.measure import Measurement
from bet_ray.manifest import MANIFEST, SWEEP_LOCK, SWEEP_YAML, RunError, earlier_manifest, write_manifest, write_text
from bet_ray.pool import rollout_cpus
from bet_ray.selection import Contest, OnTrials
from bet_ray.service import RolloutService
from bet_ray.session import on_this_node, session
from bet_ray.storage import portable, pull
from bet_ray.study import Proposals
from bet_ray.sweep import Objective, Scheduler, Sweep, parse_sweep, sweep_yaml
from bet_ray.tracking import Kind, interval_numbers, tracking
from bet_ray.trainable import WATCHING, Context, judge, rung_numbers
from bet_ray.training import set_best, trial_id
from bet_ray.trials import Rung, Status, TrialRecord, read_record, read_trials, write_record, write_trials
from bet_ray.values import Estimate
from bet_ray.worker import Job

CLOSING_SECONDS = 30.0  # for the last episodes to be published; as parts they are as safe
# What a resume cannot change.
_FIXED = ("task", "base", "space", "settings", "seeds_per_trial", "scheduler", "objective")
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

    @property
    def chosen(self) -> Estimate:
        """The winner's primary metric on `tune`."""
        assert self.tune.primary is not None  # rungs that count are simulated, at the latest after the search
        return self.tune.primary


@dataclass(frozen=True)
class Shares:
    """How a cluster's CPUs are divided."""

    actors: int
    cpus_per_actor: float
    trials_at_once: int
    cpus_per_trial: float
    seeds_at_once: int = 1
    """Of a trial."""


def divide(sweep: Sweep, cpus: int, for_rollouts: int | None = None) -> Shares:
    """The pool reserves a quarter, or what is `for_rollouts` if that is less; trials take the rest; on one or two CPUs
    both take halves.

    Rollouts are short beside training, so on a small machine a core reserved for them would mostly idle. Seeds of a
    setting train side by side where there are more cores than settings.
    """
    resources = sweep.resources
    threads = sweep.config({}).train.threads * resources.workers_per_trial
    if cpus <= 2:
        actors, trials = resources.actors or cpus, resources.trials_at_once or cpus
        return Shares(actors, 0.5 * cpus / actors, trials, 0.5 * cpus / trials, resources.seeds_at_once or 1)
    usual = max(min(cpus // 4, for_rollouts or cpus), 1)
    actors = min(resources.actors or usual, cpus - 1)
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
    episodes, run = tasks.simulated(sweep.task).load(sweep.config({}).data), portable(run.resolve())
    with _alone(run):
        _prepare(sweep, run, resume, episodes.digest)
        return _run_sweep(sweep, run, episodes, on_trials)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Two sweeps would continue each other's trials. Raises `RunError`."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / SWEEP_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"{run}: a sweep is under way in it; wait for it, or choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _run_sweep(sweep: Sweep, run: Path, episodes: Episodes, on_trials: OnTrials | None) -> SweepResult:
    asked = sweep.resources.cpus
    with tracking(sweep.track, run, Kind.SWEEP, sweep.model_dump(mode="json")) as tracker, session(asked) as cpus:
        sweep = sweep.model_copy(update={"track": tracker.track})  # what cannot be had here is not tried in each trial
        shares = divide(sweep, asked or cpus, None if asked else rollout_cpus())
        shared = ray.put(episodes)
        service: Any = (
            ray.remote(RolloutService)
            .options(
                num_cpus=0,
                max_concurrency=2 * shares.trials_at_once * sweep.seeds_per_trial + 4,
                scheduling_strategy=on_this_node(),
            )
            .remote(run, sweep.task, shared, shares.actors, sweep.resources.slots, shares.cpus_per_actor)
        )
        try:
            context = Context(sweep, run, shared, service, shares.seeds_at_once, shares.cpus_per_trial)
            _search(context, shares.trials_at_once, on_trials)
            pull(run)  # what trials on other nodes left
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
            scores = {seed: score for seed, score in rung.by_seed.items() if score}
            set_best(run, names[max(scores, key=scores.__getitem__)])
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
        if before is not None:
            same["search"] = (before.search.method, before.search.seed) == (sweep.search.method, sweep.search.seed)
            same["eval.rungs"] = before.eval.rungs == sweep.eval.rungs
            same["eval.episodes"] = before.eval.episodes <= sweep.eval.episodes  # or a race would see the search's
        same["demonstrations"] = manifest.get("dataset_digest") == dataset_digest
        for key in [key for key, equal in same.items() if not equal]:
            raise ConfigError(f"{run}: cannot resume, {key!r} is not what the run began with; choose another --out")
        files.remove(run / "trials.parquet")  # by it readers know that the search is over
    config = sweep.config({})
    protocol = tasks.simulated(sweep.task).recipe(config.eval, config.data).protocol.model_dump(mode="json")
    asked = sweep.model_dump(mode="json")
    write_manifest(run, "sweep", sweep.task, {"sweep": asked, "protocol": protocol, "dataset_digest": dataset_digest})
    write_text(run / SWEEP_YAML, sweep_yaml(sweep))


def _search(context: Context, at_once: int, on_trials: OnTrials | None) -> None:
    """Run the trials under Tune."""
    sweep, run = context.sweep, context.run
    records = [_as_asked_now(sweep, run, record) for record in read_trials(run, sweep.objective)]
    if on_trials and records:
        on_trials(records)
    proposals = Proposals(sweep, run, records)
    if not proposals.left:
        return
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_DISABLE_SIGINT_HANDLER="1", RAY_AIR_NEW_OUTPUT="0")
    listener = _Listener(context, proposals, on_trials)
    alone = sweep.resources.workers_per_trial == 1
    resources = {"cpu": context.cpus, "gpu": sweep.gpus} if alone else {"cpu": WATCHING}
    # Tune's own bookkeeping is not needed to resume, so it does not belong in the run.
    with tempfile.TemporaryDirectory(prefix="bet-ray-tune-") as storage:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, context=context), resources),
            tune_config=tune.TuneConfig(
                search_alg=_Proposed(proposals, listener, sweep.objective.mode),
                scheduler=Halving(sweep, records) if sweep.scheduler is Scheduler.ASHA else None,
                num_samples=-1,  # as many as are proposed
                max_concurrent_trials=at_once,
                reuse_actors=alone,  # but where it has a group of workers, which must end with the trial
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[listener],
            ),
        ).fit()
    if listener.broken:
        raise listener.broken
    for record in listener.stopped:  # whose workers may have written on until they ended
        write_record(run, record)


def _trial(config: Mapping[str, Any], context: Context) -> None:
    """The Tune trainable."""
    if context.sweep.resources.workers_per_trial == 1:
        judge(context, config[SETTING], tune.report)
        return
    from bet_ray.distributed import judge_on_workers  # three seconds that only such trials take

    judge_on_workers(context, config[SETTING])


def _as_asked_now(sweep: Sweep, run: Path, record: TrialRecord) -> TrialRecord:
    """A record whose rungs were judged by another number of episodes goes on: what is there is not run again.

    A loss is the same with any number of them.
    """
    asked = sweep.eval.episodes * sweep.seeds_per_trial
    if sweep.objective is Objective.VAL_LOSS or all(rung.episodes == asked for rung in record.rungs):
        return record
    record = record.model_copy(update={"status": Status.RUNNING})
    write_record(run, record)
    return record


class Halving(ASHAScheduler):
    """Successive halving over epochs of the training. It knows a trial by its setting, also that of an earlier start.

    Its milestones are the first rung and four, sixteen, ... times its epoch. What was decided once is not decided
    again: a trial that goes on reports its rungs anew, and is not held against itself.
    """

    def __init__(self, sweep: Sweep, records: Sequence[TrialRecord]) -> None:
        rungs = sweep.rung_epochs(sweep.config({}).train.epochs)
        super().__init__("epoch", "objective", sweep.objective.mode, max_t=rungs[-1] + 1, grace_period=rungs[0])
        self._sweep = sweep
        for record in records:
            known: Any = SimpleNamespace(trial_id=record.trial)
            controller: Any = None  # of which it asks nothing
            super().on_trial_add(controller, known)
            for count, rung in enumerate(record.rungs, start=1):
                best = record.model_copy(update={"rungs": record.rungs[:count]}).best(sweep.objective)
                assert best is not None
                super().on_trial_result(controller, known, {"epoch": rung.epoch, "objective": best.objective})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, self._named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        return super().on_trial_result(tune_controller, self._named(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        super().on_trial_complete(tune_controller, self._named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, self._named(trial))

    def _named(self, trial: Any) -> Any:
        return SimpleNamespace(trial_id=name_of(self._sweep, trial))


def name_of(sweep: Sweep, trial: Any) -> str:
    """What a trial of Tune is called in the run."""
    return trial_id(sweep.config(trial.config[SETTING]))


class _Proposed(Searcher):
    """The study, as Tune asks for settings."""

    def __init__(self, proposals: Proposals, listener: "_Listener", mode: str) -> None:
        super().__init__(metric="objective", mode=mode)
        self._proposals, self._listener = proposals, listener

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._listener.broken:
            return Searcher.FINISHED
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
        self._service = context.service
        self._failed: set[str] = set()
        self.stopped: list[TrialRecord] = []
        self.broken: RayError | None = None
        """What ended the service of rollouts, if anything did: nothing can be tried any more."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore a run; we never do, and a live display cannot be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self._heard(trial)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        # The scheduler stops a trial without a word to it.
        self._release(trial)
        stopped = {"status": Status.STOPPED, "ended": datetime.now(UTC)}
        self._heard(trial, lambda record: stopped if record.status is Status.RUNNING else {})

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Its process died, or a node, or it raised what is no fault of its setting: it goes on in another process."""
        if trial.trial_id in self._failed:  # Tune may tell it twice
            return
        self._failed.add(trial.trial_id)
        self._release(trial)
        try:
            ray.get(self._service.check.remote())
        except RayError as error:  # then no trial can go on, and it is the fault of none
            self.broken = error
            return

        def change(record: TrialRecord) -> dict[str, Any]:
            failed = {"failures": record.failures + 1, "error": _reason(trial)}
            if failed["failures"] <= self._sweep.resources.retries:
                return failed
            return failed | {"status": Status.ERROR, "ended": datetime.now(UTC)}

        record = self._heard(trial, change)
        if record.status is Status.RUNNING:
            self._proposals.again(record)

    def _release(self, trial: Any) -> None:
        if self._sweep.resources.workers_per_trial > 1:
            from bet_ray.distributed import release_workers

            release_workers(self._run, name_of(self._sweep, trial))

    def _heard(self, trial: Any, change: Callable[[TrialRecord], dict[str, Any]] = lambda _: {}) -> TrialRecord:
        name = name_of(self._sweep, trial)
        record = read_record(self._run, name)
        if record is None:  # it died before it could begin
            setting = trial.config[SETTING]
            record = TrialRecord(trial=name, setting=setting, status=Status.RUNNING, rungs=[], train_seconds=0.0)
        changes = change(record)
        if changes:
            record = record.model_copy(update=changes)
            write_record(self._run, record)
        self._proposals.heard(record)
        if record.status is Status.STOPPED:
            self.stopped.append(record)
        if self._on_trials:
            self._on_trials(read_trials(self._run, self._sweep.objective))
        return record


def _reason(trial: Any) -> str:
    """Why a trial of Tune failed."""
    try:  # not `get_error`, which looks where Tune will put a copy later
        return [line for line in Path(trial.error_file).read_text().splitlines() if line.strip()][-1].strip()
    except (OSError, TypeError, IndexError):
        return "did not finish"
