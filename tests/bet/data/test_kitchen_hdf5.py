"""Small files of the layouts that D4RL and Minari publish give the task's own observations."""

from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from bet.data.episodes import DataError
from bet.data.formats import DataFormat, detect, load

LENGTHS = (4, 1, 6)
STEPS = sum(LENGTHS)
POSITIONS = np.arange(STEPS * 30, dtype=np.float64).reshape(STEPS, 30) / 100
ACTIONS = np.linspace(-1, 1, STEPS * 9).reshape(STEPS, 9)
ENDS = np.cumsum(LENGTHS)


def d4rl(path: Path, **changes: np.ndarray | None) -> Path:
    """A file of D4RL's; None leaves an array out."""
    over = np.zeros(STEPS, bool)
    over[ENDS[0] - 1] = True
    late = np.zeros(STEPS, bool)
    late[ENDS[1:] - 1] = True
    arrays = {
        "observations": np.hstack([POSITIONS, np.full((STEPS, 30), 7.0)]),  # a goal
        "actions": ACTIONS,
        "rewards": np.zeros(STEPS),
        "terminals": over,
        "timeouts": late,
    }
    with h5py.File(path, "w") as file:
        for name, array in (arrays | changes).items():
            if array is not None:
                file[name] = array
    return path


def minari(folder: Path, spoilt: str = "") -> Path:
    """The folder of a Minari data set; an episode's observations have one row more than its actions."""
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    starts = [0, *ENDS[:-1]]
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number in (2, 0, 1):
            rows = slice(starts[number], ENDS[number])
            places = np.vstack([POSITIONS[rows], POSITIONS[:1]])
            speeds = rng.normal(size=(len(places), 29))
            seen = np.hstack([places[:, :9], speeds[:, :9], places[:, 9:], speeds[:, 9:]])
            group = file.create_group(f"episode_{number}")
            group["observations/observation"] = seen[:-1] if spoilt == "short" and number == 1 else seen
            group["observations/achieved_goal/microwave"] = np.zeros((len(places), 1))
            if spoilt != "no actions" or number != 1:
                group["actions"] = ACTIONS[rows]
        if spoilt == "no number":
            file.create_group("episode_x")
    return folder


@pytest.mark.parametrize("kind", [DataFormat.D4RL, DataFormat.MINARI])
def test_observations_become_the_positions_and_zeros(kind: DataFormat, tmp_path: Path) -> None:
    path = d4rl(tmp_path / "mixed.hdf5") if kind is DataFormat.D4RL else minari(tmp_path / "complete-v2")
    assert detect(path) is kind
    episodes = load(path)
    assert (episodes.task, episodes.source) == ("kitchen", str(path))
    np.testing.assert_array_equal(episodes.observations[:, :30], POSITIONS.astype(np.float32))
    assert not episodes.observations[:, 30:].any()
    np.testing.assert_array_equal(episodes.actions, ACTIONS.astype(np.float32))
    np.testing.assert_array_equal(episodes.episode_ends, ENDS)


def test_the_columns_of_minari_are_those_that_gymnasium_robotics_observes(tmp_path: Path) -> None:
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env = gymnasium.make("FrankaKitchen-v1", robot_noise_ratio=0.0, object_noise_ratio=0.0).unwrapped
    seen, _ = env.reset(seed=0)
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file["episode_0/observations/observation"] = np.stack([seen["observation"]] * 2)
        file["episode_0/actions"] = np.zeros((1, 9))
    expected = env.data.qpos.astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(load(tmp_path).observations[0, :30], expected)
    env.close()


@pytest.mark.parametrize("given", ["complete-v2", "complete-v2/data", "complete-v2/data/main_data.hdf5"])
def test_a_minari_data_set_is_known_by_its_folder_and_its_file(given: str, tmp_path: Path) -> None:
    minari(tmp_path / "complete-v2")
    assert detect(tmp_path / given) is DataFormat.MINARI
    assert load(tmp_path / given).lengths.tolist() == list(LENGTHS)


def test_a_last_episode_that_nothing_ends_is_taken(tmp_path: Path) -> None:
    over = np.zeros(STEPS, bool)
    over[3] = True
    assert load(d4rl(tmp_path / "a.hdf5", terminals=over, timeouts=None)).lengths.tolist() == [4, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": None}, "has no array actions"),
        ({"terminals": None}, "has no array terminals"),
        (
            {"observations": np.zeros((STEPS, 59))},
            r"observations is float64 of shape \(11, 59\), .* \(N, 60\)",
        ),
        ({"actions": np.full((STEPS, 9), b"x")}, r"actions is .*, expected numbers \(N, 9\)"),
        ({"actions": ACTIONS[:-1]}, "11 observations, 10 actions, 11 terminals"),
        ({"actions": np.full((STEPS, 9), np.nan)}, "actions row 0 .* is not finite"),
    ],
)
def test_a_d4rl_file_that_is_not_of_the_kitchen_is_refused_by_array(
    changes: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"a\.hdf5: {message}"):
        load(d4rl(tmp_path / "a.hdf5", **changes))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("short", "episode_1 has 1 observations and 1 actions, not one fewer"),
        ("no actions", "has no array episode_1/actions"),
        ("no number", "episode_x has no number"),
    ],
)
def test_a_minari_file_that_is_broken_is_refused_by_episode(spoilt: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"main_data\.hdf5: {message}"):
        load(minari(tmp_path / "a", spoilt))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5")
    whole = path.read_bytes()
    path.write_bytes(whole[:600])
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        load(path)
    for start in range(8, len(whole), 97):
        path.write_bytes(whole[:start] + b"\xff" * 64 + whole[start + 64 :])
        with suppress(DataError):  # or it holds other numbers, which the file does not tell
            load(path)
