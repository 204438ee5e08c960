"""Kitchen steps on one core beside gymnasium-robotics', in the same run. `python -m benchmarks.kitchen_env [seconds]`

Both have noisy sensors. Nearly all of a step is MuJoCo's, in both: "physics" is that alone, 40 steps without noise and
observations. The contenders take turns, a slice of a second each; only ratios count.
"""

import sys

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from benchmarks.pusht_env import EPISODE, Ours, measure
from bet.envs.kitchen import JOINTS, PHYSICS_STEPS, POSITIONS, START, KitchenVectorEnv, model


def reaching(states: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """At random, (n, 9): the arm shakes, and drifts into whatever is near."""
    return generator.uniform(-1, 1, (len(states), JOINTS))


class Reference:
    """FrankaKitchen-v1, one environment at a time."""

    def __init__(self) -> None:
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        self.env = gymnasium.make("FrankaKitchen-v1", disable_env_checker=True).unwrapped
        self.generator = np.random.default_rng(0)

    def episode(self, seed: int) -> int:
        self.env.reset(seed=seed)
        for _ in range(EPISODE):
            self.env.step(reaching(np.zeros((1, 0)), self.generator)[0])
        return EPISODE


class Physics:
    """MuJoCo, stepped with the controls that such actions come to."""

    def __init__(self) -> None:
        self.model = model()
        self.data = mujoco.MjData(self.model)  # pyright: ignore[reportAttributeAccessIssue]
        self.generator = np.random.default_rng(0)

    def episode(self, seed: int) -> int:
        mujoco.mj_resetData(self.model, self.data)  # pyright: ignore[reportAttributeAccessIssue]
        self.data.qpos[:POSITIONS] = START
        for _ in range(EPISODE):
            self.data.ctrl[:] = self.data.qpos[:JOINTS] + self.generator.uniform(-0.16, 0.16, JOINTS)
            mujoco.mj_step(self.model, self.data, PHYSICS_STEPS)  # pyright: ignore[reportAttributeAccessIssue]
        return EPISODE


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    times = measure(
        {
            "gymnasium-robotics": Reference(),
            "ours, 1 slot": Ours(reaching, KitchenVectorEnv(1)),
            "ours, 32 slots": Ours(reaching, KitchenVectorEnv(32)),
            "physics": Physics(),
        },
        seconds,
    )
    print(f"{'environment':<20}{'us/step':>9}{'steps/s':>9}{'ratio':>8}")
    for name, microseconds in times.items():
        ratio = times["gymnasium-robotics"] / microseconds
        print(f"{name:<20}{microseconds:>9.0f}{1e6 / microseconds:>9.0f}{ratio:>7.2f}x")


if __name__ == "__main__":
    main()
