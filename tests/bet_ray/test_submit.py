"""Commands run as jobs of a cluster: what is shipped, where results go, what comes back."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import requests

from bet.errors import UsageError
from bet_ray.manifest import read_manifest
from bet_ray.submit import MOST_BYTES, Tree, placed
from tests.bet_ray.clusters import REPOSITORY, Head, cluster
from tests.bet_ray.commands import Command, eventually

LONG = 10_000_000  # episodes that nobody waits for


def files_of(folder: Path) -> set[str]:
    return {str(path) for path in Tree.of(folder).sizes}


def test_a_job_brings_code_along_and_neither_data_nor_runs_nor_what_git_ignores(tmp_path: Path) -> None:
    kept = ("mine.py", "bet/data/store.py", "sweeps/a.yaml")
    left = ("data/a.npy", "runs/a/manifest.json", ".venv/x", ".git/HEAD", ".ruff_cache/x", "__pycache__/a.pyc", "big/x")
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / ".gitignore").write_text("big/\n")
    assert files_of(tmp_path) == {*kept, ".gitignore"}


def test_this_checkout_can_be_shipped() -> None:
    files = files_of(REPOSITORY)
    assert {"bet_ray/__main__.py", "bet/data/episodes.py", "bet/envs/blockpush.xml"} <= files
    assert not any(name.startswith((".git/", ".venv/", "runs/")) for name in files)


@pytest.mark.parametrize("word", ["data.path=data/mine.parquet", "--config=big/a.yaml", "data/mine.parquet"])
def test_a_file_that_stays_here_is_not_asked_for_there(tmp_path: Path, word: str) -> None:
    for name in ("data/mine.parquet", "big/a.yaml", "sweeps/a.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    (tmp_path / ".gitignore").write_text("big/\n")
    tree = Tree.of(tmp_path)
    tree.check(["sweep", "sweeps/a.yaml", "data.path=/mnt/mine.parquet", "train.lr=1e-3", "--out", "/mnt/a"])
    with pytest.raises(UsageError, match=f"{word}: is here, but does not go along"):
        tree.check(["sweep", "sweeps/a.yaml", word])


def test_a_tree_that_is_too_large_is_refused_and_what_is_large_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with (tmp_path / "videos" / "a.mp4").open("wb") as file:
        file.truncate(MOST_BYTES)  # a hole
    (tmp_path / "mine.py").write_text("1")
    with pytest.raises(UsageError, match=r"104\.9 MB are more than .* largest are videos \(104\.9 MB\), mine\.py"):
        Tree.of(tmp_path)


@pytest.mark.parametrize(
    ("command", "on_cluster"),
    [
        ("train pusht --out runs/a", "train pusht --out /mnt/b/runs/a"),
        ("train pusht --out=a", "train pusht --out=/mnt/b/a"),
        ("train pusht --out /elsewhere/a", "train pusht --out /elsewhere/a"),
        ("eval runs/a --episodes 9", "eval /mnt/b/runs/a --episodes 9"),
        ("eval policies/a --out s3://b/a", "eval policies/a --out s3://b/a"),
        ("report runs/s", "report /mnt/b/runs/s"),
        ("replay runs/a --video a.mp4", "replay /mnt/b/runs/a --video /mnt/b/a.mp4"),
        ("replay /mnt/b/runs/a --video=/mnt/b/a.mp4", "replay /mnt/b/runs/a --video=/mnt/b/a.mp4"),
        ("sweep sweeps/runs.yaml --out runs/s", "sweep sweeps/runs.yaml --out /mnt/b/runs/s"),
    ],
)
def test_relative_run_directories_lie_in_the_storage(command: str, on_cluster: str) -> None:
    assert placed(command.split(), "/mnt/b/") == on_cluster.split()


def test_a_run_that_is_given_no_directory_gets_one_in_the_storage() -> None:
    words = placed(["sweep", "sweeps/x.yaml", "--trials", "20"], "/mnt/b")
    assert words[:-1] == ["sweep", "sweeps/x.yaml", "--trials", "20", "--out"]
    assert re.fullmatch(r"/mnt/b/runs/x-\d{8}-\d{6}", words[-1])


@pytest.mark.parametrize("command", ["train pusht", "train pusht --out runs/a", "eval runs/a", "eval policies/a"])
def test_without_a_storage_results_that_would_go_with_the_job_are_refused(command: str) -> None:
    with pytest.raises(UsageError, match="would go with the job's copy"):
        placed(command.split(), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "x.yaml", "--trails", "3"), "No such option: --trails"),
        (("swep", "x.yaml"), "No such command 'swep'"),
        (("jobs", "list"), "jobs: runs here, not on a cluster"),
        (("train", "pusht"), "would go with the job's copy"),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_anything_is_sent(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    done = command("submit", "--address", "http://127.0.0.1:9", "--", *arguments)
    assert (done.code, message in done.err) == (2, True), done.err


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:9", "ray://127.0.0.1:9", "http://[::1"])
def test_an_address_where_no_dashboard_answers_is_one_line(command: Command, address: str) -> None:
    done = command("jobs", "list", "--address", address)
    assert (done.code, done.err) == (
        2,
        f"error: {address}: no Ray dashboard answers; give its URL with --address http://HEAD:8265\n",
    )


@pytest.fixture
def head() -> Iterator[Head]:
    with cluster() as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some twenty commands, on a machine that may be busy
def test_jobs_run_on_a_cluster_with_a_token_are_watched_and_stopped(head: Head, trained: Path, tmp_path: Path) -> None:
    refused = head.command("jobs", "list", token=False)
    assert refused.returncode == 2
    assert "refused us" in refused.stderr

    # One that fails, and that nobody waits for at first: its line and its exit code come back.
    begun = head.command("submit", "--", "eval", "/nowhere")
    assert begun.returncode == 0, begun
    (job,) = re.findall(r"next: bet-ray jobs logs (\S+)", begun.stdout)
    failed = head.command("jobs", "logs", job, "--wait")
    assert failed.returncode == 2, failed
    assert "error: /nowhere: no such run or policy directory" in failed.stdout

    # One into a relative directory. Ctrl-C ends the waiting for it; what runs is looked at from here, and stopped.
    run = tmp_path / "runs" / "e"
    waiting = head.start(
        *("submit", "--storage", tmp_path, "--env", "BET_LOG=json", "--wait", "--address", head.address, "--"),
        *("eval", trained, "--episodes", str(LONG), "--out", "runs/e"),
    )
    eventually(lambda: list((run / "episodes" / "_parts").glob("*.parquet")))
    waiting.send_signal(signal.SIGINT)
    printed, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 130, printed
    (job,) = re.findall(r"job (\S+): bet-ray eval", printed)
    assert printed.endswith(
        f"job {job} goes on; watch it with: bet-ray jobs logs {job} --address {head.address}, "
        f"or end it with: bet-ray jobs stop {job} --address {head.address}\n"
    )
    assert "Traceback" not in printed
    eventually(lambda: re.search(r"ray_bet_episodes_total\{.*\} [1-9]", requests.get(head.metrics, timeout=5).text))
    told = requests.get(head.metrics, timeout=5).text
    for name in ("episodes_waiting", "episodes_leased", "episodes_per_second", "slots_busy", "workers"):
        assert f"ray_bet_{name}{{" in told
    looked = head.command("status", run)
    assert "running (pid " in looked.stdout, looked
    assert f"of {LONG:,}" in looked.stdout
    listed = head.command("jobs", "list")
    assert re.search(rf"{job}\s+running", listed.stdout), listed
    assert "is stopped" in head.command("jobs", "stop", job).stdout
    eventually(lambda: re.search(rf"{job}\s+stopped", head.command("jobs", "list").stdout))
    logged = head.command("jobs", "logs", job).stdout
    assert f'"message": "{LONG:,} episodes to run' in logged

    # What it had finished is kept, and its place, and which code it was.
    assert read_manifest(run)["git"]
    rows = pq.read_table(run / "episodes").num_rows
    assert rows > 0
    after = head.command("status", run)
    assert f"{rows:,} of {LONG:,}" in after.stdout, after
    assert "its process has ended, the same command goes on ·" in after.stdout
