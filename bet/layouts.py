"""What a policy sees of a simulator's state: one definition for the environment and for the data loader.

A policy meets in evaluation exactly the numbers it was trained on, because both sides call the functions here.

PushT's block is shown by its pose or by keypoints, fixed points of the T in the frame of its body (origin at the middle
of the bar's outer edge, y along the stem). Two sets of them are in use, and they have nothing in common:

- `keypoints9` is Diffusion Policy's, recorded in its replay buffer as `data/keypoint`. Its code draws them at random
  (github.com/real-stanford/diffusion_policy, `env/pusht/pymunk_keypoint_manager.py`: nine pixels of the drawn T spread
  by farthest-point sampling, plus uniform(0, 1) from `default_rng(0)`); `benchmarks/fit_keypoints.py` recovers them.
- `keypoints8` is gym-pusht's, the corners of the T's two rectangles (`PushTEnv.get_keypoints`, which
  `obs_type="environment_state_agent_pos"` shows). The data set `lerobot/pusht_keypoints` holds these: LeRobot made its
  `observation.environment_state` (16) from the buffer's poses with gym-pusht's function, and left the buffer's nine
  aside (github.com/huggingface/lerobot, `push_dataset_to_hub/pusht_zarr_format.py`, until April 2025).
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

PUSHT_SIZE = 512.0  # pixels: the side of PushT's square
PUSHT_REACH = 125.0  # pixels: no keypoint is farther than this from the block's origin

# Body frame, pixels: gym-pusht's bar, then its stem, each in Chipmunk's order of corners.
KEYPOINTS8 = np.array([(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)], dtype=float)
# Body frame, pixels: a whole pixel (x, y) and its random shift.
KEYPOINTS9 = np.array(
    [
        (9 + 0.2697867137638703, 90 + 0.04097352393619469),
        (-61 + 0.016527635528529094, -2 + 0.8132702392002724),
        (60 + 0.9127555772777217, -2 + 0.6066357757671799),
        (-1 + 0.7294965609839984, 25 + 0.5436249914654229),
        (-15 + 0.9350724237877682, 122 + 0.8158535541215322),
        (39 + 0.002738500170148095, 32 + 0.8574042765875693),
        (-40 + 0.033585575305464355, 32 + 0.7296554464299441),
        (-17 + 0.17565562060255901, 62 + 0.8631789223498866),
        (23 + 0.5414612202490917, -2 + 0.2997118905373848),
    ]
)


class PushTLayout(StrEnum):
    """Columns of a PushT observation: positions in pixels, the angle as a point on the circle (no jump at 2 pi)."""

    STATE = "state"  # agent x, y, block x, y, cos angle, sin angle
    AGENT = "agent"  # agent x, y
    KEYPOINTS8 = "keypoints8"  # agent x, y, then x, y of each of gym-pusht's keypoints, as in lerobot/pusht_keypoints
    KEYPOINTS9 = "keypoints9"  # agent x, y, then x, y of each of Diffusion Policy's keypoints

    @property
    def keypoints(self) -> NDArray[np.float64]:
        """Points of the block that the layout shows, in the frame of its body, (K, 2) pixels."""
        return {PushTLayout.KEYPOINTS8: KEYPOINTS8, PushTLayout.KEYPOINTS9: KEYPOINTS9}.get(self, np.empty((0, 2)))

    @property
    def low(self) -> NDArray[np.float32]:
        """Lower bound of each column, (dim,). Nominal, as gym-pusht's: a hard push can drive the block out."""
        block = [0, 0, -1, -1] if self is PushTLayout.STATE else [-PUSHT_REACH] * self.keypoints.size
        return np.array([0, 0, *block], dtype=np.float32)

    @property
    def high(self) -> NDArray[np.float32]:
        """Upper bound of each column, (dim,)."""
        block = (
            [PUSHT_SIZE, PUSHT_SIZE, 1, 1] if self is PushTLayout.STATE else [PUSHT_SIZE - low for low in self.low[2:]]
        )
        return np.array([PUSHT_SIZE, PUSHT_SIZE, *block], dtype=np.float32)

    @property
    def dim(self) -> int:
        """Number of columns; no two layouts have the same."""
        return len(self.low)


def pusht_observations(states: NDArray[np.floating], layout: PushTLayout) -> NDArray[np.float32]:
    """Observations (n, dim) of states (n, 5): agent xy, block xy in pixels, block angle in radians.

    Each row depends on its own state only, to the bit.
    """
    if layout is PushTLayout.AGENT:
        return states[:, :2].astype(np.float32)
    angles = states[:, 4:].astype(np.float64)  # (n, 1)
    cos, sin = np.cos(angles), np.sin(angles)
    if layout is PushTLayout.STATE:
        columns = [states[:, :4], cos, sin]
    else:
        x, y = layout.keypoints.T  # (K,)
        points = np.stack([x * cos - y * sin, x * sin + y * cos], axis=2) + states[:, None, 2:4]  # (n, K, 2)
        columns = [states[:, :2], points.reshape(len(states), -1)]
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")


def pusht_states(observations: NDArray[np.floating], layout: PushTLayout) -> NDArray[np.float64]:
    """States (n, 5), angles in [0, 2 pi), that observations (n, dim) show: what `pusht_observations` takes back.

    Exact but for the rounding of the observations; keypoints that no pose explains give the pose nearest to them (least
    squares). Raises `ValueError` for `agent`, which does not show the block.
    """
    if layout is PushTLayout.AGENT:
        raise ValueError("the layout 'agent' does not show the block")
    observations = observations.astype(np.float64)
    agents = observations[:, :2]
    if layout is PushTLayout.STATE:
        blocks, angles = observations[:, 2:4], np.arctan2(observations[:, 5:], observations[:, 4:5])  # (n, 2), (n, 1)
    else:
        middle = layout.keypoints.mean(axis=0)  # (2,)
        body = layout.keypoints - middle  # (K, 2)
        points = observations[:, 2:].reshape(len(observations), -1, 2)  # (n, K, 2)
        centres = points.mean(axis=1)  # (n, 2)
        x, y = np.moveaxis(points - centres[:, None], 2, 0)  # (n, K)
        angles = np.arctan2(y @ body[:, :1] - x @ body[:, 1:], x @ body[:, :1] + y @ body[:, 1:])  # (n, 1)
        cos, sin = np.cos(angles), np.sin(angles)
        x, y = middle
        blocks = centres - np.concatenate([x * cos - y * sin, x * sin + y * cos], axis=1)
    return np.concatenate([agents, blocks, angles % (2 * np.pi)], axis=1)
