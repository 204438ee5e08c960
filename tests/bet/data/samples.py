"""Small demonstrations for tests of formats."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from bet.data.episodes import Episodes
from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_observations

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=6)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def some(task: str, obs_dim: int, act_dim: int, lengths: Sequence[int] = (4, 1, 6)) -> Episodes:
    """Random numbers of a task's dimensions."""
    rng, steps = np.random.default_rng(0), sum(lengths)
    return Episodes(
        rng.normal(size=(steps, obs_dim)).astype(np.float32),
        rng.normal(size=(steps, act_dim)).astype(np.float32),
        np.cumsum(lengths),
        task,
    )


@st.composite
def any_numbers(draw: st.DrawFn, task: str, obs_dim: int, act_dim: int) -> Episodes:
    """Any finite numbers, in episodes of any lengths."""
    lengths = draw(LENGTHS)
    arrays = [draw(npst.arrays(np.float32, (sum(lengths), dim), elements=FLOATS)) for dim in (obs_dim, act_dim)]
    return Episodes(arrays[0], arrays[1], np.cumsum(lengths), task)


def random_states(steps: int, seed: int = 0) -> NDArray[np.float32]:
    """States of PushT (steps, 5), in float32 as a replay buffer has them."""
    high = [PUSHT_SIZE] * 4 + [2 * np.pi]
    return np.random.default_rng(seed).uniform(0, high, (steps, 5)).astype(np.float32)


def pusht(layout: PushTLayout, lengths: Sequence[int] = (4, 1, 6), seed: int = 0) -> Episodes:
    """PushT of random states seen through a layout."""
    steps = sum(lengths)
    actions = np.random.default_rng(seed + 1).uniform(0, PUSHT_SIZE, (steps, 2)).astype(np.float32)
    return Episodes(pusht_observations(random_states(steps, seed), layout), actions, np.cumsum(lengths), "pusht")


def same(left: Episodes, right: Episodes) -> bool:
    """Equal to the bit (-0.0 is not 0.0), task included."""
    return left.task == right.task and all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes() and left.digest == right.digest
        for name in ("observations", "actions", "episode_ends")
    )
