"""PushT steps on one core: gym-pusht against ours, in the same run. `python -m benchmarks.pusht_env [seconds]`

The contenders take turns, a slice of a second each, so a busy machine slows all of them alike; only ratios count.
"""

import sys
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Protocol

import gym_pusht  # noqa: F401  (registers the environment)
import gymnasium
import numpy as np
from numpy.typing import NDArray

from bet.envs.pusht import PushTVectorEnv
from bet.envs.vector import SlotVectorEnv

SLICE = 0.25  # seconds
EPISODE = 100  # steps

Actor = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]


def random_actions(states: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Anywhere, (n, 2): the agent flies about and now and then hits the block."""
    return generator.uniform(0, 512, (len(states), 2))


def pushing_actions(states: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """At the block and on towards the middle, (n, 2): in contact most of the time, and the block stays inside."""
    block = states[:, 2:4]
    return block + 0.3 * (256 - block) + generator.normal(0, 50, block.shape)


class Contender(Protocol):
    """Something that makes steps."""

    def episode(self, seed: int) -> int:
        """Make some, and say how many."""
        ...


class Reference:
    """gym-pusht, one environment at a time."""

    def __init__(self, actor: Actor) -> None:
        self.env = gymnasium.make("gym_pusht/PushT-v0", disable_env_checker=True).unwrapped
        self.actor, self.generator = actor, np.random.default_rng(0)

    def episode(self, seed: int) -> int:
        state, _ = self.env.reset(seed=seed)
        for _ in range(EPISODE):
            state, *_ = self.env.step(self.actor(state[None], self.generator)[0])
        return EPISODE


class Ours:
    """A vector environment; a step counts once per slot."""

    def __init__(self, actor: Actor, env: SlotVectorEnv) -> None:
        self.env = env
        self.actor, self.generator = actor, np.random.default_rng(0)

    def episode(self, seed: int) -> int:
        self.env.reset(seed=seed)
        taken = 0
        for _ in range(EPISODE):
            *_, terminated, truncated, _ = self.env.step(self.actor(self.env.states, self.generator))
            taken += self.env.num_envs
            if (ended := terminated | truncated).any():
                self.env.reset(options={"reset_mask": ended})
        return taken


def measure(contenders: Mapping[str, Contender], seconds: float) -> dict[str, float]:
    """Microseconds per step of each contender, resets included."""
    steps, spent = dict.fromkeys(contenders, 0), dict.fromkeys(contenders, 0.0)
    for seed, name in enumerate(cycle(contenders)):
        if min(spent.values()) >= seconds:
            return {name: 1e6 * spent[name] / steps[name] for name in contenders}
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SLICE:
            steps[name] += contenders[name].episode(seed)
        spent[name] += elapsed
    raise AssertionError("cycle never ends")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    print(f"{'actions':<10}{'environment':<18}{'us/step':>9}{'ratio':>8}")
    for label, actor in (("random", random_actions), ("pushing", pushing_actions)):
        times = measure(
            {
                "gym-pusht": Reference(actor),
                "ours, 1 slot": Ours(actor, PushTVectorEnv(1)),
                "ours, 32 slots": Ours(actor, PushTVectorEnv(32)),
            },
            seconds,
        )
        for name, microseconds in times.items():
            print(f"{label:<10}{name:<18}{microseconds:>9.1f}{times['gym-pusht'] / microseconds:>7.1f}x")


if __name__ == "__main__":
    main()
