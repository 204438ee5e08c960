"""Episodes of different lengths in rectangular arrays, each padded at its end: how the releases store them."""

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import Episodes


def unpad(array: NDArray[np.number], lengths: NDArray[np.integer]) -> NDArray[np.float32]:
    """The real steps (N, dim) of episodes (E, T, dim) with lengths (E,)."""
    return array[np.arange(array.shape[1]) < lengths[:, None]].astype(np.float32)


def pad(steps: NDArray[np.float32], episodes: Episodes, length: int) -> NDArray[np.float64]:
    """Steps (N, dim) as (E, length, dim) float64, as the releases have it, with zeros past the end of an episode."""
    padded = np.zeros((len(episodes), length, steps.shape[1]))
    padded[np.arange(length) < episodes.lengths[:, None]] = steps
    return padded
