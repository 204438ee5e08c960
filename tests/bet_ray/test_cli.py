"""Commands do what their help says, and answer bad input with one line and exit code 2."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bet.data.episodes import Episodes
from bet.data.formats import DataFormat, save
from bet.data.store import save_episodes
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet.policy import Policy
from bet_ray.cli import main
from bet_ray.manifest import write_manifest
from tests.bet.data.samples import some
from tests.bet_ray.commands import Command, at_a_terminal, eventually

Refused = Callable[..., str]


@pytest.fixture
def refused(command: Command) -> Refused:
    """Runs a command that must fail as a usage error, and gives the one line it prints."""

    def run(*arguments: str | Path) -> str:
        done = command(*arguments)
        assert done.code == 2, done
        lines = done.err.strip().splitlines()
        assert len(lines) == 1, done.err
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "pushd"], "unknown task 'pushd'; did you mean 'pusht'?"),
        (["train", "pointmass2", "bin=3"], "unknown setting 'bin'; did you mean 'bins'?"),
        (["train", "pointmass2", "bins=0"], "codebook.bins: Input should be greater than 0 (got 0)"),
        (["train", "pointmass2", "bins"], "expected key=value, got 'bins'"),
        (["train", "pointmass2", "model.heads=3"], "width 20 is not a multiple of heads 3"),
        (["train", "pointmass2", "train.lr=fast"], "train.lr: Input should be a valid number"),
        (["train", "pointmass2", "data.observation=agent"], "pointmass2 has no layout 'agent'"),
        (["train", "pusht", "data.path=nowhere.zarr"], "nowhere.zarr: no such demonstrations"),
        (["train", "pointmass2", "data.path=nowhere.parquet"], "nowhere.parquet: no such file"),
        (["train", "pointmass2", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["train", "pointmass2", "train.device=gpu"], "train.device"),
        (["train", "pointmass2", "--use-gpu", "train.device=cpu"], "--use-gpu does not go with train.device=cpu"),
        (["eval", "nowhere"], "nowhere: no such run or policy directory"),
        (["eval", "."], "neither a policy"),
        (["eval", "nowhere", "--inference", "gpu"], "--inference: expected cuda or cpu, got 'gpu'"),
        (["verify", "nowhere"], "nowhere: no such run or policy directory"),
        (["metrics", "pushd"], "pushd: neither a task nor a file or folder; did you mean 'pusht'?"),
        (["train", "pointmass2", "--resume"], "--resume needs --out"),
        (["sweep", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["report", "nowhere"], "nowhere: no such directory"),
        (
            ["train", "bins=3", "task.env=Pendulum-v1"],
            "expected a task or task.env=ID before the settings, got 'bins=3'",
        ),
        (["train", "task.env=Pendulums-v1"], "unknown task 'Pendulums-v1': Environment `Pendulums` doesn't exist"),
        (["train", "task.env=MountainCarContinuous-v0"], "data.path: MountainCarContinuous-v0 comes without"),
        (["data", "info", "no_such_pkg:X-v0"], "unknown task 'no_such_pkg:X-v0': No module named 'no_such_pkg'"),
        (["data", "generate", "pusht"], "no demonstrator for 'pusht'"),
        (["data", "generate", "pointmass1", "--out", "."], ".: is there already; remove it, or choose another --out"),
        (["data", "generate", "blockpush", "--noise", "0.1"], "--noise does not go with blockpush"),
        (["data", "generate", "pointmass1", "--workers", "2"], "--workers does not go with pointmass1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_that_names_it(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)


def test_a_yaml_syntax_error_names_the_line(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("question: which?\ntask: [pusht\nspace: {}\n")
    assert "bad.yaml line 3: not valid YAML" in refused("sweep", file)


def test_demonstrations_that_are_not_parquet_are_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    assert "d.parquet: not a readable parquet file" in refused("train", "pointmass2", f"data.path={tmp_path}/d.parquet")


def test_demonstrations_of_another_task_are_refused(tmp_path: Path, refused: Refused) -> None:
    save_episodes(demonstrations(PointMassVersion.ONE, 10, seed=0), tmp_path / "d.parquet")
    message = refused("train", "pointmass2", f"data.path={tmp_path}/d.parquet")
    assert "demonstrations of 'pointmass1', expected 'pointmass2'" in message


def test_a_nan_in_the_demonstrations_names_the_row(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "d.parquet"
    save_episodes(demonstrations(PointMassVersion.TWO, 10, seed=0), path)
    table = pq.read_table(path)
    actions = np.array(table.column("action").combine_chunks().flatten())
    actions[5] = np.nan
    broken = pa.FixedSizeListArray.from_arrays(pa.array(actions), 2)
    pq.write_table(table.set_column(2, table.schema.field(2), broken), path)
    assert "actions row 2 (episode 0) is not finite" in refused("train", "pointmass2", f"data.path={path}")


def test_a_damaged_policy_names_its_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "policy.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert str(tmp_path) in refused("eval", tmp_path)


@pytest.mark.parametrize("verb", ["eval", "replay"])
def test_a_sweep_without_a_winner_yet_says_how_to_finish_it_or_what_to_take(
    verb: str, trained: Path, tmp_path: Path, refused: Refused
) -> None:
    run = tmp_path / "s"
    shutil.copytree(trained / "policies", run / "policies", ignore=shutil.ignore_patterns("best"))
    write_manifest(run, "sweep", "pointmass2", {})
    policy = (trained / "policies" / "best").read_text().strip()
    finish = f"finish it with `bet-ray sweep FILE --out {run} --resume`"
    take = f"take one of its policies: {run}/policies/{policy}"
    assert refused(verb, run) == f"error: {run}: the sweep is not finished, it has no winner yet; {finish}, or {take}"


def test_a_directory_in_use_is_not_trained_into(trained: Path, refused: Refused) -> None:
    assert "continue it with --resume or choose another --out" in refused("train", "pointmass2", "--out", trained)


def test_an_unknown_split_is_refused(trained: Path, refused: Refused) -> None:
    for command in ("eval", "replay"):
        assert "no split 'reports'; did you mean 'report'?" in refused(command, trained, "--split", "reports")


def test_a_network_that_does_not_fit_into_memory_is_one_line_and_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["bet-ray", "train", "pointmass2", "model.width=40000000000000", "--out", out])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "allocate memory" in line
    assert line.endswith("try a smaller train.batch_size or model.width")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("eval.hold_bins=0", "eval.hold_bins: Input should be greater than 0"),
        ("eval.window=99", "eval.window: 99 is more than the 2 of the policy's training"),
        ("eval.bins=prior", "eval.bins: Input should be 'policy' or 'codebook'"),
        ("eval.start=seen", "eval.start: Input should be 'reset' or 'demonstrations'"),
        ("eval.hold=3", "unknown setting 'eval.hold'; did you mean 'eval.hold_bins'?"),
        ("eval.protocol=pusht-v1", "eval.protocol: pointmass2 has no protocol 'pusht-v1'"),
        ("bins=3", "codebook.bins: the policy is trained; an evaluation takes settings of eval."),
    ],
)
def test_a_setting_that_an_evaluation_cannot_have_is_refused(
    trained: Path, refused: Refused, setting: str, message: str
) -> None:
    for command in ("eval", "replay"):
        assert message in refused(command, trained, setting)


def test_a_folder_of_episodes_alone_says_where_to_look_for_the_policy(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "episodes").mkdir()
    for command in ("eval", "replay"):
        assert "holds episodes and no policy; name the run" in refused(command, tmp_path)


def test_a_video_with_another_ending_is_refused_before_the_policy_is_loaded(refused: Refused) -> None:
    assert "v.avi: a video is .mp4 or .gif" in refused("replay", "nowhere", "--video", "v.avi")


def test_a_training_is_not_resumed_with_other_settings(trained: Path, refused: Refused) -> None:
    assert "cannot resume with other settings" in refused("train", "pointmass2", "bins=5", "--out", trained, "--resume")


def test_the_command_line_answers_before_it_loads_the_heavy_libraries() -> None:
    code = "import sys, bet_ray.cli; print(*{'torch', 'ray', 'scipy', 'pandas', 'plotly', 'optuna'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_help_shows_an_example_for_every_command(command: Command) -> None:
    for name in ("train", "eval", "compare", "plan", "sweep", "report", "replay", "demo", "settings", "import"):
        done = command(name, "--help")
        assert done.code == 0
        assert f"bet-ray {name}" in done.out.split("Example")[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_generate_train_eval_and_replay_work_in_a_row(tmp_path: Path, command: Command) -> None:
    data, run, video = tmp_path / "d.parquet", tmp_path / "run", tmp_path / "v.gif"
    assert command("data", "generate", "pointmass1", "--episodes", "200", "--out", data).code == 0
    assert "200 demonstrations" in command("data", "info", data).out
    trained = command("train", "pointmass1", f"data.path={data}", "train.epochs=2", "--out", run)
    assert trained.code == 0, trained.err
    assert f"next: bet-ray eval {run}" in trained.out
    evaluated = command("eval", run, "--episodes", "20", "--actors", "1", "--slots", "4", "--save-trajectories")
    assert evaluated.code == 0, evaluated.err
    assert "success x mode coverage" in evaluated.out
    assert "20 episodes run" in evaluated.out
    assert "no known route: " in evaluated.out
    replayed = command("replay", run, "--episode", "3", "--video", video)
    assert replayed.code == 0, replayed.err
    assert video.read_bytes()[:3] == b"GIF"
    row = pq.read_table(run / "episodes").to_pylist()[3]
    assert "the same as the recorded row, to the last bit" in replayed.out
    end = row["end"] if row["success"] else f"no success, {row['end']}"
    assert f"report episode 3 · {end} after {row['length']} steps, return {row['return']:.2f}" in replayed.out
    assert "every step the same as the one kept in trajectories/, to the last bit" in replayed.out


def test_a_task_without_a_simulator_is_trained_and_refused_where_needed(
    tmp_path: Path, command: Command, refused: Refused
) -> None:
    task, run, file = "carla", tmp_path / "run", tmp_path / "s.yaml"
    save(some(task, 512, 2, (40, 50, 30)), tmp_path / "data.parquet", DataFormat.PARQUET)
    settings = [f"data.path={tmp_path / 'data.parquet'}", "bins=4", "model.layers=1", "train.epochs=1"]
    trained = command("train", task, *settings, "--out", run)
    assert trained.code == 0, trained.err
    assert trained.out.splitlines()[-1].startswith("policy ")  # nothing is said of eval
    policy = Policy.load(run)
    assert (policy.model.obs_dim, policy.model.act_dim, policy.config.task) == (512, 2, task)
    file.write_text(f"question: Which?\ntask: {task}\nspace: {{bins: [2, 3]}}\nsearch: grid\n")
    for typed in (["eval", run], ["replay", run], ["sweep", file, settings[0], "--out", tmp_path / "sweep"]):
        assert refused(*typed).startswith(f"error: {task} has no simulator yet: ")
    assert not (run / "episodes").exists()
    assert not (tmp_path / "sweep").exists()


LINE = """
import os

import gymnasium
import numpy as np


class Line(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-0.25, 0.25, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, -0.5, 1).astype(np.float32)
        return self.x, {}

    def step(self, action):
        if os.environ.get("LINE_BREAKS"):
            raise ZeroDivisionError("no way on")
        self.x += action  # the array handed out before
        there = bool(abs(self.x[0] - 1) < 0.1)
        return self.x, -float(abs(self.x[0] - 1)), there, False, {"is_success": there}


gymnasium.register("Line-v0", Line, max_episode_steps=30)
"""


@pytest.mark.slow
def test_an_environment_in_a_file_of_the_working_directory_trains_evaluates_and_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "line_pkg.py").write_text(LINE)
    starts = np.random.default_rng(0).uniform(-1, -0.5, 60)
    paths = [np.arange(start, 0.92, 0.25) for start in starts]  # steps of 0.25 to within 0.1 of 1, then a shorter one
    observations = np.concatenate(paths)[:, None]
    actions = np.concatenate([np.minimum(1 - path, 0.25) for path in paths])[:, None]
    ends = np.cumsum([len(path) for path in paths])
    save_episodes(Episodes(observations, actions, ends, "line_pkg:Line-v0"), tmp_path / "demos.parquet")  # pyright: ignore[reportArgumentType]
    monkeypatch.chdir(tmp_path)

    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        # `-P`: like an installed script, without the working directory on Python's path
        command = [sys.executable, "-P", "-c", "from bet_ray.cli import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    trained = ran(
        "train", "task.env=line_pkg:Line-v0", "data.path=demos.parquet", "bins=4", "train.epochs=10", "--out", "run"
    )
    assert trained.returncode == 0, trained.stderr
    evaluated = ran("eval", "run", "--episodes", "30", "--actors", "2", "--slots", "4")
    assert evaluated.returncode == 0, evaluated.stderr
    rows = pq.read_table("run/episodes").to_pylist()
    assert [row["index"] for row in rows] == list(range(30))
    assert {row["task"] for row in rows} == {"line_pkg:Line-v0"}
    assert sum(row["success"] for row in rows) > 15
    replayed = ran("replay", "run", "--episode", "3")  # it has no pictures, and none are asked for
    assert "the same as the recorded row, to the last bit" in replayed.stdout, replayed.stderr

    monkeypatch.setenv("LINE_BREAKS", "1")  # found when it is played to learn what it reports
    broken = ran("eval", "run", "--episodes", "60")
    assert broken.returncode == 1
    assert broken.stderr.strip() == "error: line_pkg:Line-v0 raised ZeroDivisionError: no way on"
    assert len(pq.read_table("run/episodes")) == 30


@pytest.mark.slow
def test_a_training_killed_with_kill_9_resumes_to_the_same_weights(tmp_path: Path, command: Command) -> None:
    settings = ["pointmass2", "train.epochs=4", "train.lr=3e-3", "train.batch_size=256"]
    code = (
        "import bet_ray.training as t; t.CHECKPOINT_SECONDS = 0.2\n"
        f"import sys; sys.argv = ['bet-ray', 'train', *{settings!r}, '--out', {str(tmp_path / 'killed')!r}]\n"
        "from bet_ray.cli import main; main()"
    )
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", code], **quiet, start_new_session=True)
    eventually(lambda: list((tmp_path / "killed").rglob("checkpoint.pt")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert command("train", *settings, "--out", tmp_path / "killed", "--resume").code == 0
    assert command("train", *settings, "--out", tmp_path / "straight").code == 0
    killed, straight = (
        {path.relative_to(tmp_path / run): path.read_bytes() for path in (tmp_path / run).rglob("*.safetensors")}
        for run in ("killed", "straight")
    )
    last = [path for path in straight if path.parent.name == "4"]
    assert last
    assert all(killed[path] == straight[path] for path in last)


def interrupted(run: Path, sign: str, *arguments: str | Path) -> str:
    """What a command says that gets Ctrl-C, as the whole process group of a terminal does, when a file is there."""
    process = at_a_terminal(*arguments, stdout=subprocess.DEVNULL)
    eventually(lambda: list(run.rglob(sign)), process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    line = said.splitlines()[-1]
    assert line.startswith("interrupted: ")
    return line


@pytest.mark.slow
def test_ctrl_c_of_a_training_says_what_is_kept_and_the_command_that_continues_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["train", "pointmass2", "train.epochs=3", "train.lr=3e-3"]
    said = interrupted(tmp_path, "checkpoint.pt", *typed)
    (run,) = tmp_path.glob("runs/pointmass2-*")
    run = run.relative_to(tmp_path)
    again = [*typed, "--out", str(run), "--resume"]
    kept = f"{run} keeps the training up to its last checkpoint"
    assert said == f"interrupted: {kept}; continue with: bet-ray {shlex.join(again)}"
    trained = command(*again)
    assert trained.code == 0, trained.err
    assert "epoch 1 of 3" not in trained.err  # which was over


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ctrl_c_of_a_sweep_says_how_to_continue_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "which.yaml").write_text(
        "question: Which?\ntask: pointmass2\nspace: {bins: [2]}\nsearch: grid\n"
        "base: {train: {epochs: 3, batch_size: 512}}\neval: {episodes: 20, rungs: 3, winner_episodes: 20}\n"
        "resources: {actors: 1, trials_at_once: 1}\n"
    )
    said = interrupted(tmp_path, "checkpoint.pt", "sweep", "which.yaml", "--out", "s")
    assert said.endswith("and every finished episode; continue with: bet-ray sweep which.yaml --out s --resume")
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    assert kept
    finished = command("sweep", "which.yaml", "--out", "s", "--resume")
    assert finished.code == 0, finished.err
    assert "winner: " in finished.out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_epoch_of_a_run_is_evaluated_on_one_pool_into_one_table(tmp_path: Path, command: Command) -> None:
    run = tmp_path / "a"
    trained = command("train", "pointmass2", "train.epochs=2", "train.batch_size=512", "--keep-epochs", "--out", run)
    assert trained.code == 0, trained.err
    done = command("eval", run, "--each", "--episodes", "40", "--actors", "2", "--slots", "8", "--autotune")
    assert done.code == 0, done.err
    assert "chosen: --actors 2 --slots" in done.out
    assert "2 policies · 40 report episodes each · intervals of a column hold for all at once, 95%" in done.out
    assert "80 episodes run in " in done.out
    assert "slots busy " in done.out
    rows = pq.read_table(run / "episodes").to_pandas()
    assert rows.groupby("policy_digest").size().tolist() == [40, 40]
    again = command("eval", run, "--each", "--episodes", "40")
    assert "0 episodes run, 80 recorded already" in again.out
