"""The container of demonstrations: what it refuses, how it splits, what its digest sees."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=30)


def make(lengths: list[int], **changes: Any) -> Episodes:
    """Episodes whose every number is another one, with fields replaced as asked."""
    steps = sum(lengths)
    fields: dict[str, Any] = {
        "observations": np.arange(3 * steps, dtype=np.float32).reshape(steps, 3),
        "actions": -np.arange(2 * steps, dtype=np.float32).reshape(steps, 2),
        "episode_ends": np.cumsum(lengths),
        "task": "pusht",
        "source": "a.zarr",
    }
    return Episodes(**(fields | changes))


def with_value(array: NDArray[np.float32], row: int, column: int, value: float) -> NDArray[np.float32]:
    changed = array.copy()
    changed[row, column] = value
    return changed


# What it refuses.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["observations", "actions"])
def test_a_value_that_is_not_finite_is_refused_with_its_row_and_episode(name: str, value: float) -> None:
    good = make([3, 4, 2])
    with pytest.raises(DataError, match=rf"^a\.zarr: {name} row 3 \(episode 1\) is not finite$"):
        make([3, 4, 2], **{name: with_value(getattr(good, name), 3, 1, value)})


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_value_too_large_for_float32_is_refused() -> None:
    with pytest.raises(DataError, match="row 0"):
        make([2], observations=np.full((2, 3), 1e39))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([], "no episodes"),
        ([2, 2, 5], "episode 1 is empty"),
        ([0, 5], "episode 0 is empty"),
        ([3, 2, 5], "episode 1 ends at 2, before it starts"),
        ([-1, 5], "episode 0 ends at -1"),
        ([2, 4], "the last episode ends at 4 but there are 5 steps"),
        ([2, 9], "the last episode ends at 9 but there are 5 steps"),
    ],
)
def test_ends_that_do_not_rise_to_the_last_step_are_refused(ends: list[int], message: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.zarr: {message}"):
        make([5], episode_ends=np.array(ends, np.int64))


@pytest.mark.parametrize(
    ("name", "array", "dims"),
    [
        ("observations", np.zeros(5), "1 dimensions, expected 2"),
        ("observations", np.zeros((5, 1, 3)), "3 dimensions, expected 2"),
        ("actions", np.zeros(5), "1 dimensions, expected 2"),
        ("episode_ends", np.array([[5]]), "2 dimensions, expected 1"),
    ],
)
def test_arrays_of_other_dimensions_are_refused_by_name(name: str, array: NDArray[Any], dims: str) -> None:
    with pytest.raises(DataError, match=f"{name} has {dims}"):
        make([5], **{name: array})


def test_as_many_actions_as_observations_are_required() -> None:
    with pytest.raises(DataError, match="5 observations but 4 actions"):
        make([5], actions=np.zeros((4, 2)))


# What it holds.


def test_arrays_are_kept_in_the_promised_types_and_cannot_be_written_to() -> None:
    episodes = make([2, 3], observations=np.zeros((5, 3), np.float64), episode_ends=np.array([2, 5], np.int32))
    assert episodes.observations.dtype == episodes.actions.dtype == np.float32
    assert episodes.episode_ends.dtype == np.int64
    for array in (episodes.observations, episodes.actions, episodes.episode_ends):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@given(lengths=LENGTHS)
def test_starts_ends_and_lengths_agree(lengths: list[int]) -> None:
    episodes = make(lengths)
    assert len(episodes) == len(lengths)
    assert episodes.lengths.tolist() == lengths
    np.testing.assert_array_equal(episodes.episode_starts + episodes.lengths, episodes.episode_ends)


@given(lengths=LENGTHS, data=st.data())
def test_select_takes_whole_episodes_in_the_order_asked_for(lengths: list[int], data: st.DataObject) -> None:
    episodes = make(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=5))
    selected = episodes.select(np.array(chosen))
    assert selected.lengths.tolist() == [lengths[episode] for episode in chosen]
    for place, episode in enumerate(chosen):
        mine = slice(selected.episode_starts[place], selected.episode_ends[place])
        theirs = slice(episodes.episode_starts[episode], episodes.episode_ends[episode])
        np.testing.assert_array_equal(selected.observations[mine], episodes.observations[theirs])
        np.testing.assert_array_equal(selected.actions[mine], episodes.actions[theirs])
    assert (selected.task, selected.source) == (episodes.task, episodes.source)


# The split.


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_a_split_is_by_whole_episode_disjoint_covering_and_seeded(
    lengths: list[int], fraction: float, seed: int
) -> None:
    episodes = make(lengths)
    parts = episodes.split(fraction, seed)
    first_rows = [part.observations[part.episode_starts, 0].tolist() for part in parts]  # they name the episodes
    ends = {rows[0]: rows[1] for rows in zip(*first_and_length(episodes), strict=True)}
    for part, first in zip(parts, first_rows, strict=True):
        assert part.lengths.tolist() == [ends[row] for row in first]
        assert first == sorted(first)
    assert sorted(first_rows[0] + first_rows[1]) == list(ends)
    assert len(parts[0]) == min(max(round(fraction * len(lengths)), 1), len(lengths) - 1)
    again = episodes.split(fraction, seed)
    assert [part.digest for part in parts] == [part.digest for part in again]


def first_and_length(episodes: Episodes) -> tuple[list[float], list[int]]:
    return episodes.observations[episodes.episode_starts, 0].tolist(), episodes.lengths.tolist()


def test_another_seed_splits_otherwise() -> None:
    episodes = make([2] * 40)
    assert len({episodes.split(0.5, seed)[0].digest for seed in range(10)}) == 10


def test_a_single_episode_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"a\.zarr: one episode cannot be split"):
        make([5]).split(0.95, 0)


# The digest.


def test_the_digest_is_of_the_arrays_alone() -> None:
    assert make([2, 3]).digest == make([2, 3], task="pointmass1", source="elsewhere").digest
    assert make([2, 3]).digest == make([2, 3], observations=np.arange(15.0).reshape(5, 3)).digest


def test_any_number_boundary_or_shape_changes_the_digest() -> None:
    good = make([2, 3])
    others = [
        make([2, 3], observations=with_value(good.observations, 4, 2, 0.5)),
        make([2, 3], actions=with_value(good.actions, 0, 0, 1e-30)),
        make([3, 2]),
        make([5]),
        make([2, 3], observations=good.observations[:, :2], actions=np.zeros((5, 3))),
    ]
    assert len({episodes.digest for episodes in [good, *others]}) == len(others) + 1


def test_the_digest_sees_where_one_array_ends_and_the_next_begins() -> None:
    flat = np.arange(12, dtype=np.float32)
    narrow = Episodes(flat[:4].reshape(2, 2), flat[4:].reshape(2, 4), np.array([2]), "pusht")
    wide = Episodes(flat[:8].reshape(2, 4), flat[8:].reshape(2, 2), np.array([2]), "pusht")
    assert narrow.digest != wide.digest
