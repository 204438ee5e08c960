"""How many actors, and how many slots each: measured here for some seconds. Neither changes a bit of a result."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from bet.arithmetic import threads
from bet.config import Split
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import Rollout
from bet_ray.evaluation import Evaluation, PoolShape

SECONDS = 1.0  # for each number of slots
BATCHES = (1, 2, 4, 8)  # forwards that a step of all slots takes


@dataclass(frozen=True)
class Cost:
    """What one worker costs with that many slots, all of them busy."""

    slots: int
    simulation: float
    """Seconds, of one step of all slots."""
    inference: float
    rest: float
    reset: float
    """Seconds, of one episode."""
    length: float
    """Steps that an episode takes, on average."""

    @property
    def step(self) -> float:
        """Seconds of one step of all slots, with the resets that fall due in it."""
        return self.simulation + self.inference + self.rest + self.slots * self.reset / self.length

    @property
    def rate(self) -> float:
        """Policy steps per second."""
        return self.slots / self.step

    def expected(self, episodes: int) -> float:
        """Seconds for that many episodes: full slots, then a tail of one episode's length."""
        return self.step * (max(episodes / self.slots, 1) * self.length) + self.step * self.length / 2


@dataclass(frozen=True)
class Tuned:
    """What was measured, and what was chosen."""

    costs: Sequence[Cost]
    actors: int
    best: Cost
    episodes: int
    """For each actor."""


def autotune(one: Evaluation, episodes: int, actors: int) -> Tuned:
    """Measure a policy's steps with several numbers of slots, and choose the one that finishes first.

    `actors` are those that there is room for; fewer are chosen where there are fewer episodes.
    """
    actors = min(actors, episodes)
    share = -(-episodes // actors)
    batch = one.recipe.protocol.batch_size
    sizes = sorted({min(batch * factor, share) for factor in BATCHES})
    with threads(1):
        costs = [measure(one.policy, one.recipe, one.job.split, slots) for slots in sizes]
    return Tuned(costs, actors, min(costs, key=lambda cost: cost.expected(share)), share)


def chosen(tuned: Tuned, shape: PoolShape) -> PoolShape:
    """The shape with what was chosen in place of its own."""
    return PoolShape(tuned.actors, tuned.best.slots, shape.patience)


def measure(policy: Policy, recipe: Recipe, split: Split, slots: int) -> Cost:
    """Roll out for some seconds in this process."""
    rollout, indices = Rollout(policy, recipe, split, slots), count()
    try:
        rollout.start([next(indices) for _ in range(slots)])
        reset = rollout.simulating / slots
        rollout.step()  # the first is slower
        rollout.simulating = rollout.acting = 0.0
        lengths, steps, resetting, began = [], 0, 0.0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            lengths += [result.length for result in rollout.step()]
            steps += 1
            before = rollout.simulating
            rollout.start([next(indices) for _ in range(rollout.free)])
            resetting += rollout.simulating - before
        seconds = time.perf_counter() - began
    finally:
        rollout.close()
    return Cost(
        slots,
        (rollout.simulating - resetting) / steps,
        rollout.acting / steps,
        (seconds - rollout.simulating - rollout.acting) / steps,
        resetting / len(lengths) if lengths else reset,
        sum(lengths) / len(lengths) if lengths else recipe.protocol.max_steps,
    )
