"""`bet-ray replay` prints every bin, says whether every bit is the recorded one, and puts episodes side by side."""

import re
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import pyarrow.parquet as pq
import pytest
import torch

from bet.policy import Policy
from bet.rollout import EpisodeResult
from tests.bet_ray.commands import Command

from .recording import record, roll_out

EPISODES = 30
SAME = "the same as the recorded row, to the last bit"
SAME_STEPS = "every step the same as the one kept in trajectories/, to the last bit"


@pytest.fixture
def run(command: Command) -> Command:
    """Runs `bet-ray replay`."""
    return partial(command, "replay")


@pytest.fixture(scope="module")
def results(policy: Policy) -> list[EpisodeResult]:
    return roll_out(policy, EPISODES)


def test_the_bin_of_every_step_is_printed(
    trained: Path,
    policy: Policy,
    results: list[EpisodeResult],
    tmp_path: Path,
    run: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bet_ray.cli.replay.STEPS_A_ROW", 5)
    longest = max(results, key=lambda one: one.length)
    record(tmp_path, policy, results, [longest])
    code, out, _ = run(trained, "--episode", longest.index, "--recorded", tmp_path)
    assert code == 0
    rows = re.findall(r"^  step (\d+) +([\d ]+)$", out, re.MULTILINE)
    assert [int(start) for start, _ in rows] == list(range(0, longest.length, 5))
    assert longest.trajectory is not None
    assert [int(number) for _, bins in rows for number in bins.split()] == longest.trajectory.bins.tolist()
    assert f"  {SAME}\n  {SAME_STEPS}\n" in out


def test_an_episode_alone_makes_no_video_unless_asked(
    trained: Path, results: list[EpisodeResult], tmp_path: Path, run: Command
) -> None:
    code, out, _ = run(trained, "--recorded", tmp_path, "--video", tmp_path / "v.gif")
    assert code == 0
    assert "not among the recorded episodes" in out
    assert len(iio.imread(tmp_path / "v.gif")) == results[0].length + 1
    assert run(trained, "--recorded", tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["v.gif"]


def test_recorded_failures_and_successes_are_replayed_side_by_side(
    trained: Path, policy: Policy, results: list[EpisodeResult], tmp_path: Path, run: Command
) -> None:
    record(tmp_path, policy, results, results)
    code, out, _ = run(trained, "--failures", "2", "--successes", "1", "--recorded", tmp_path)
    assert code == 0
    lost, won = ([one for one in results if one.success is wanted] for wanted in (False, True))
    chosen = [*lost[:2], *won[:1]]
    assert [int(index) for index in re.findall(r"report episode (\d+)", out)] == [one.index for one in chosen]
    assert f"  3 of 3: {SAME}\n  3 of 3: {SAME_STEPS}\n" in out
    (video,) = (tmp_path / "videos").iterdir()
    assert video.name.endswith("-2f-1s.mp4")
    assert str(video) in out
    assert len(iio.imread(video)) == max(one.length for one in chosen) + 1


def test_fewer_than_asked_for_are_shown_and_it_says_so(
    trained: Path, policy: Policy, results: list[EpisodeResult], tmp_path: Path, run: Command
) -> None:
    won, lost = (next(one for one in results if one.success is wanted) for wanted in (True, False))
    record(tmp_path, policy, [won, lost])
    video = tmp_path / "v.mp4"
    code, out, _ = run(trained, "--failures", "4", "--successes", "1", "--recorded", tmp_path, "--video", video)
    assert code == 0
    assert "failures: 4 asked for, 1 there among 2 recorded episodes\n" in out
    assert f"  2 of 2: {SAME}\n" in out
    assert video.is_file()


def test_nothing_recorded_says_how_to_record_some(trained: Path, tmp_path: Path, run: Command) -> None:
    code, _, error = run(
        trained, "eval.hold_bins=2", "--successes", "1", "--split", "tune", "--recorded", tmp_path / "none"
    )
    assert code == 2
    command = f"bet-ray eval {trained} eval.hold_bins=2 --split tune --out {tmp_path}/none"
    wanted = f"{tmp_path}/none: no tune episodes of this policy are recorded with these settings; first run {command}"
    assert error == f"error: {wanted}\n"


def test_none_of_the_kind_asked_for_is_one_line(
    trained: Path, policy: Policy, results: list[EpisodeResult], tmp_path: Path, run: Command
) -> None:
    record(tmp_path, policy, [one for one in results if one.success])
    code, _, error = run(trained, "--failures", "1", "--recorded", tmp_path)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "there are none such among its" in error


def test_one_episode_and_several_do_not_go_together(trained: Path, run: Command) -> None:
    code, _, error = run(trained, "--episode", "1", "--failures", "1")
    assert (code, error) == (2, "error: --episode does not go with --failures and --successes\n")


def test_what_does_not_replay_as_recorded_exits_with_1_after_the_video(
    trained: Path, policy: Policy, results: list[EpisodeResult], tmp_path: Path, run: Command
) -> None:
    record(tmp_path, policy, results, results)
    (file,) = (tmp_path / "trajectories" / "_parts").glob("*.parquet")
    table = pq.read_table(file)
    bins = table.column("bin").to_pylist()
    bins[4] += 1
    at = table.column_names.index("bin")
    pq.write_table(table.set_column(at, "bin", [bins]), file)
    code, out, error = run(trained, "--recorded", tmp_path, "--video", tmp_path / "v.gif")
    assert code == 1
    assert f"  {SAME}\n  step 4 NOT the same as the one kept in trajectories/: bin\n" in out
    assert (tmp_path / "v.gif").is_file()
    assert error == f"error: {tmp_path}: episode 0 did not replay as it was recorded under the same numerics\n"


def test_an_episode_that_ended_in_an_error_says_so(policy: Policy, tmp_path: Path, run: Command) -> None:
    normalizers = policy.observation_normalizer, policy.action_normalizer
    broken = Policy(
        policy.config, policy.model, torch.full_like(policy.centers, torch.nan), *normalizers, policy.dataset_digest
    )
    broken.save(tmp_path / "policy")
    record(tmp_path, broken, roll_out(broken, 2))
    code, out, _ = run(tmp_path / "policy", "--episode", "1", "--recorded", tmp_path, "--video", tmp_path / "v.mp4")
    assert code == 0
    assert "report episode 1 · error after 1 step, return 0.00\n" in out
    assert "the policy gave an action that is not finite: no steps are kept\n" in out
    assert SAME in out
    code, _, error = run(tmp_path / "policy", "--failures", "1", "--recorded", tmp_path)
    assert code == 2
    assert "there are none such among its 2 recorded episodes" in error
