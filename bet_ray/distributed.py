"""Several Ray Train workers share every batch of one training; the loop and its files are those of one process.

The checkpoint in the run directory is the only state: a worker group that was restarted or resized, and a run resumed
after kill -9 of its driver, go on from it, with as many workers as there are then.
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import ray
import torch
import torch.distributed as dist
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from bet.config import Config
from bet.data.episodes import Episodes
from bet.errors import FailedRunError, UsageError
from bet.training import Epoch, check_workers
from bet.wording import counted
from bet.workers import Workers
from bet_ray.session import last_line, on_cluster, session
from bet_ray.training import HISTORY_JSON, Progress, WorkerCount, train

MAX_FAILURES = 3  # worker groups lost before the training is given up; its checkpoint stays
POLL_SECONDS = 0.5
_SCRATCH = ".ray_train"  # in the run directory: Ray Train's own bookkeeping, of which nothing is needed


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
    run = run.resolve()
    scratch = run / _SCRATCH
    asked, there = workers.most * config.train.threads, os.cpu_count() or 1
    if asked > there and not on_cluster():
        warnings.warn(
            f"{workers.most} workers of train.threads={config.train.threads} share {there} CPUs", stacklevel=2
        )
    with session(asked):
        devices = int(ray.cluster_resources().get("GPU", 0))
        if use_gpu and not on_cluster() and devices < workers.least:  # Ray Train would wait for them for ever
            raise UsageError(f"--use-gpu: {counted(workers.least, 'worker')}, but Ray finds {devices} GPUs here")
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "run": run,
                "config": config,
                "episodes": [ray.put(episodes)],
                "gpu": use_gpu,
                "keep_epochs": keep_epochs,
            },
            torch_config=None if on_cluster() else _FileMeeting(),
            scaling_config=ScalingConfig(
                num_workers=workers.least if workers.least == workers.most else (workers.least, workers.most),
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.train.threads} | ({"GPU": 1} if use_gpu else {}),
            ),
            run_config=RunConfig(
                name=uuid4().hex, storage_path=str(scratch), failure_config=FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        try:
            # Beside the main thread, where Ray Train would take Ctrl-C for itself.
            outcome = _followed(ThreadPoolExecutor(1).submit(trainer.fit), run, progress).return_value
        except TrainingFailedError as error:
            raise FailedRunError(
                f"{run}: {MAX_FAILURES + 1} groups of workers failed: {last_line(error)}; continue with --resume"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(outcome, Exception):
        raise outcome
    assert isinstance(outcome, Epoch)
    return outcome


def _worker(settings: Mapping[str, Any]) -> Epoch | UsageError | FailedRunError:
    """What every worker runs. Errors of ours are returned: Ray Train would try what it sees raised again."""
    context = get_context()
    if not dist.is_initialized():
        _meet(settings["run"] / _SCRATCH, context.get_world_rank(), context.get_world_size(), settings["gpu"])
    if settings["gpu"]:
        torch.cuda.set_device(get_device())
    try:
        episodes: Any = ray.get(settings["episodes"][0])
        workers, keep = Workers.of_process_group(), settings["keep_epochs"]
        return train(settings["run"], settings["config"], episodes, workers=workers, keep_epochs=keep)
    except (UsageError, FailedRunError) as error:
        return error


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
