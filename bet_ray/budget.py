"""How much of an experiment fits into a time: pure arithmetic over what its parts cost here.

The rule: one seed, a quarter of the scaled recipe's epochs and enough episodes for an interval of about ±.05; then
more epochs up to the whole recipe, then more episodes up to the published number, then more seeds up to the published
number, but not two: how much trainings differ, two of them hardly tell. Where even the published size and recipe fit,
they are taken.
"""

import heapq
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bet.errors import UsageError
from bet.wording import duration
from bet_ray.experiments import TUNE_EPISODES, Size

EPISODES = 400  # half a Wilson interval of a rate of one half is then .049
LEAST_SHARE = 1 / 4  # of the scaled recipe's epochs: fewer say nothing
STARTING = 30.0  # seconds that Ray, Tune and the pools take
SLACK = 1.2  # what is planned over what was measured: the machine has other things to do
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_budget(text: str) -> float:
    """`"90s"`, `"30m"`, `"2h"`, `"1h30m"` -> seconds. Raises `UsageError`."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise UsageError(f"--budget: expected a time like 90s, 30m or 2h, got {text!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text))
    if not seconds:
        raise UsageError(f"--budget: {text!r} is no time at all")
    return seconds


@dataclass(frozen=True)
class Cost:
    """Seconds that one setting takes here."""

    setup: float
    """Of a training, before its first step."""
    epoch: float
    """Of one, validated."""
    episode: float
    """Of one of an actor whose slots are full, at its longest."""


@dataclass(frozen=True)
class Machine:
    """What runs at the same time."""

    trials: int
    seeds: int
    """Of a trial, trained at the same time."""
    actors: int


def estimate(size: Size, costs: Sequence[Cost], machine: Machine, tune_episodes: int = TUNE_EPISODES) -> float:
    """Seconds that an experiment takes, of whose settings these are the costs: all trainings, then all rollouts."""
    lanes = [0.0] * machine.trials
    for cost in costs:
        one_after_another = math.ceil(size.seeds / machine.seeds)
        heapq.heapreplace(lanes, lanes[0] + one_after_another * (cost.setup + size.epochs * cost.epoch))
    episodes = size.seeds * (tune_episodes + size.episodes)
    return STARTING + SLACK * (max(lanes) + episodes * sum(cost.episode for cost in costs) / machine.actors)


@dataclass(frozen=True)
class Pins:
    """Parts of a size that were given."""

    epochs: int | None = None
    episodes: int | None = None
    seeds: int | None = None

    def over(self, size: Size) -> Size:
        """The size with these in place of its own."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(size, **given)


@dataclass(frozen=True)
class Plan:
    """A size that fits, and the recipe for it."""

    size: Size
    scaled: bool
    seconds: float


Estimator = Callable[[Size, bool], float]
"""Seconds that a size takes by the scaled (True) or published recipe."""


def unlimited(published: Size, pins: Pins) -> tuple[Size, bool]:
    """The size without a budget, and whether its recipe is the scaled one: it is where epochs are fewer."""
    size = pins.over(published)
    return size, size.epochs < published.epochs


def plan(budget: float, published: Size, recipe_epochs: int, pins: Pins, seconds: Estimator) -> Plan:
    """The most of an experiment that fits into `budget` seconds, by the rule above.

    Raises `UsageError` with the smallest budget that would do.
    """
    scaled = pins.epochs is None or pins.epochs < published.epochs
    top = pins.over(Size(recipe_epochs if scaled else published.epochs, published.episodes, published.seeds))
    least = pins.over(Size(math.ceil(recipe_epochs * LEAST_SHARE), min(EPISODES, published.episodes), 1))
    size = Size(min(least.epochs, top.epochs), least.episodes, least.seeds)
    if not scaled:
        size = replace(size, epochs=top.epochs)
    needed = seconds(size, scaled)
    if needed > budget:
        raise UsageError(
            f"--budget: {duration(budget)} are too short for anything useful here; "
            f"the least is {duration(needed)} ({size})"
        )
    for name in ("epochs", "episodes", "seeds"):
        most = getattr(top, name)
        values = [value for value in range(getattr(size, name), most + 1) if (name, value) != ("seeds", 2) or most == 2]
        sizes = [replace(size, **{name: value}) for value in values]
        size = sizes[bisect_right(sizes, budget, key=lambda one: seconds(one, scaled)) - 1]
        if getattr(size, name) < most:
            break
    if size == top and scaled and pins.epochs is None:  # the published recipe trains for longer
        whole = pins.over(published)
        needed = seconds(whole, False)
        if needed <= budget:
            return Plan(whole, False, needed)
    return Plan(size, scaled, seconds(size, scaled))
