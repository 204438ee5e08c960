"""One place tells what a path holds; every format is read and written through it, the real sets too."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bet.data.episodes import DataError, Episodes
from bet.data.formats import READ_ONLY, DataFormat, detect, load, save
from bet.envs.pointmass import PointMassVersion
from bet.layouts import PushTLayout, pusht_observations
from bet.oracles.pointmass import demonstrations
from tests.bet.data.samples import pusht, random_states, same, some

LEROBOT = (DataFormat.LEROBOT_V21, DataFormat.LEROBOT_V30)
SAMPLES: dict[DataFormat, Callable[[], Episodes]] = {
    DataFormat.PARQUET: lambda: pusht(PushTLayout.KEYPOINTS9),
    DataFormat.PUSHT_ZARR: lambda: pusht(PushTLayout.STATE),
    DataFormat.LEROBOT_V21: lambda: pusht(PushTLayout.KEYPOINTS8),
    DataFormat.LEROBOT_V30: lambda: pusht(PushTLayout.AGENT),
    DataFormat.BLOCKPUSH: lambda: some("blockpush", 16, 2),
    DataFormat.KITCHEN: lambda: some("kitchen", 60, 9),
    DataFormat.STUDY_ROLLOUTS: lambda: demonstrations(PointMassVersion.TWO, 5, seed=0),
}
every_format = pytest.mark.parametrize("kind", SAMPLES)


@every_format
def test_what_is_saved_is_known_again_and_loads(kind: DataFormat, tmp_path: Path) -> None:
    episodes = SAMPLES[kind]()
    save(episodes, tmp_path / "a", kind)
    assert detect(tmp_path / "a") is kind
    loaded = load(tmp_path / "a")
    assert loaded.source == str(tmp_path / "a")
    if kind is DataFormat.PUSHT_ZARR:  # holds an angle where `state` has a point on the circle
        np.testing.assert_allclose(loaded.observations, episodes.observations, rtol=0, atol=2e-7)
        loaded = replace(loaded, observations=episodes.observations)
    assert same(loaded, episodes)


@every_format
def test_a_format_is_known_by_any_file_that_is_left(kind: DataFormat, tmp_path: Path) -> None:
    """So that the error is about the file that is missing."""
    save(SAMPLES[kind](), tmp_path / "a", kind)
    if not (tmp_path / "a").is_dir():
        return
    gone = {
        DataFormat.BLOCKPUSH: "multimodal_push_observations.npy",
        DataFormat.KITCHEN: "observations_seq.npy",
        DataFormat.STUDY_ROLLOUTS: "obs_trajs.npy",
    }.get(kind)
    if gone is None:
        shutil.rmtree(tmp_path / "a" / "data")
    else:
        (tmp_path / "a" / gone).unlink()
    assert detect(tmp_path / "a") is kind
    with pytest.raises(DataError, match=gone or "data/"):
        load(tmp_path / "a")


def test_every_format_is_written_or_said_to_be_read_only(tmp_path: Path) -> None:
    assert set(DataFormat) - set(SAMPLES) == set(READ_ONLY)
    for kind in READ_ONLY:
        with pytest.raises(DataError, match=f"{kind.value} is only read; write bet-kitchen"):
            save(some("kitchen", 60, 9), tmp_path / "a", kind)
    assert not (tmp_path / "a").exists()


def complaint(path: Path, observation: str | None = None) -> str:
    with pytest.raises(DataError) as error:
        load(path, observation)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no such file or folder" in complaint(tmp_path / "absent")


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    text = complaint(tmp_path)
    for name in (
        ".zgroup",
        "meta/info.json",
        "multimodal_push_observations.npy",
        "observations_seq.npy",
        "obs_trajs.npy",
        "data/main_data.hdf5",
    ):
        assert name in text
    assert "not a parquet or HDF5 file; of the other formats, give the folder" in complaint(tmp_path / "notes.txt")


def test_a_parquet_file_needs_no_suffix(tmp_path: Path) -> None:
    save(SAMPLES[DataFormat.PARQUET](), tmp_path / "a", DataFormat.PARQUET)
    assert detect(tmp_path / "a") is DataFormat.PARQUET


def test_pickled_rollouts_are_named_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "obses_0.pth").write_bytes(b"")
    assert "pickled rollouts (obses_0.pth)" in complaint(tmp_path)


def test_an_unknown_version_of_lerobot_is_named(tmp_path: Path) -> None:
    save(SAMPLES[DataFormat.LEROBOT_V30](), tmp_path / "a", DataFormat.LEROBOT_V30)
    info = tmp_path / "a" / "meta" / "info.json"
    info.write_text(info.read_text().replace("v3.0", "v4.0"))
    assert "codebase_version: Input should be 'v2.1' or 'v3.0' (got 'v4.0')" in complaint(tmp_path / "a")


# Layouts.


@pytest.mark.parametrize("kind", [DataFormat.PUSHT_ZARR, DataFormat.LEROBOT_V21, DataFormat.PARQUET])
@pytest.mark.parametrize("layout", PushTLayout)
def test_every_layout_is_had_from_a_file_that_shows_the_block(
    kind: DataFormat, layout: PushTLayout, tmp_path: Path
) -> None:
    save(SAMPLES[kind](), tmp_path / "a", kind)
    loaded = load(tmp_path / "a", layout.value)
    np.testing.assert_allclose(loaded.observations, pusht_observations(random_states(11), layout), atol=1e-4)


def test_the_agent_alone_gives_no_other_layout(tmp_path: Path) -> None:
    save(pusht(PushTLayout.AGENT), tmp_path / "a", DataFormat.LEROBOT_V21)
    assert same(load(tmp_path / "a", "agent"), pusht(PushTLayout.AGENT))
    assert "offers layout 'agent' only" in complaint(tmp_path / "a", "state")


@pytest.mark.parametrize("kind", [DataFormat.PUSHT_ZARR, DataFormat.LEROBOT_V30])
def test_an_unknown_layout_is_named_with_the_one_probably_meant(kind: DataFormat, tmp_path: Path) -> None:
    save(SAMPLES[kind](), tmp_path / "a", kind)
    assert "pusht has no layout 'keypoint8'; did you mean 'keypoints8'?" in complaint(tmp_path / "a", "keypoint8")


def test_other_tasks_have_the_layout_state_only(tmp_path: Path) -> None:
    save(some("blockpush", 16, 2), tmp_path / "a", DataFormat.BLOCKPUSH)
    assert same(load(tmp_path / "a", "state"), some("blockpush", 16, 2))
    assert "blockpush has no layout 'agent'; known: state" in complaint(tmp_path / "a", "agent")


# Writing.


@every_format
def test_nothing_that_is_there_is_overwritten(kind: DataFormat, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("precious")
    for target in (tmp_path / "file", tmp_path / "folder"):
        with pytest.raises(DataError, match=f"{target}: already there"):
            save(SAMPLES[kind](), target, kind)
    assert {path.read_text() for path in tmp_path.rglob("file")} == {"precious"}


@every_format
def test_an_empty_folder_is_filled_but_not_replaced_by_a_file(kind: DataFormat, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    if kind is DataFormat.PARQUET:
        with pytest.raises(DataError, match="already there"):
            save(SAMPLES[kind](), tmp_path / "a", kind)
        return
    save(SAMPLES[kind](), tmp_path / "a", kind)
    assert detect(tmp_path / "a") is kind


@pytest.mark.parametrize("kind", [kind for kind in DataFormat if kind is not DataFormat.PARQUET])
def test_a_format_refuses_what_it_cannot_hold(kind: DataFormat, tmp_path: Path) -> None:
    for episodes in (some("carla", 512, 2), some("pusht", 2, 3), some("pointmass1", 5, 2)):
        with pytest.raises(DataError) as error:
            save(episodes, tmp_path / "a", kind)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


# The real demonstrations of PushT, through every format that can hold them.


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        *((DataFormat.PARQUET, layout) for layout in PushTLayout),
        *((kind, layout) for kind in LEROBOT for layout in (PushTLayout.AGENT, PushTLayout.KEYPOINTS8)),
    ],
)
def test_the_replay_buffer_survives_a_format_to_the_bit(
    kind: DataFormat, layout: PushTLayout, data_dir: Path, tmp_path: Path
) -> None:
    episodes = load(data_dir / "pusht" / "pusht_cchi_v7_replay.zarr", layout.value)
    save(episodes, tmp_path / "a", kind)
    assert same(load(tmp_path / "a", layout.value), episodes)


def test_the_replay_buffer_comes_back_as_a_buffer_to_the_rounding_of_the_angle(data_dir: Path, tmp_path: Path) -> None:
    """`state` has the angle as a point on the circle in float32: 98% of the rows keep their bits."""
    episodes = load(data_dir / "pusht" / "pusht_cchi_v7_replay.zarr")
    save(episodes, tmp_path / "a", DataFormat.PUSHT_ZARR)
    loaded = load(tmp_path / "a")
    np.testing.assert_array_equal(loaded.observations[:, :4], episodes.observations[:, :4])
    np.testing.assert_allclose(loaded.observations, episodes.observations, rtol=0, atol=2e-7)
    assert (loaded.observations == episodes.observations).all(axis=1).mean() > 0.98
    np.testing.assert_array_equal(loaded.actions, episodes.actions)
    np.testing.assert_array_equal(loaded.episode_ends, episodes.episode_ends)


@pytest.mark.parametrize("kind", LEROBOT)
def test_states_are_recovered_from_lerobots_keypoints(kind: DataFormat, data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "pusht" / "pusht_cchi_v7_replay.zarr"
    save(load(path, "keypoints8"), tmp_path / "a", kind)
    for layout, tolerance in ((PushTLayout.STATE, 2e-5), (PushTLayout.KEYPOINTS9, 1e-4), (PushTLayout.AGENT, 0)):
        expected = load(path, layout.value).observations
        np.testing.assert_allclose(load(tmp_path / "a", layout.value).observations, expected, rtol=0, atol=tolerance)
