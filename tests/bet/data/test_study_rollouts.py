"""Rollouts that the reproduction study saves: the steps up to their end, of the task they must be of."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bet.data.episodes import DataError, Episodes
from bet.data.study_rollouts import load_rollouts, save_rollouts
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from tests.bet.data.samples import any_numbers, same, some

TASKS = {"blockpush": (16, 2), "kitchen": (60, 9)}


def write(path: Path, **changes: np.ndarray | None) -> Path:
    """Two rollouts of block pushing as the study saves them: 5 steps allowed, the first done after 3."""
    rng = np.random.default_rng(0)
    arrays = {
        "obs_trajs": rng.normal(size=(2, 6, 16)),
        "action_trajs": rng.normal(size=(2, 6, 2)).astype(np.float32),
        "done_at": np.array([3.0, 0.0]),
    }
    path.mkdir()
    for name, array in (arrays | changes).items():
        if array is not None:
            np.save(path / f"{name}.npy", array)
    return path


def test_a_rollout_is_its_steps_until_done_or_all_that_were_taken(tmp_path: Path) -> None:
    episodes = load_rollouts(write(tmp_path / "a"))
    assert episodes.task == "blockpush"
    assert episodes.lengths.tolist() == [3, 5]  # the last column holds an action that was not taken
    observations = np.load(tmp_path / "a" / "obs_trajs.npy").astype(np.float32)
    np.testing.assert_array_equal(episodes.observations, np.concatenate([observations[0, :3], observations[1, :5]]))


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_saved_loads_to_the_bit(
    task: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    episodes = data.draw(any_numbers(task, *TASKS[task]))
    path = tmp_path_factory.mktemp("rollouts") / "a"
    save_rollouts(episodes, path)
    assert same(load_rollouts(path), episodes)


@pytest.mark.parametrize("version", PointMassVersion)
def test_the_two_point_masses_are_told_by_their_start(version: PointMassVersion, tmp_path: Path) -> None:
    episodes = demonstrations(version, 20, seed=0)
    save_rollouts(episodes, tmp_path / "a")
    assert same(load_rollouts(tmp_path / "a"), episodes)


def test_it_is_written_as_the_study_writes_it(tmp_path: Path) -> None:
    save_rollouts(some("kitchen", 60, 9), tmp_path / "a")
    arrays = {file.name: np.load(file, allow_pickle=False) for file in (tmp_path / "a").iterdir()}
    assert {name: array.shape for name, array in arrays.items()} == {
        "obs_trajs.npy": (3, 7, 60),
        "action_trajs.npy": (3, 7, 9),
        "done_at.npy": (3,),
    }
    assert arrays["done_at.npy"].tolist() == [4, 1, 6]


# What it refuses.


def zeros(rollouts: int, columns: int) -> dict[str, np.ndarray]:
    shapes = {"obs_trajs": (rollouts, columns, 16), "action_trajs": (rollouts, columns, 2), "done_at": (rollouts,)}
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_rollouts(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["obs_trajs", "action_trajs", "done_at"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    assert f"{name}.npy: no such file" in complaint(write(tmp_path / "a", **{name: None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"done_at": np.array([3.0])}, "do not pair up"),
        ({"action_trajs": np.zeros((2, 5, 2))}, "do not pair up"),
        ({"done_at": np.array([6.0, 0.0])}, "rollout 0 is done at 6, not in 0..5"),
        ({"done_at": np.array([1.0, 2.5])}, "rollout 1 is done at 2.5"),
        ({"done_at": np.array([-1.0, 0.0])}, "rollout 0 is done at -1"),
        ({"done_at": np.array([np.nan, 0.0])}, "rollout 0 is done at nan"),
        ({"obs_trajs": np.zeros((2, 6, 15))}, "no task of the study observes 15 numbers and acts with 2"),
        ({"obs_trajs": np.full((2, 6, 2), 3.0)}, "start near [3.0, 3.0], where neither point mass task starts"),
        ({"obs_trajs": np.full((2, 6, 16), np.inf)}, "observations row 0 (episode 0) is not finite"),
        (zeros(2, 1), "is empty"),
        (zeros(0, 6), "no episodes"),
    ],
)
def test_arrays_that_are_no_rollouts_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    assert message in complaint(write(tmp_path / "a", **changes))


def test_a_ragged_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    ragged = np.array([np.zeros((3, 16)), np.zeros((5, 16))], dtype=object)
    np.save(path / "obs_trajs.npy", ragged, allow_pickle=True)
    assert "never loaded" in complaint(path)


def test_a_task_that_would_not_be_known_again_is_not_written(tmp_path: Path) -> None:
    episodes = demonstrations(PointMassVersion.ONE, 5, seed=0)
    wrong = Episodes(episodes.observations, episodes.actions, episodes.episode_ends, "pointmass2")
    with pytest.raises(DataError, match="demonstrations of 'pointmass2' would be read as 'pointmass1'"):
        save_rollouts(wrong, tmp_path / "a")
    with pytest.raises(DataError, match="observes 6 numbers"):
        save_rollouts(some("pusht", 6, 2), tmp_path / "a")
    assert not list(tmp_path.iterdir())
