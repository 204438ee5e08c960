"""BlockPush steps on one core beside gym-pusht's, in the same run. `python -m benchmarks.blockpush_env [seconds]`

The original of BlockPush (PyBullet, rendering off) makes 0.13 of the steps of gym-pusht on the same core: 113 against
886 a second, as measured for the design. Ours is to make 20 times as many, 2.6 times gym-pusht's. They take turns.
"""

import sys

import numpy as np
from numpy.typing import NDArray

from benchmarks.contest import verdict
from benchmarks.pusht_env import Ours, Reference, measure, pushing_actions
from bet.envs.blockpush import BLOCK_XY, EFFECTOR_TARGET, BlockPushVectorEnv

ORIGINAL = 0.13  # of gym-pusht's steps
TARGET = 20 * ORIGINAL
SPEED = 0.03  # metres a step, as the demonstrator's


def block_actions(states: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """At the nearest block and on through it, (n, 2): in contact most of the time."""
    here = states[:, EFFECTOR_TARGET]
    ways = states[:, BLOCK_XY] - here[:, None]  # (n, 2 blocks, xy)
    nearest = np.linalg.norm(ways, axis=2).argmin(axis=1)
    way = ways[np.arange(len(states)), nearest] + generator.normal(0, 0.02, here.shape)
    return SPEED * way / np.linalg.norm(way, axis=1, keepdims=True)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    times = measure(
        {
            "gym-pusht": Reference(pushing_actions),
            "BlockPush, 1 slot": Ours(block_actions, BlockPushVectorEnv(1)),
            "BlockPush, 32 slots": Ours(block_actions, BlockPushVectorEnv(32)),
        },
        seconds,
    )
    print(f"{'environment':<22}{'us/step':>9}{'gym-pusht':>11}{'original':>10}")
    for name, microseconds in times.items():
        ratio = times["gym-pusht"] / microseconds
        print(f"{name:<22}{microseconds:>9.1f}{ratio:>10.2f}x{ratio / ORIGINAL:>9.1f}x")
    reached = times["gym-pusht"] / min(time for name, time in times.items() if name != "gym-pusht")
    print(verdict("BlockPush", reached, "gym-pusht", TARGET))


if __name__ == "__main__":
    main()
