"""The releases of the BeT paper: what the original's loader reads is read and written, padding aside."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bet.data.bet_release import KITCHEN_GOALS, BetRelease, load_kitchen_goals, load_release, save_release
from bet.data.episodes import DataError, Episodes
from tests.bet.data.samples import any_numbers, same, some

every_release = pytest.mark.parametrize("release", BetRelease)


def sample(release: BetRelease) -> Episodes:
    layout = release.value
    return some(layout.task, layout.obs_dim, layout.act_dim)


def masks_file(path: Path, release: BetRelease) -> Path:
    return path / release.value.masks


@every_release
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_saved_loads_to_the_bit(
    release: BetRelease, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = release.value
    episodes = data.draw(any_numbers(layout.task, layout.obs_dim, layout.act_dim))
    path = tmp_path_factory.mktemp("release") / "a"
    save_release(episodes, path, release)
    loaded = load_release(path, release)
    assert same(loaded, episodes)
    assert loaded.source == str(path)


def test_block_pushing_is_written_episode_major_in_float64_with_zeros_past_the_end(tmp_path: Path) -> None:
    episodes = sample(BetRelease.BLOCKPUSH)
    save_release(episodes, tmp_path / "a", BetRelease.BLOCKPUSH)
    arrays = {file.name: np.load(file, allow_pickle=False) for file in (tmp_path / "a").iterdir()}
    observations = arrays.pop("multimodal_push_observations.npy")
    actions = arrays.pop("multimodal_push_actions.npy")
    masks = arrays.pop("multimodal_push_masks.npy")
    assert not arrays
    assert (observations.shape, actions.shape, masks.shape) == ((3, 6, 16), (3, 6, 2), (3, 6))
    assert observations.dtype == actions.dtype == masks.dtype == np.float64
    np.testing.assert_array_equal(masks.sum(axis=1), [4, 1, 6])
    np.testing.assert_array_equal(observations[2], episodes.observations[5:])
    assert not observations[masks == 0].any()
    assert not actions[masks == 0].any()


def test_the_kitchen_is_written_time_major(tmp_path: Path) -> None:
    episodes = sample(BetRelease.KITCHEN)
    save_release(episodes, tmp_path / "a", BetRelease.KITCHEN)
    observations = np.load(tmp_path / "a" / "observations_seq.npy", allow_pickle=False)
    assert observations.shape == (6, 3, 60)
    assert np.load(tmp_path / "a" / "actions_seq.npy", allow_pickle=False).shape == (6, 3, 9)
    assert np.load(tmp_path / "a" / "existence_mask.npy", allow_pickle=False).sum(axis=0).tolist() == [4, 1, 6]
    np.testing.assert_array_equal(observations[:4, 0], episodes.observations[:4])


def test_the_real_block_pushing_set_loads_is_written_and_reloads_equal(data_dir: Path, tmp_path: Path) -> None:
    episodes = load_release(data_dir / "blockpush", BetRelease.BLOCKPUSH)
    assert (len(episodes), episodes.observations.shape, episodes.task) == (500, (56_591, 16), "blockpush")
    save_release(episodes, tmp_path / "a", BetRelease.BLOCKPUSH)
    assert same(load_release(tmp_path / "a", BetRelease.BLOCKPUSH), episodes)
    for file in (data_dir / "blockpush").iterdir():
        original, written = (np.load(place, allow_pickle=False) for place in (file, tmp_path / "a" / file.name))
        np.testing.assert_array_equal(written, original.astype(np.float32))  # the originals are float64


def test_what_lies_past_the_end_of_an_episode_does_not_matter(tmp_path: Path) -> None:
    save_release(sample(BetRelease.BLOCKPUSH), tmp_path / "a", BetRelease.BLOCKPUSH)
    file = tmp_path / "a" / "multimodal_push_observations.npy"
    observations = np.load(file, allow_pickle=False)
    observations[1, 1:] = np.nan
    np.save(file, observations)
    assert same(load_release(tmp_path / "a", BetRelease.BLOCKPUSH), sample(BetRelease.BLOCKPUSH))


@every_release
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_masks_may_be_of_any_numeric_type(release: BetRelease, dtype: type, tmp_path: Path) -> None:
    save_release(sample(release), tmp_path / "a", release)
    file = masks_file(tmp_path / "a", release)
    np.save(file, np.load(file, allow_pickle=False).astype(dtype))
    assert same(load_release(tmp_path / "a", release), sample(release))


# What it refuses.


def complaint(path: Path, release: BetRelease) -> str:
    with pytest.raises(DataError) as error:
        load_release(path, release)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@every_release
@pytest.mark.parametrize("name", ["observations", "actions", "masks"])
def test_a_missing_file_is_named(release: BetRelease, name: str, tmp_path: Path) -> None:
    save_release(sample(release), tmp_path / "a", release)
    file = tmp_path / "a" / getattr(release.value, name)
    file.unlink()
    assert f"{file}: no such file" in complaint(tmp_path / "a", release)


@every_release
@pytest.mark.parametrize(
    "row", [[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0] * 6, [1, 0.5, 0, 0, 0, 0], [2, 2, 0, 0, 0, 0]]
)
def test_a_mask_that_is_not_ones_then_zeros_is_refused_with_the_episode(
    release: BetRelease, row: list[float], tmp_path: Path
) -> None:
    save_release(sample(release), tmp_path / "a", release)
    file = masks_file(tmp_path / "a", release)
    masks = np.load(file, allow_pickle=False)
    masks[(slice(None), 1) if release.value.time_major else 1] = row
    np.save(file, masks)
    assert complaint(tmp_path / "a", release) == f"{file}: episode 1 is not ones then zeros, with a one at least"


@every_release
def test_arrays_of_different_lengths_are_refused(release: BetRelease, tmp_path: Path) -> None:
    save_release(sample(release), tmp_path / "a", release)
    file = tmp_path / "a" / release.value.actions
    actions = np.load(file, allow_pickle=False)
    np.save(file, actions[:-1])
    assert f"{file}: has " in complaint(tmp_path / "a", release)


@every_release
def test_the_other_axis_first_is_refused(release: BetRelease, tmp_path: Path) -> None:
    save_release(sample(release), tmp_path / "a", release)
    file = masks_file(tmp_path / "a", release)
    np.save(file, np.load(file, allow_pickle=False).T)
    complaint(tmp_path / "a", release)


def test_a_value_that_is_not_finite_is_refused_with_its_episode(tmp_path: Path) -> None:
    save_release(sample(BetRelease.KITCHEN), tmp_path / "a", BetRelease.KITCHEN)
    file = tmp_path / "a" / "actions_seq.npy"
    actions = np.load(file, allow_pickle=False)
    actions[2, 2, 0] = np.nan
    np.save(file, actions)
    assert "actions row 7 (episode 2) is not finite" in complaint(tmp_path / "a", BetRelease.KITCHEN)


@every_release
def test_other_tasks_and_dimensions_are_not_written(release: BetRelease, tmp_path: Path) -> None:
    layout = release.value
    with pytest.raises(DataError, match=f"demonstrations of 'pusht'; the format holds '{layout.task}'"):
        save_release(some("pusht", layout.obs_dim, layout.act_dim), tmp_path / "a", release)
    with pytest.raises(DataError, match=f"has 3 columns for {layout.observations}, which holds {layout.obs_dim}"):
        save_release(some(layout.task, 3, layout.act_dim), tmp_path / "a", release)
    assert not list(tmp_path.iterdir())


# The kitchen's goals.


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """A release with goals: step t of episode e serves task (t + e) % 7."""
    save_release(sample(BetRelease.KITCHEN), tmp_path / "a", BetRelease.KITCHEN)
    served = (torch.arange(6)[:, None] + torch.arange(3)) % 7  # (T, E)
    torch.save(torch.nn.functional.one_hot(served, 7).float(), tmp_path / "a" / KITCHEN_GOALS)
    return tmp_path / "a"


def test_goals_are_read_in_the_order_of_the_steps(kitchen: Path) -> None:
    goals = load_kitchen_goals(kitchen)
    assert goals.shape == (11, 7)
    assert goals.dtype == np.float32
    assert goals.argmax(axis=1).tolist() == [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 0]
    assert load_release(kitchen, BetRelease.KITCHEN).observations.shape[0] == 11


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3, 6, 7), r"holds \(3, 6, 7\), expected a tensor of shape \(6, 3, 7\)"),
        ([1.0], "holds list"),
        (torch.full((6, 3, 7), 0.5), "other values than 0 and 1"),
        (Path("pickled"), "not a readable tensor"),
        (None, "no such file"),
    ],
)
def test_goals_that_do_not_go_with_the_demonstrations_are_refused(kitchen: Path, content: object, message: str) -> None:
    (kitchen / KITCHEN_GOALS).unlink()
    if content is not None:
        torch.save(content, kitchen / KITCHEN_GOALS)
    with pytest.raises(DataError, match=message) as error:
        load_kitchen_goals(kitchen)
    assert str(kitchen / KITCHEN_GOALS) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
def test_goals_that_are_damaged_are_refused(kitchen: Path, content: bytes) -> None:
    (kitchen / KITCHEN_GOALS).write_bytes(content)
    with pytest.raises(DataError, match="not a readable tensor"):
        load_kitchen_goals(kitchen)
