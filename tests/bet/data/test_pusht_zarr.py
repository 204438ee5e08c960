"""The replay buffer of PushT: states seen through layouts, and whatever is damaged named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from bet.data.episodes import DataError
from bet.data.pusht_zarr import load_pusht_zarr, save_pusht_zarr
from bet.layouts import PushTLayout, pusht_observations
from tests.bet.data.samples import pusht

RNG = np.random.default_rng(0)
ARRAYS = {
    "data/state": RNG.uniform(0, 6, (10, 5)).astype(np.float32),
    "data/action": RNG.uniform(0, 512, (10, 2)).astype(np.float32),
    "meta/episode_ends": np.array([4, 10]),
}


def write(path: Path, **changes: np.ndarray | None) -> Path:
    """A small replay buffer; `state=...` replaces an array, None leaves it out."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for key, array in ARRAYS.items():
        array = changes.get(key.split("/")[1], array)
        if array is not None:
            group.create_array(key, data=array, chunks=(3, *array.shape[1:]))
    return path


@pytest.mark.parametrize("layout", PushTLayout)
def test_reads_states_through_the_layout_and_keeps_actions_and_ends(tmp_path, layout):
    episodes = load_pusht_zarr(write(tmp_path / "a.zarr"), layout)
    np.testing.assert_array_equal(episodes.observations, pusht_observations(ARRAYS["data/state"], layout))
    np.testing.assert_array_equal(episodes.actions, ARRAYS["data/action"])
    np.testing.assert_array_equal(episodes.episode_ends, [4, 10])
    assert episodes.task == "pusht"


def test_does_not_read_arrays_it_does_not_need(tmp_path):
    path = write(tmp_path / "a.zarr")
    (path / "data" / "img").mkdir()
    (path / "data" / "img" / ".zarray").write_text("not even JSON")
    assert len(load_pusht_zarr(path)) == 2


def test_the_published_demonstrations_have_their_published_size(data_dir):
    episodes = load_pusht_zarr(data_dir / "pusht" / "pusht_cchi_v7_replay.zarr", PushTLayout.STATE)
    assert len(episodes) == 206
    assert episodes.observations.shape == (25_650, 6)
    assert episodes.actions.shape == (25_650, 2)
    assert episodes.actions.min() >= 0
    assert episodes.actions.max() <= 512


def message(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_pusht_zarr(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    assert "no such folder" in message(tmp_path / "absent.zarr")


def test_a_folder_that_is_not_zarr_is_refused(tmp_path):
    assert "not a zarr group" in message(tmp_path)


@pytest.mark.parametrize("key", ARRAYS)
def test_a_missing_array_is_named(tmp_path, key):
    assert key in message(write(tmp_path / "a.zarr", **{key.split("/")[1]: None}))


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("data/state", np.zeros((10, 4), np.float32)),
        ("data/state", np.zeros(10, np.float32)),
        ("data/action", np.zeros((10, 3), np.float32)),
        ("meta/episode_ends", np.zeros((2, 1), np.int64)),
    ],
)
def test_an_array_of_the_wrong_shape_is_named_with_the_shape_expected(tmp_path, key, array):
    text = message(write(tmp_path / "a.zarr", **{key.split("/")[1]: array}))
    assert f"{key} has shape {array.shape}, expected (" in text


def test_ends_that_are_not_integers_are_refused(tmp_path):
    assert "meta/episode_ends holds float64" in message(write(tmp_path / "a.zarr", episode_ends=np.array([4.0, 10.0])))


def test_states_and_actions_of_different_lengths_are_refused(tmp_path):
    text = message(write(tmp_path / "a.zarr", action=np.ones((9, 2), np.float32)))
    assert "data/state has 10 rows but data/action 9" in text


def test_ends_beyond_the_last_row_are_refused(tmp_path):
    assert "ends at 12" in message(write(tmp_path / "a.zarr", episode_ends=np.array([4, 12])))


def test_nan_is_refused_with_its_row(tmp_path):
    state = ARRAYS["data/state"].copy()
    state[7, 4] = np.nan
    assert "row 7" in message(write(tmp_path / "a.zarr", state=state))


def test_a_missing_chunk_is_not_read_as_zeros_in_silence(tmp_path):
    path = write(tmp_path / "a.zarr")
    (path / "data" / "state" / "1.0").unlink()
    with pytest.warns(UserWarning, match="data/state lacks 1 of its 4 chunks"):
        load_pusht_zarr(path)


def test_a_damaged_chunk_is_refused(tmp_path):
    path = write(tmp_path / "a.zarr")
    (path / "data" / "action" / "0.0").write_bytes(b"rubbish")
    assert "data/action cannot be read" in message(path)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**14, 5]},
        {"filters": [{"id": "pickle", "protocol": 5}]},
        {"compressor": {"id": "zlib", "level": 1}},
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change):
    path = write(tmp_path / "a.zarr")
    described = path / "data" / "state" / ".zarray"
    described.write_text(json.dumps(json.loads(described.read_text()) | change))
    assert "data/state cannot be read" in message(path)
    described.write_text("{")
    assert "data/state cannot be read" in message(path)


def test_a_moved_folder_reads_the_same(tmp_path):
    first = load_pusht_zarr(write(tmp_path / "a.zarr"))
    shutil.move(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert load_pusht_zarr(tmp_path / "b.zarr").digest == first.digest


# Writing.


@pytest.mark.parametrize("stored", [layout for layout in PushTLayout if layout is not PushTLayout.AGENT])
def test_what_is_saved_loads_to_the_rounding_of_the_pose(tmp_path, stored):
    episodes = pusht(stored)
    save_pusht_zarr(episodes, tmp_path / "a.zarr")
    loaded = load_pusht_zarr(tmp_path / "a.zarr", stored)
    np.testing.assert_allclose(loaded.observations, episodes.observations, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(loaded.actions, episodes.actions)
    np.testing.assert_array_equal(loaded.episode_ends, episodes.episode_ends)
    assert loaded.task == "pusht"


def test_a_buffer_is_written_with_the_arrays_that_diffusion_policy_trains_on(tmp_path):
    save_pusht_zarr(pusht(PushTLayout.STATE), tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group.metadata.zarr_format == 2
    shapes = {"data/state": (11, 5), "data/action": (11, 2), "data/keypoint": (11, 9, 2), "meta/episode_ends": (3,)}
    for key, shape in shapes.items():
        array = group[key]
        assert isinstance(array, zarr.Array)
        assert (array.shape, array.dtype) == (shape, np.int64 if key.startswith("meta") else np.float32)
    expected = pusht(PushTLayout.KEYPOINTS9).observations[:, 2:].reshape(11, 9, 2)
    np.testing.assert_allclose(np.asarray(group["data/keypoint"]), expected, atol=1e-4)


def test_the_agent_alone_cannot_be_written_as_a_buffer(tmp_path):
    with pytest.raises(DataError, match="where the block is cannot be told"):
        save_pusht_zarr(pusht(PushTLayout.AGENT), tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())
