"""Windows: every run of W consecutive steps inside an episode, as start rows and lengths.

An episode of T steps has T - W + 1 windows; one shorter than W gives a single left-aligned window whose missing steps
on the right are masked. (The original sampler leaves out the last window of each episode: `drop_last`.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes


@dataclass(frozen=True, eq=False)
class Windows:
    """Where each of M windows begins in the flat arrays, and how many of its W steps are real."""

    starts: NDArray[np.int64]  # (M,)
    lengths: NDArray[np.int64]  # (M,) in 1..W
    window: int

    def __len__(self) -> int:
        return len(self.starts)


def windows_of(episodes: Episodes, window: int, drop_last: bool = False) -> Windows:
    """All windows of length `window`, in episode order.

    Raises `DataError` when none is left, which `drop_last` can cause.
    """
    counts = np.maximum(episodes.lengths - window + 1, 1)  # (E,)
    if drop_last:
        counts = np.maximum(episodes.lengths - window, 0)
    if counts.sum() == 0:
        raise DataError(
            f"{episodes.source}: no window of {window} steps (the longest episode has {episodes.lengths.max()})"
        )
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(episodes.episode_starts, counts) + within
    lengths = np.repeat(np.minimum(episodes.lengths, window), counts)
    return Windows(starts, lengths, window)
