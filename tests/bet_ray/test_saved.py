"""Saved steps say again what the episode table says, and say so when it does not."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal

from bet import tasks
from bet.policy import Policy
from bet.rollout import EpisodeResult
from bet_ray.cli import main
from bet_ray.manifest import RunError
from bet_ray.saved import rescore, saved_trajectories

from .recording import record, roll_out

EPISODES = 12
TASK = tasks.get("pointmass2")


@pytest.fixture(scope="module")
def results(policy: Policy) -> list[EpisodeResult]:
    return roll_out(policy, EPISODES)


def test_trajectories_come_back_as_the_rollout_had_them(
    policy: Policy, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results, results)
    found = saved_trajectories(tmp_path, TASK)
    assert [key[-1] for key in found] == list(range(EPISODES))
    for trajectory, result in zip(found.values(), results, strict=True):
        expected = result.trajectory
        assert expected is not None
        for name in ("observations", "actions", "rewards", "bins"):
            assert_array_equal(getattr(trajectory, name), getattr(expected, name))
        assert trajectory.signals.keys() == expected.signals.keys()
        assert_array_equal(trajectory.signals["success"], expected.signals["success"])


def test_numbers_computed_anew_are_the_recorded_ones(
    policy: Policy, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results, results[:7])
    task, (group,) = rescore(tmp_path)
    assert task is TASK
    assert group.computed.num_rows == 7
    assert group.computed.equals(group.recorded)
    assert group.different == {}


def test_a_table_that_says_otherwise_is_told_apart_and_exits_with_1(
    policy: Policy,
    results: list[EpisodeResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = [replace(results[0], total_reward=np.nextafter(results[0].total_reward, 2.0)), *results[1:]]
    record(tmp_path, policy, changed, results)
    _, (group,) = rescore(tmp_path)
    assert group.different == {"return": 1}
    monkeypatch.setattr(sys, "argv", ["bet-ray", "metrics", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    printed = capsys.readouterr()
    assert "return: differs from the recorded one in 1 episode\n" in printed.out
    assert printed.err == f"error: {tmp_path}: its episode table is not what its saved steps say\n"


def test_a_torn_table_of_episodes_is_set_aside(policy: Policy, results: list[EpisodeResult], tmp_path: Path) -> None:
    torn = tmp_path / "episodes" / "0.parquet"
    torn.parent.mkdir()
    torn.write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match="no episodes"):
        rescore(tmp_path)
    record(tmp_path, policy, results, results)
    with pytest.warns(UserWarning, match=r"0\.parquet does not open"):
        _, (group,) = rescore(tmp_path)
    assert group.different == {}


def test_a_run_without_steps_says_how_to_keep_them(
    policy: Policy, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results)
    with pytest.raises(RunError, match="--save-trajectories keeps them"):
        rescore(tmp_path)


def test_a_torn_table_of_steps_is_set_aside_and_one_of_another_kind_refused(
    policy: Policy, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results, results)
    bad = tmp_path / "trajectories" / "bad.parquet"
    bad.write_bytes(b"PAR1 no")
    with pytest.warns(UserWarning, match=r"bad\.parquet does not open"):
        assert len(saved_trajectories(tmp_path, TASK)) == len(results)
    pq.write_table(pa.table({"x": [1]}), bad)
    with pytest.raises(RunError, match=r"bad\.parquet: holds other columns"):
        saved_trajectories(tmp_path, TASK)
