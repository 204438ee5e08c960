"""Trackers show what was logged, and whatever happens to them the run goes on with one warning."""

import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import imageio.v3 as iio
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from bet.config import ConfigError, TrackConfig, WandbMode, changed, make_config, parse_overrides
from bet.data.store import load_episodes, save_episodes
from bet.envs.pointmass import PointMassVersion
from bet.envs.vector import RenderError
from bet.oracles.pointmass import demonstrations
from bet_ray import tracking as trackers
from bet_ray.manifest import holds_a_run
from bet_ray.sweep import parse_sweep
from bet_ray.tracking import Kind, Trackers, tracking
from bet_ray.training import begin, trial_id
from tests.bet_ray.trackers import tensorboard_events, tensorboard_scalars, wandb_runs

OFFLINE = TrackConfig(wandb=WandbMode.OFFLINE, project="tests")
BOARD = TrackConfig(tensorboard=True)
BOTH = OFFLINE.model_copy(update={"tensorboard": True})
FRAMES = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(7)]
FPS = 10


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The warnings so far."""
    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: messages.append(str(message))
        yield messages


def processes(folder: Path) -> list[psutil.Process]:
    """What runs for the wandb of runs below a folder; nobody's children."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("WANDB_CACHE_DIR", "").startswith(str(folder)):
                found.append(process)
    return found


def left(folder: Path) -> list[psutil.Process]:
    """What of it does not end by itself."""
    return psutil.wait_procs(processes(folder), timeout=60)[1]


def service(folder: Path) -> psutil.Process:
    (found,) = [process for process in processes(folder) if process.name() == "wandb-core"]
    return found


def log_some(tracker: Trackers) -> None:
    tracker.log(2, {"loss": 0.5, "accuracy": 0.25})
    tracker.log(1, {"loss": 1.5})
    tracker.summary({"success": 0.75})
    tracker.table("episodes", pa.table({"index": [0, 1], "route": ["left", None], "primary": [0.5, 1.0]}))
    tracker.video("best", lambda: (FRAMES, FPS))


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path, warned: list[str]) -> None:
    with tracking(BOARD, tmp_path, Kind.TRAIN, {}) as tracker:
        log_some(tracker)
    assert tensorboard_scalars(tmp_path / "tensorboard" / "train") == {
        ("loss", 2): 0.5,
        ("accuracy", 2): 0.25,
        ("loss", 1): 1.5,
        ("summary/success", 0): 0.75,
    }
    (image,) = (
        value.image
        for event in tensorboard_events(tmp_path / "tensorboard")
        for value in event.summary.value
        if value.HasField("image")
    )
    assert (image.height, image.width) == (32, 48)
    shown = iio.imread(image.encoded_image_string, extension=".gif", index=None)
    np.testing.assert_array_equal(shown[..., 0].mean(axis=(1, 2)), [0, 20, 40, 60, 80, 100, 120])
    assert warned == []


def test_what_was_logged_is_on_disk_before_the_end(tmp_path: Path) -> None:
    with tracking(BOARD, tmp_path, Kind.TRAIN, {}) as tracker:
        tracker.log(1, {"loss": 1.5})
        assert tensorboard_scalars(tmp_path) == {("loss", 1): 1.5}


def test_wandb_reads_back_what_was_logged(tmp_path: Path, warned: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "my-run"
    with tracking(OFFLINE, run, Kind.TRIAL, {"model": {"window": 3}}, "abcd", "window=3") as tracker:
        log_some(tracker)
    assert warned == []
    assert capfd.readouterr() == ("", "")
    (found,) = wandb_runs(run)
    assert found.run.project == "tests"
    assert found.run.run_group == "my-run"
    assert found.run.display_name == "my-run window=3"
    assert found.run.job_type == "trial"
    assert found.config["model"] == {"window": 3}
    assert found.values("loss") == {1: 1.5, 2: 0.5}
    assert found.values("accuracy") == {2: 0.25}
    assert found.summary["success"] == 0.75
    assert found.finished
    (table,) = (row["episodes"] for row in found.history if "episodes" in row)
    assert json.loads((found.files / table["path"]).read_text()) | {"ncols": 0, "nrows": 0} == {
        "columns": ["index", "route", "primary"],
        "data": [[0, "left", 0.5], [1, None, 1.0]],
        "ncols": 0,
        "nrows": 0,
    }
    (video,) = (row["best"] for row in found.history if "best" in row)
    assert len(iio.imread(found.files / video["path"])) == len(FRAMES)


def test_wandb_keeps_to_the_run_directory_and_to_this_machine(tmp_path: Path) -> None:
    with tracking(OFFLINE, tmp_path, Kind.TRAIN, {}) as tracker:
        tracker.log(1, {"loss": 1.0})
        running = processes(tmp_path)
        assert {"wandb-core"} < {process.name() for process in running}
        assert [connection for process in running for connection in process.net_connections(kind="inet")] == []
        opened = {Path(file.path) for process in running for file in process.open_files() if "w" in file.mode}
        assert opened
        assert all(path.is_relative_to(tmp_path) for path in opened)
    assert left(tmp_path) == []


def test_a_run_that_is_resumed_goes_on_under_its_name_and_an_evaluation_gets_a_new_one(tmp_path: Path) -> None:
    for kind in (Kind.TRAIN, Kind.EVAL, Kind.TRAIN):
        with tracking(OFFLINE, tmp_path, kind, {}) as tracker:
            tracker.summary({"x": 1.0})
    first, evaluated, second = (found.run.run_id for found in wandb_runs(tmp_path))
    assert first == second != evaluated


def test_nothing_is_done_and_no_video_made_where_nobody_asked(tmp_path: Path) -> None:
    with tracking(TrackConfig(), tmp_path, Kind.TRAIN, {}) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.video("best", lambda: pytest.fail("nobody watches"))
    assert list(tmp_path.iterdir()) == []


def goes_on(track: TrackConfig, run: Path) -> TrackConfig:
    """Log into trackers of which one cannot work; gives what still works."""
    with tracking(track, run, Kind.TRAIN, {}) as tracker:
        log_some(tracker)
        log_some(tracker)
    return tracker.track


def test_a_wandb_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, warned: list[str]) -> None:
    (tmp_path / "wandb").write_text("in the way")
    left = goes_on(BOTH, tmp_path)
    (message,) = warned
    assert message.startswith("wandb: ")
    assert message.endswith("; the run goes on without it")
    assert left == TrackConfig(tensorboard=True, project="tests")
    assert ("loss", 2) in tensorboard_scalars(tmp_path)


def test_a_tensorboard_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, warned: list[str]) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    goes_on(BOARD, tmp_path)
    (message,) = warned
    assert message.startswith("tensorboard: ")


def test_a_video_that_cannot_be_made_is_one_warning_and_nothing_else_is_lost(tmp_path: Path, warned: list[str]) -> None:
    def blind() -> NoReturn:
        raise RenderError("has no pictures")

    with tracking(BOARD, tmp_path, Kind.EVAL, {}) as tracker:
        tracker.video("best episode", blind)
        tracker.log(1, {"loss": 1.0})
    assert warned == ["no video of the best episode: has no pictures; the run goes on without it"]
    assert tensorboard_scalars(tmp_path) == {("loss", 1): 1.0}


def test_without_the_package_it_is_one_warning_that_says_how_to_get_it(
    tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # how Python spells that it cannot be imported
    goes_on(OFFLINE, tmp_path)
    assert warned == ["wandb: is not installed (pip install 'bet-ray[wandb]'); the run goes on without it"]


def test_a_package_that_does_not_import_is_one_warning(
    tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / "wandb"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('protobuf is too old')\n")
    monkeypatch.syspath_prepend(broken.parent)
    goes_on(OFFLINE, tmp_path / "run")
    (message,) = warned
    assert "ImportError: protobuf is too old" in message


@pytest.mark.slow
def test_a_trial_that_is_stopped_leaves_a_finished_run(tmp_path: Path, ray_session: int) -> None:
    class Trial:
        def __init__(self) -> None:
            self.tracker = tracking(OFFLINE, tmp_path, Kind.TRIAL, {})
            self.tracker.__enter__().log(1, {"loss": 1.0})

    trial: Any = ray.remote(Trial).remote()
    ray.get(trial.__ray_ready__.remote())
    trial.__ray_terminate__.remote()  # as Tune does; Ray then kills the children of its worker
    assert left(tmp_path) == []
    (found,) = wandb_runs(tmp_path)
    assert found.finished
    assert found.values("loss") == {1: 1.0}


@pytest.mark.parametrize("whom", ["service", "process"])
def test_a_wandb_killed_with_kill_9_is_one_warning(tmp_path: Path, warned: list[str], whom: str) -> None:
    with tracking(BOTH, tmp_path, Kind.TRAIN, {}) as tracker:
        tracker.log(1, {"loss": 1.0})
        victim = service(tmp_path) if whom == "service" else service(tmp_path).parent()
        assert victim is not None
        victim.kill()
        while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:  # its parent may not ask for it
            time.sleep(0.01)
        for epoch in range(2, 5):
            tracker.log(epoch, {"loss": 1.0 / epoch})
    (message,) = warned
    assert message.startswith("wandb: ")
    assert message.endswith("; the run goes on without it")
    assert len(tensorboard_scalars(tmp_path)) == 4
    assert left(tmp_path) == []


def test_a_wandb_that_hangs_holds_up_nobody(tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 1.0)
    big = {f"number {i}": float(i) for i in range(1000)}
    with tracking(OFFLINE, tmp_path, Kind.TRAIN, {}) as tracker:
        hung = processes(tmp_path)
        assert hung
        for process in hung:
            process.suspend()
        for epoch in range(100):  # more than a pipe holds
            tracker.log(epoch, big)
    (message,) = warned
    assert "does not answer" in message
    for process in hung:
        if process.is_running():
            process.resume()
    assert psutil.wait_procs(hung, timeout=20)[1] == []


def test_online_without_a_login_asks_nothing_and_is_one_warning(
    tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    goes_on(TrackConfig(wandb=WandbMode.ONLINE), tmp_path / "run")
    (message,) = warned
    assert "not logged in; run `wandb login`, set WANDB_API_KEY, or use track.wandb=offline" in message


def test_online_without_a_network_is_one_warning(
    tmp_path: Path, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "OPEN_SECONDS", 6.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    goes_on(TrackConfig(wandb=WandbMode.ONLINE), tmp_path)
    assert len(warned) == 1
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_does_not_end_the_run(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import psutil\n"
        "from bet.config import TrackConfig\n"
        "from bet_ray.tracking import Kind, tracking\n"
        "from tests.bet_ray.test_tracking import processes\n"
        "track = TrackConfig(wandb='offline', tensorboard=True)\n"
        "with tracking(track, Path(sys.argv[1]), Kind.TRAIN, {}) as tracker:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))\n"
        "    for process in processes(Path(sys.argv[1])): process.rlimit(psutil.RLIMIT_FSIZE, (1, 1))\n"
        "    for epoch in range(200): tracker.log(epoch, {f'number {i}': 1.0 for i in range(100)})\n"
        "print('trained')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    said = [line.partition("Warning: ")[2] for line in done.stderr.splitlines() if "Warning: " in line]
    assert sorted(line.partition(":")[0] for line in said) == ["tensorboard", "wandb"], done.stderr
    assert "Traceback" not in done.stderr


def test_tracking_is_no_part_of_what_a_run_is() -> None:
    plain = make_config("pointmass2")
    tracked = make_config("pointmass2", {"track.wandb": "online", "track.tensorboard": True})
    assert tracked.track.wandb is WandbMode.ONLINE
    assert plain.digest == tracked.digest
    assert trial_id(plain) == trial_id(tracked)
    assert "track" not in tracked.model_dump(mode="json")


def test_off_is_off_though_yaml_reads_it_as_false() -> None:
    assert make_config("pusht", parse_overrides(["track.wandb=off"])).track.wandb is WandbMode.OFF
    with pytest.raises(ConfigError, match="track"):
        make_config("pusht", parse_overrides(["track.wandb=on"]))


SWEEP = {"question": "q?", "task": "pointmass2", "space": {"bins": [2, 3]}, "search": "grid"}


def test_a_sweep_is_tracked_as_a_whole_and_keeps_no_record_of_it() -> None:
    assert parse_sweep({**SWEEP, "track": {"wandb": "offline"}}, "s").track == TrackConfig(wandb=WandbMode.OFFLINE)
    assert "track" not in parse_sweep(SWEEP, "s").model_dump()
    with pytest.raises(ConfigError, match="tracking is of the whole sweep; write it as track"):
        parse_sweep({**SWEEP, "base": {"track": {"wandb": "offline"}}}, "s")
    with pytest.raises(ConfigError, match="does not make another setting"):
        parse_sweep({**SWEEP, "space": {"track.project": ["a", "b"]}}, "s")


def test_what_is_changed_in_a_config_leaves_its_trackers_as_they_were() -> None:
    config = make_config("pointmass2", {"track.wandb": "online"})
    found = changed(config, {"eval.episodes": 5, "track.tensorboard": True})
    assert (found.eval.episodes, found.track) == (5, TrackConfig(wandb=WandbMode.ONLINE, tensorboard=True))


def test_a_tracker_alone_in_a_run_directory_is_no_run(tmp_path: Path) -> None:
    with tracking(BOARD, tmp_path, Kind.TRAIN, {}):
        pass
    assert not holds_a_run(tmp_path)


def bet_ray(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bet_ray.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_training_and_its_evaluation_are_tracked(tmp_path: Path) -> None:
    save_episodes(demonstrations(PointMassVersion.TWO, 200, seed=0), tmp_path / "d.parquet")
    settings = [f"data.path={tmp_path}/d.parquet", "train.epochs=2"]
    run = tmp_path / "tracked"
    done = bet_ray("train", "pointmass2", *settings, "--out", run, "--wandb", "--tensorboard")
    assert (done.returncode, "without it" in done.stderr) == (0, False), done.stderr
    config = make_config("pointmass2", parse_overrides(settings))
    begin(run, config, load_episodes(tmp_path / "d.parquet"), resume=True)  # without trackers, and the same run
    done = bet_ray("eval", run, "eval.episodes=8", "--actors", "1", "--slots", "4", "--wandb", "--tensorboard")
    assert (done.returncode, done.stderr) == (0, "")

    history = pq.read_table(run / "history.parquet").to_pylist()
    episodes = pq.read_table(run / "episodes").to_pylist()
    training, evaluation = wandb_runs(run)
    scalars = tensorboard_scalars(run / "tensorboard" / "train")
    for row in history:
        for name in ("train_loss", "val_loss", "val_accuracy", "lr"):
            assert training.values(name)[row["epoch"]] == row[name]
            assert math.isclose(scalars[name, row["epoch"]], row[name], rel_tol=1e-6)
    assert training.summary["val_loss"] == min(row["val_loss"] for row in history)
    assert training.config["codebook"]["bins"] == 3
    assert evaluation.summary["success"] == sum(row["success"] for row in episodes) / 8
    assert evaluation.run.run_group == training.run.run_group == "tracked"
    (shown,) = (row["episodes"] for row in evaluation.history if "episodes" in row)
    assert len(json.loads((evaluation.files / shown["path"]).read_text())["data"]) == 8
    (video,) = (row["best episode"] for row in evaluation.history if "best episode" in row)
    best = max(episodes, key=lambda row: (row["primary"], -row["index"]))
    assert len(iio.imread(evaluation.files / video["path"])) == best["length"] + 1


@pytest.mark.slow
def test_a_sweep_has_a_run_for_itself_and_one_for_each_trial_in_one_group(tmp_path: Path) -> None:
    save_episodes(demonstrations(PointMassVersion.TWO, 200, seed=0), tmp_path / "d.parquet")
    file = tmp_path / "s.yaml"
    file.write_text(
        "question: which?\ntask: pointmass2\nspace: {bins: [2, 3]}\n"
        f"base: {{data: {{path: {tmp_path}/d.parquet}}, train: {{epochs: 4}}}}\n"
        "search: grid\nscheduler: asha\neval: {episodes: 4, rungs: 2, winner_episodes: 8}\ntrack: {tensorboard: true}\n"
        "resources: {actors: 1, trials_at_once: 1}\n"
    )
    run = tmp_path / "s"
    done = bet_ray("sweep", file, "--out", run, "--wandb")
    assert done.returncode == 0, done.stderr
    assert "goes on without it" not in done.stderr
    trials = pq.read_table(run / "trials.parquet").to_pylist()
    history = pq.read_table(run / "history.parquet").to_pylist()
    assert left(tmp_path) == []  # of a trial that was stopped, it may outlive the sweep
    found = wandb_runs(run)
    assert {one.run.run_group for one in found} == {"s"}
    assert all(one.finished for one in found)
    (whole,) = (one for one in found if one.run.job_type == "sweep")
    assert whole.summary["objective"] == max(trial["objective"] for trial in trials)
    by_bins = {one.config["codebook"]["bins"]: one for one in found if one.run.job_type == "trial"}
    assert by_bins.keys() == {2, 3}
    for trial in trials:
        one = by_bins[json.loads(trial["codebook.bins"])]
        assert one.run.display_name == f"s bins={trial['codebook.bins']}"
        assert one.values("objective")[trial["epoch"]] == trial["objective"]
        losses = {row["epoch"]: row["val_loss"] for row in history if row["trial"] == trial["trial"]}
        assert one.values("seed 0/val_loss") == losses
        scalars = tensorboard_scalars(run / "tensorboard" / f"trial-{trial['trial']}")
        assert math.isclose(scalars["objective", trial["epoch"]], trial["objective"], rel_tol=1e-6)
