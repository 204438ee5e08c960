"""Training on Ray Train workers: the losses of one process, whatever dies on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from bet import Policy, tasks
from bet.config import Config, ConfigError, make_config
from bet.errors import FailedRunError, UsageError
from bet_ray import training
from bet_ray.distributed import train_on_workers
from bet_ray.manifest import LOCK, MANIFEST
from bet_ray.training import HISTORY_JSON, WorkerCount, begin
from tests.bet_ray.commands import Command, eventually

pytestmark = pytest.mark.slow

TWO = WorkerCount(2, 2)
SETTINGS = {"train.epochs": 4, "train.lr": 3e-3, "train.batch_size": 101, "model.dropout": 0.2, "train.ema": 0.9}


def started(run: Path, **settings: Any) -> tuple[Config, Any]:
    config = make_config("pointmass2", SETTINGS, {key.replace("_", ".", 1): value for key, value in settings.items()})
    episodes = tasks.get("pointmass2").load(config.data).split(0.2, 0)[0]
    begin(run, config, episodes, resume=False)
    return config, episodes


def losses(run: Path) -> list[dict[str, Any]]:
    names = ["epoch", "train_loss", "train_focal", "train_offset", "val_loss", "val_focal", "val_offset", "lr"]
    return pq.read_table(run / "history.parquet").select(names).to_pylist()


def assert_the_same_losses(left: Path, right: Path) -> None:
    """To 1e-5 in the first two epochs; then training amplifies what rounding began."""
    for a, b in zip(losses(left), losses(right), strict=True):
        assert a == pytest.approx(b, rel=1e-5 if b["epoch"] <= 2 else 1e-3)


def train_workers() -> list[psutil.Process]:
    """The training processes below this one, oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may be about to end
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append((process.create_time(), process))
    return [process for _, process in sorted(found, key=lambda one: one[0])]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process finds."""
    run = tmp_path_factory.mktemp("alone")
    training.train(run, *started(run))
    return run


@pytest.mark.usefixtures("ray_session")
def test_two_workers_one_of_whom_is_killed_equal_one_listen_on_loopback_alone_and_leave_only_the_run(
    alone: Path, tmp_path: Path
) -> None:
    """As many as there are room for; with kill -9, which costs nothing but time."""
    config, episodes = started(tmp_path)
    at_work: list[int] = []
    heard: list[set[str]] = []
    told: list[int] = []

    def listen(done: float, epoch: Any) -> None:
        told.append(epoch.epoch)
        connections = [c for process in train_workers() for c in process.net_connections(kind="inet")]
        heard.append({c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN})

    def kill_one() -> None:
        eventually(lambda: list(tmp_path.rglob(HISTORY_JSON)))
        there = train_workers()
        there[-1].kill()
        at_work.append(len(there))

    threading.Thread(target=kill_one, daemon=True).start()
    best = train_on_workers(tmp_path, config, episodes, WorkerCount(1, 2), progress=listen)
    assert at_work == [2]
    assert_the_same_losses(tmp_path, alone)
    assert sorted(set(told)) == [1, 2, 3, 4]
    assert set().union(*heard) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert best.val_loss == min(row["val_loss"] for row in losses(tmp_path))
    assert Policy.load(tmp_path).config == config
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, MANIFEST, "history.parquet", "policies"}


@pytest.mark.usefixtures("ray_session")
def test_gpus_that_are_not_here_are_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--use-gpu: 1,000 workers, but Ray finds \d+ GPUs here"):
        train_on_workers(tmp_path, *started(tmp_path), WorkerCount(1000, 1000), use_gpu=True)


def test_what_workers_cannot_train_together_is_refused_before_any_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bet_ray.distributed.session", lambda _: pytest.fail("too late"))
    with pytest.raises(ConfigError, match="so train with one worker"):
        train_on_workers(tmp_path, *started(tmp_path, model_trunk="mlp", model_batch_norm=True), TWO)


@pytest.mark.usefixtures("ray_session")
def test_errors_of_ours_are_not_tried_again(tmp_path: Path) -> None:
    began = time.monotonic()
    config, episodes = started(tmp_path, train_lr=1e9, train_grad_clip=None)
    with pytest.raises(FailedRunError, match=r"not finite in epoch \d; try a smaller train\.lr"):
        train_on_workers(tmp_path, config, episodes, TWO)
    assert time.monotonic() - began < 300


def test_a_driver_killed_with_kill_9_resumes_with_another_number_of_workers(tmp_path: Path, command: Command) -> None:
    typed, run = ("train", "pointmass2", "train.epochs=3", "window=3", "--out"), tmp_path / "killed"
    bet_ray = [sys.executable, "-c", "from bet_ray.cli import main; main()"]
    process = subprocess.Popen([*bet_ray, *typed, str(run), "--num-workers", "2"], start_new_session=True)
    eventually(lambda: list(run.rglob(HISTORY_JSON)), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert command(*typed, run, "--resume").code == 0
    assert command(*typed, tmp_path / "straight").code == 0
    assert_the_same_losses(run, tmp_path / "straight")


@pytest.mark.parametrize(("text", "count"), [("1", (1, 1)), ("3", (3, 3)), ("2-4", (2, 4))])
def test_a_number_or_a_range_says_how_many_workers(text: str, count: tuple[int, int]) -> None:
    assert WorkerCount.parse(text) == WorkerCount(*count)


@pytest.mark.parametrize("text", ["", "two", "0", "4-2", "2-", "-1", "1-2-3", "1.5"])
def test_what_is_no_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--num-workers"):
        WorkerCount.parse(text)
