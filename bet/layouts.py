"""What a policy sees of a simulator's state: one definition for the environment and for the data loader.

A policy meets in evaluation exactly the numbers it was trained on, because both sides call the functions here.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

PUSHT_SIZE = 512.0  # pixels: the side of PushT's square


class PushTLayout(StrEnum):
    """Columns of a PushT observation: positions in pixels, the angle as a point on the circle (no jump at 2 pi)."""

    STATE = "state"  # agent x, y, block x, y, cos angle, sin angle
    AGENT = "agent"  # agent x, y

    @property
    def low(self) -> NDArray[np.float32]:
        """Lower bound of each column, (dim,). Nominal, as gym-pusht's: a hard push can drive the block out."""
        return np.array({PushTLayout.STATE: [0, 0, 0, 0, -1, -1], PushTLayout.AGENT: [0, 0]}[self], dtype=np.float32)

    @property
    def high(self) -> NDArray[np.float32]:
        """Upper bound of each column, (dim,)."""
        return np.where(self.low < 0, 1, PUSHT_SIZE).astype(np.float32)

    @property
    def dim(self) -> int:
        """Number of columns."""
        return len(self.low)


def pusht_observations(states: NDArray[np.floating], layout: PushTLayout) -> NDArray[np.float32]:
    """Observations (n, dim) of states (n, 5): agent xy, block xy in pixels, block angle in radians.

    Each row depends on its own state only, to the bit.
    """
    match layout:
        case PushTLayout.STATE:
            angles = states[:, 4].astype(np.float64)  # (n,)
            columns = [states[:, :4], np.cos(angles)[:, None], np.sin(angles)[:, None]]
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")
        case PushTLayout.AGENT:
            return states[:, :2].astype(np.float32)


def pusht_states(observations: NDArray[np.floating], layout: PushTLayout) -> NDArray[np.float64]:
    """States (n, 5), angles in [0, 2 pi), that observations (n, dim) show: what `pusht_observations` takes back.

    Exact but for the rounding of the observations. Raises `ValueError` for `agent`, which does not show the block.
    """
    if layout is PushTLayout.AGENT:
        raise ValueError("the layout 'agent' does not show the block")
    angles = np.arctan2(observations[:, 5:], observations[:, 4:5], dtype=np.float64) % (2 * np.pi)  # (n, 1)
    return np.concatenate([observations[:, :4], angles], axis=1, dtype=np.float64)
