"""What runs in a trial: the training seeds of one setting, judged rung by rung while the training goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayTaskError

from bet import tasks
from bet.config import Config, Split
from bet.data.episodes import Episodes
from bet.errors import UsageError
from bet.policy import Policy
from bet.training import Epoch, FittedActions, TrainingDivergedError
from bet.workers import ALONE, Workers
from bet_ray.evaluation import measurement, recipe_of
from bet_ray.session import on_this_node
from bet_ray.sweep import Objective, Sweep
from bet_ray.tracking import Kind, epoch_numbers, tracking
from bet_ray.training import CHECKPOINT_SECONDS, SeedRun, trial_id
from bet_ray.trials import Rung, Status, TrialRecord, read_record, write_record
from bet_ray.values import Estimate
from bet_ray.worker import Job

Report = Callable[[dict[str, Any]], object]
"""Tells the scheduler of a rung; does not return where that stops the trial."""

WATCHING = 0.01  # CPUs of a trial that only watches its workers: Tune wants some
_ACTS = 5  # times that acting is timed; the fastest counts


@dataclass(frozen=True)
class Context:
    """What all trials of a sweep have in common."""

    sweep: Sweep
    run: Path
    episodes: Any
    """Where in the object store the demonstrations are."""
    service: Any
    """The `RolloutService` actor."""
    seeds_at_once: int = 1
    cpus: float = 1.0
    """Of a trial."""


def judge(context: Context, setting: Mapping[str, Any], report: Report, workers: Workers = ALONE) -> None:
    """Train the seeds of a setting, have the pool simulate every rung, report each at the epoch it belongs to.

    Where the objective is a loss nothing is simulated, and a rung is reported as soon as it is trained.

    Continues what an earlier start has left. A setting that cannot work ends as an error on its record. Of several
    `workers`, which make the same calls, the first keeps the record.
    """
    sweep = context.sweep
    configs = [sweep.config(setting, seed) for seed in range(sweep.seeds_per_trial)]
    rungs, epochs = sweep.rung_epochs(configs[0].train.epochs), range(1, configs[0].train.epochs + 1)
    if workers.rank > 0:
        seeds = _Seeds(context, configs, workers)
        for epoch in epochs:
            seeds.train_to(epoch)
            if epoch in rungs[1:]:
                report({})
        report({})
        return
    book = _Book(context, setting, trial_id(configs[0]), report)
    title = " ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in setting.items())
    with tracking(
        sweep.track, context.run, Kind.TRIAL, configs[0].model_dump(mode="json"), book.record.trial, title
    ) as tracker:
        try:
            seeds = _Seeds(context, configs, workers)
            pending: _Pending | None = None
            for epoch in epochs:
                trained = seeds.train_to(epoch)
                book.add_seconds(sum(each.seconds for each in trained.values()))
                for seed, each in trained.items():
                    if each.new:
                        numbers = epoch_numbers(each.epoch)
                        tracker.log(epoch, {f"seed {seed}/{name}": value for name, value in numbers.items()})
                if epoch in rungs:
                    if pending is not None:
                        tracker.log(pending.epoch, rung_numbers(book.settle(pending)))
                    ray.get(context.service.check.remote())
                    jobs = seeds.export(epoch)
                    asked = [] if sweep.objective is Objective.VAL_LOSS else jobs
                    pending = _Pending(
                        epoch,
                        float(np.mean([each.epoch.val_loss for each in trained.values()])),
                        [context.service.evaluate.remote(job, sweep.eval.episodes) for job in asked],
                    )
                    if book.record.act_seconds is None:
                        book.change(act_seconds=seeds.act_seconds())
                # Workers report together, so where there are several the result waits for the next rung.
                last = epoch == rungs[-1]
                if pending is not None and (last or (workers.count == 1 and pending.ready)):
                    tracker.log(pending.epoch, rung_numbers(book.settle(pending)))
                    pending = None
            book.change(status=Status.DONE, ended=datetime.now(UTC))
        except (UsageError, TrainingDivergedError) as error:  # this setting cannot work; the others go on
            cause = error.cause if isinstance(error, RayTaskError) else error
            book.change(
                status=Status.ERROR, error=str(cause), failures=book.record.failures + 1, ended=datetime.now(UTC)
            )
            if workers.count > 1:
                raise  # so that the others do not wait for this one


def policy_job(policy: Policy, split: Split) -> Job:
    """What the pool needs to roll a trial's policy out."""
    task = tasks.simulated(policy.config.task)
    # The routes of a point mass are drawn from trajectories; elsewhere they would be large and nobody looks.
    keep = task.by_modes and split is Split.REPORT
    return Job.of(policy, recipe_of(policy), split, keep_trajectories=keep)


def rung_numbers(rung: Rung) -> dict[str, float]:
    """What trackers show of a rung."""
    numbers = {"objective": rung.objective, "mean_val_loss": rung.val_loss, "episodes": rung.episodes}
    for name, interval in (("primary", rung.primary), ("success", rung.success)):
        if interval:
            numbers |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return numbers


def simulated(sweep: Sweep, rung: Rung, table: pa.Table) -> Rung:
    """A rung with what the episodes of its policies say, all in one table."""
    task = tasks.simulated(sweep.task)
    overall = measurement(task, table)
    by_seed = {}
    for seed in rung.by_seed:
        one = measurement(task, table.filter(pc.field("train_seed") == seed))
        by_seed[seed] = (one.primary.estimate, one.success.estimate)
    primary, success = overall.primary, overall.success
    objective = {
        Objective.PRIMARY: primary.estimate,
        Objective.SUCCESS: success.estimate,
        Objective.VAL_LOSS: rung.val_loss,
    }[sweep.objective]
    return Rung(
        epoch=rung.epoch,
        objective=objective,
        primary=Estimate.of(primary),
        success=Estimate.of(success),
        episodes=overall.episodes,
        val_loss=rung.val_loss,
        by_seed=by_seed,
    )


@dataclass(frozen=True)
class _Pending:
    """A rung that is being simulated, or need not be."""

    epoch: int
    val_loss: float
    evaluations: Sequence[ray.ObjectRef]
    """None of them where the objective is a loss."""

    @property
    def ready(self) -> bool:
        if not self.evaluations:
            return True
        done, _ = ray.wait(list(self.evaluations), num_returns=len(self.evaluations), timeout=0)
        return len(done) == len(self.evaluations)


class _Book:
    """Keeps the record of a trial."""

    def __init__(self, context: Context, setting: Mapping[str, Any], trial: str, report: Report) -> None:
        self._context, self._report = context, report
        before = read_record(context.run, trial)
        self.record = TrialRecord(
            trial=trial,
            setting=dict(setting),
            status=Status.RUNNING,
            rungs=[],  # they are found again, from policies and episodes that are there
            train_seconds=before.train_seconds if before else 0.0,
            act_seconds=before.act_seconds if before else None,
            began=before.began if before and before.began else datetime.now(UTC),
            failures=before.failures if before else 0,
            error=before.error if before else None,
        )
        self.change()

    def change(self, **what: Any) -> None:
        self._written = time.monotonic()
        self.record = self.record.model_copy(update=what)
        write_record(self._context.run, self.record)

    def add_seconds(self, seconds: float) -> None:
        """Of training; written now and then, as its checkpoints are."""
        self.record = self.record.model_copy(update={"train_seconds": self.record.train_seconds + seconds})
        if time.monotonic() - self._written > CHECKPOINT_SECONDS:
            self.change()

    def settle(self, pending: _Pending) -> Rung:
        """Wait for a rung's episodes, put it on record, report the best so far: by that a setting is ranked."""
        sweep, loss = self._context.sweep, pending.val_loss
        by_seed = dict.fromkeys(range(sweep.seeds_per_trial))
        rung = Rung(epoch=pending.epoch, objective=loss, val_loss=loss, by_seed=by_seed)
        if pending.evaluations:
            rung = simulated(sweep, rung, pa.concat_tables(ray.get(list(pending.evaluations))))
        self.change(rungs=[*self.record.rungs, rung])
        best = self.record.best(sweep.objective)
        assert best is not None
        self._report({"objective": best.objective, "epoch": pending.epoch})
        return rung


@dataclass(frozen=True)
class _Trained:
    """What came of one call to train a seed to an epoch."""

    epoch: Epoch
    new: bool
    """Whether it was trained now, and not before a resume."""
    seconds: float


class _Seat:
    """Trains some seeds of a setting, one after another."""

    def begin(
        self, run: Path, fitted: Sequence[tuple[Config, FittedActions]], episodes: Episodes, workers: Workers
    ) -> None:
        self._runs = {config.train.seed: SeedRun(run, config, episodes, workers, actions) for config, actions in fitted}

    def train_to(self, epoch: int) -> dict[int, _Trained]:
        trained = {}
        for seed, run in self._runs.items():
            before, began = run.training.epochs_done, time.perf_counter()
            run.train_to(epoch)
            row = run.training.history[epoch - 1]
            trained[seed] = _Trained(row, before < epoch, time.perf_counter() - began)
        return trained

    def export(self, epoch: int) -> dict[int, Job]:
        """Of a rung that an earlier start passed, the policy is read back."""
        jobs = {}
        for seed, run in self._runs.items():
            policy, _ = run.export(epoch)
            run.save()
            jobs[seed] = policy_job(policy, Split.TUNE)
        return jobs

    def act_seconds(self) -> float:
        """That a policy takes for a batch of the protocol's size."""
        policy = next(iter(self._runs.values())).training.policy()
        protocol = recipe_of(policy).protocol
        rows, window = protocol.batch_size, policy.config.model.window
        observations = np.zeros((rows, window, policy.model.obs_dim), np.float32)
        seconds = []
        for _ in range(1 + _ACTS):  # the first warms up
            began = time.perf_counter()
            policy.act(observations, np.full(rows, window), np.full(rows, 0.5), rows)
            seconds.append(time.perf_counter() - began)
        return min(seconds)


_beside: list[Any] = []  # seats in processes of their own, kept warm for the next trial of this one


class _Seeds:
    """The trainings of a setting: one after another here, or some of them side by side with this process."""

    def __init__(self, context: Context, configs: Sequence[Config], workers: Workers) -> None:
        at_once = min(context.seeds_at_once, len(configs))
        while len(_beside) < at_once - 1:
            # The trial has reserved the CPUs of all its seeds.
            _beside.append(ray.remote(_Seat).options(num_cpus=0, scheduling_strategy=on_this_node()).remote())
        self._here, self._beside = _Seat(), _beside[: at_once - 1]
        # Of one setting they differ where each seed has its own split.
        actions = ray.get([context.service.codebook.remote(config) for config in configs])
        fitted = list(zip(configs, actions, strict=True))
        begun = [
            seat.begin.remote(context.run, fitted[1 + place :: at_once], context.episodes, workers)
            for place, seat in enumerate(self._beside)
        ]
        self._here.begin(context.run, fitted[::at_once], ray.get(context.episodes), workers)
        ray.get(begun)

    def train_to(self, epoch: int) -> dict[int, _Trained]:
        """By training seed."""
        return self._each("train_to", epoch)

    def export(self, epoch: int) -> list[Job]:
        return list(self._each("export", epoch).values())

    def act_seconds(self) -> float:
        return self._here.act_seconds()

    def _each(self, what: str, epoch: int) -> dict[int, Any]:
        others = [getattr(seat, what).remote(epoch) for seat in self._beside]
        found = getattr(self._here, what)(epoch)
        for other in ray.get(others):
            found |= other
        return dict(sorted(found.items()))
