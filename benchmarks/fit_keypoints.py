"""Where `bet.layouts.KEYPOINTS9` comes from. `python -m benchmarks.fit_keypoints [replay buffer]`

Every frame's keypoints in the published replay buffer are turned back into the block's frame. Some frames recorded the
pose a moment apart from the keypoints, so the median over frames comes first, then the mean over the frames that agree
with it. Diffusion Policy drew each point as a whole pixel plus uniform(0, 1) from NumPy's `default_rng(0)`, after one
integer from the same generator; the fractions are recognised as these draws, which makes the points exact.
"""

import sys
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from bet.layouts import KEYPOINTS9, PushTLayout, pusht_observations
from bet.tasks import data_root

AGREEING = 2e-4  # pixels: what float32 rounding explains; frames beyond it were recorded a moment apart


def body_frame(states: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, K, 2) of the image in the frame of blocks at states (n, 5)."""
    cos, sin = np.cos(states[:, 4:]), np.sin(states[:, 4:])  # (n, 1)
    x, y = np.moveaxis(points - states[:, None, 2:4], 2, 0)  # (n, K)
    return np.stack([cos * x + sin * y, cos * y - sin * x], axis=2)


def fitted(states: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The keypoints (K, 2) of a body that was seen at states (n, 5) with its keypoints at (n, K, 2)."""
    body = body_frame(states, points)
    agree = np.abs(body - np.median(body, axis=0)).max(axis=(1, 2)) < AGREEING
    return body[agree].mean(axis=0)


def recognised(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """The exact design values nearest to fitted keypoints (K, 2): whole pixels plus the original's random shifts."""
    generator = np.random.default_rng(0)
    generator.integers(2**16)  # the original picks the first pixel with one small integer
    shifts = generator.uniform(0, 1, size=keypoints.shape)
    return np.round(keypoints - shifts) + shifts


def main(path: Path) -> None:
    group = zarr.open_group(path, mode="r")
    states = np.asarray(group["data/state"]).astype(np.float64)
    recorded = np.asarray(group["data/keypoint"]).astype(np.float64)
    fit = fitted(states, recorded)
    exact = recognised(fit)
    shown = pusht_observations(states, PushTLayout.KEYPOINTS9)[:, 2:].reshape(recorded.shape)
    errors = np.linalg.norm(shown - recorded, axis=2)  # (n, K)
    for name, keypoints in (("fitted", fit), ("recognised", exact), ("bet.layouts", KEYPOINTS9)):
        print(f"{name}:", *(f"({x:.8f}, {y:.8f})" for x, y in keypoints))
    print(f"fitted against recognised: at most {np.abs(fit - exact).max():.1e} px")
    print(f"bet.layouts against the {len(states)} frames: median {np.median(errors):.1e}, worst {errors.max():.2f} px")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else data_root() / "pusht" / "pusht_cchi_v7_replay.zarr")
