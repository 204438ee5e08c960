"""Several Ray Train workers share every batch of one training; the loop and its files are those of one process.

The checkpoint in the run directory is the only state: a worker group that was restarted or resized, and a run resumed
after kill -9 of its driver, go on from it, with as many workers as there are then.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import ray
import ray.train
import torch
import torch.distributed as dist
from ray import PlacementGroupID
from ray.train import (
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    get_context,
)
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    remove_placement_group,
)

from bet.config import Config
from bet.data.episodes import Episodes
from bet.errors import FailedRunError, UsageError
from bet.training import Epoch, check_workers
from bet.wording import counted
from bet.workers import Workers
from bet_ray.manifest import write_text
from bet_ray.session import last_line, on_cluster, session
from bet_ray.storage import portable, pull
from bet_ray.trainable import WATCHING, Context, judge
from bet_ray.training import HISTORY_JSON, Progress, WorkerCount, train, trial_id
from bet_ray.trials import Status, read_record

MAX_FAILURES = 3  # worker groups lost before the training is given up; its checkpoint stays
POLL_SECONDS = 0.5
_SCRATCH = ".ray_train"  # in the run directory: Ray Train's own bookkeeping, of which nothing is needed
_PLACE = "placement_group"  # in there: whose resources are to be given back


def train_on_workers(
    run: Path,
    config: Config,
    episodes: Episodes,
    workers: WorkerCount,
    use_gpu: bool = False,
    progress: Progress | None = None,
    *,
    keep_epochs: bool = False,
) -> Epoch:
    """As `bet_ray.training.train`, on Ray Train workers of `train.threads` CPUs (and with `use_gpu` a GPU) each.

    Raises what `train` raises, `UsageError` for more GPUs than this machine has, and `FailedRunError` when workers keep
    dying; a resume then continues.
    """
    check_workers(config.model, workers.least)
    run = portable(run.resolve())
    asked, there = workers.most * config.train.threads, os.cpu_count() or 1
    if asked > there and not on_cluster():
        warnings.warn(
            f"{workers.most} workers of train.threads={config.train.threads} share {there} CPUs", stacklevel=2
        )
    with session(asked):
        devices = int(ray.cluster_resources().get("GPU", 0))
        if use_gpu and not on_cluster() and devices < workers.least:  # Ray Train would wait for them for ever
            raise UsageError(f"--use-gpu: {counted(workers.least, 'worker')}, but Ray finds {devices} GPUs here")
        settings = {"run": run, "config": config, "episodes": [ray.put(episodes)], "keep_epochs": keep_epochs}
        group = _Group(run / _SCRATCH, workers, config.train.threads, float(use_gpu))
        try:
            with group.trainer(_train, settings, max_failures=MAX_FAILURES) as trainer:
                # Beside the main thread, where Ray Train would take Ctrl-C for itself.
                outcome = _followed(ThreadPoolExecutor(1).submit(trainer.fit), run, progress).return_value
        except TrainingFailedError as error:
            raise FailedRunError(
                f"{run}: {MAX_FAILURES + 1} groups of workers failed: {last_line(error)}; continue with --resume"
            ) from error
    pull(run)  # the first worker may have been on another node
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, Epoch)
    return outcome


def judge_on_workers(context: Context, setting: Mapping[str, Any]) -> None:
    """As `bet_ray.trainable.judge`, in a trial of Tune: on Ray Train workers, whose reports Tune gets.

    Raises `FailedRunError` when a worker dies.
    """
    config, count = context.sweep.config(setting), context.sweep.resources.workers_per_trial
    trial, cpus = trial_id(config), (context.cpus - WATCHING) / count
    before = read_record(context.run, trial)
    group = _Group(context.run / "policies" / trial / _SCRATCH, WorkerCount(count, count), cpus, context.sweep.gpus)
    try:
        with group.trainer(
            _judge, {"context": context, "setting": setting}, max_failures=0, callbacks=[TuneReportCallback()]
        ) as trainer:
            trainer.fit()
    except TrainingFailedError as error:
        record = read_record(context.run, trial)
        if record is None or record.status is not Status.ERROR or record == before:  # it is no fault of the setting
            raise FailedRunError(f"a worker of trial {trial} failed: {last_line(error)}") from error


def release_workers(run: Path, trial: str) -> None:
    """End what is left of a trial that was stopped with its workers at work.

    Their placement group outlives the trial, and Ray Train's own cleaner asks a dashboard that we do not start.
    """
    note = run / "policies" / trial / _SCRATCH / _PLACE
    if note.exists():
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(note.read_text()))))
        shutil.rmtree(note.parent, ignore_errors=True)


@dataclass(frozen=True)
class _Group:
    """Workers that train together."""

    scratch: Path
    workers: WorkerCount
    cpus: float
    gpus: float
    """Of each of them."""

    @contextmanager
    def trainer(
        self,
        loop: Callable[[Mapping[str, Any], Workers], Any],
        settings: Mapping[str, Any],
        max_failures: int,
        callbacks: Sequence[UserCallback] = (),
    ) -> Iterator[TorchTrainer]:
        """Runs `loop` in every worker, with `settings` and its place in the group."""
        least, most = self.workers.least, self.workers.most
        try:
            yield TorchTrainer(
                _worker,
                train_loop_config={"loop": loop, "scratch": self.scratch, "gpu": self.gpus > 0, **settings},
                torch_config=None if on_cluster() else _FileMeeting(),
                scaling_config=ScalingConfig(
                    num_workers=least if least == most else (least, most),
                    use_gpu=self.gpus > 0,
                    resources_per_worker={"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {}),
                ),
                run_config=RunConfig(
                    name=uuid4().hex,
                    storage_path=str(self.scratch),
                    failure_config=FailureConfig(max_failures=max_failures),
                    callbacks=list(callbacks),
                ),
            )
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _worker(settings: Mapping[str, Any]) -> Any:
    """What every worker runs."""
    context = get_context()
    if not dist.is_initialized():
        _meet(settings["scratch"], context.get_world_rank(), context.get_world_size(), settings["gpu"])
    if settings["gpu"]:
        torch.cuda.set_device(get_device())
    return settings["loop"](settings, Workers.of_process_group())


def _train(settings: Mapping[str, Any], workers: Workers) -> Epoch | UsageError | FailedRunError:
    """Errors of ours are returned: Ray Train would try what it sees raised again."""
    try:
        episodes: Any = ray.get(settings["episodes"][0])
        keep = settings["keep_epochs"]
        return train(settings["run"], settings["config"], episodes, workers=workers, keep_epochs=keep)
    except (UsageError, FailedRunError) as error:
        return error


def _judge(settings: Mapping[str, Any], workers: Workers) -> None:
    place = get_current_placement_group()
    if workers.rank == 0 and place is not None:
        write_text(settings["scratch"] / _PLACE, place.id.hex())
    judge(settings["context"], settings["setting"], ray.train.report, workers)


class _FileMeeting(TorchConfig):
    """Leaves the process group to `_meet`: PyTorch's own meeting point would listen on every network interface."""

    backend_cls: ClassVar[type[Backend]] = Backend  # pyright: ignore[reportIncompatibleMethodOverride]


def _meet(folder: Path, rank: int, count: int, gpu: bool) -> None:
    """Form the process group of workers on this machine through a file."""
    place = broadcast_from_rank_zero(uuid4().hex if rank == 0 else None)
    dist.init_process_group(
        "nccl" if gpu else "gloo", init_method=f"file://{folder / str(place)}", rank=rank, world_size=count
    )


def _followed(fit: Future[Result], run: Path, progress: Progress | None) -> Result:
    """Wait for the end, telling of each epoch as its row appears in the run directory."""
    told = len(_history(run))
    while True:
        ended = wait([fit], timeout=POLL_SECONDS).done
        rows = _history(run)
        for row in rows[told:]:
            if progress:
                progress(row.epoch, row)
        told = len(rows)
        if ended:
            return fit.result()


def _history(run: Path) -> list[Epoch]:
    files = list((run / "policies").glob(f"*/*/{HISTORY_JSON}"))
    return [Epoch(**row) for row in json.loads(files[0].read_text())] if files else []
