"""Windows: every run of W steps inside an episode, once, in order."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet.data.episodes import DataError, Episodes
from bet.data.windows import Windows, windows_of

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)
WINDOW = st.integers(1, 14)


def episodes_of(lengths: list[int]) -> Episodes:
    steps = sum(lengths)
    return Episodes(
        np.zeros((steps, 1), np.float32), np.zeros((steps, 1), np.float32), np.cumsum(lengths), "pusht", "a.zarr"
    )


def pairs(windows: Windows) -> list[tuple[int, int]]:
    """Start and length of every window."""
    return list(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True))


def expected_pairs(lengths: list[int], window: int) -> list[list[tuple[int, int]]]:
    """What the definition says, episode by episode, in plain Python."""
    start, result = 0, []
    for length in lengths:
        result.append([(start + step, min(length, window)) for step in range(max(length - window + 1, 1))])
        start += length
    return result


@given(lengths=LENGTHS, window=WINDOW)
def test_every_window_of_every_episode_comes_once_and_in_order(lengths: list[int], window: int) -> None:
    windows = windows_of(episodes_of(lengths), window)
    assert pairs(windows) == list(chain(*expected_pairs(lengths, window)))
    assert windows.window == window
    assert len(windows) == sum(max(length - window + 1, 1) for length in lengths)


@given(lengths=LENGTHS, window=WINDOW)
def test_no_window_crosses_the_end_of_its_episode(lengths: list[int], window: int) -> None:
    episodes = episodes_of(lengths)
    windows = windows_of(episodes, window)
    first = np.searchsorted(episodes.episode_ends, windows.starts, side="right")
    last = np.searchsorted(episodes.episode_ends, windows.starts + windows.lengths - 1, side="right")
    np.testing.assert_array_equal(first, last)
    assert windows.lengths.min() >= 1
    assert windows.lengths.max() <= window


@given(lengths=LENGTHS, window=WINDOW)
def test_every_step_is_in_some_window(lengths: list[int], window: int) -> None:
    windows = windows_of(episodes_of(lengths), window)
    seen = {step for start, length in pairs(windows) for step in range(start, start + length)}
    assert seen == set(range(sum(lengths)))


def test_an_episode_shorter_than_the_window_gives_one_window_of_its_own_length() -> None:
    assert pairs(windows_of(episodes_of([3, 5, 2]), 4)) == [(0, 3), (3, 4), (4, 4), (8, 2)]


@given(lengths=LENGTHS, window=WINDOW)
def test_drop_last_leaves_out_exactly_the_last_window_of_each_episode(lengths: list[int], window: int) -> None:
    episodes = episodes_of(lengths)
    kept = [pair for windows in expected_pairs(lengths, window) for pair in windows[:-1]]
    if kept:
        assert pairs(windows_of(episodes, window, drop_last=True)) == kept
    else:
        with pytest.raises(DataError, match=rf"^a\.zarr: no window of {window} steps .* has {max(lengths)}\)"):
            windows_of(episodes, window, drop_last=True)
