"""How many episodes find a difference: of two policies, or of several settings against the best of them.

Policies meet the same initial states, so what counts is the share of *discordant* episodes, in which just one of the
two succeeds. Independent outcomes give the largest share that is likely; policies that find the same episodes hard
give less, and need fewer episodes.
"""

from collections.abc import Callable
from math import ceil, sqrt

import numpy as np
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from bet.errors import UsageError


class PlanError(UsageError):
    """No number of episodes has this power; the message says why."""


def other_rate(rate: float, difference: float) -> float:
    """The rate that differs from this one by `difference`, towards 0.5, where rates vary most.

    Raises `PlanError` where there is none in [0, 1].
    """
    if not 0 <= rate <= 1 or not 0 < difference <= max(rate, 1 - rate):
        raise PlanError(f"no rate differs from {rate:g} by {difference:g}")
    return rate - difference if rate >= 0.5 else rate + difference


def independent_discordance(rate: float, other: float) -> float:
    """The share of discordant episodes of two policies whose successes have nothing to do with each other."""
    return rate * (1 - other) + other * (1 - rate)


def paired_rate_power(episodes: int, difference: float, discordant: float, alpha: float = 0.05) -> float:
    """Power of the exact McNemar test (`bet.stats.paired_rate_test`), summed over all outcomes and not approximated.

    Given a share of discordant episodes, their number is binomial, and so is, given that number, how many the better
    policy wins.

    Raises `PlanError` unless 0 < difference <= discordant <= 1.
    """
    _check(difference, discordant)
    spread = 10 * sqrt(episodes * discordant * (1 - discordant)) + 10  # all but 1e-20 or so
    around = episodes * discordant
    m = np.arange(max(0, int(around - spread)), min(episodes, ceil(around + spread)) + 1)  # (M,) discordant episodes
    lost = stats.binom.ppf(alpha / 2, m, 0.5)  # the first number whose tail reaches alpha / 2
    lost -= stats.binom.cdf(lost, m, 0.5) > alpha / 2  # the last that is significant; -1 where none is
    wins = (discordant + difference) / (2 * discordant)
    found = stats.binom.cdf(lost, m, wins) + stats.binom.sf(m - lost - 1, m, wins)  # (M,)
    return float(stats.binom.pmf(m, episodes, discordant) @ found)


def paired_rate_episodes(difference: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Episodes of each policy with which the exact McNemar test finds a difference of success rates.

    The search begins at the normal approximation (Connor 1987, Biometrics 43, 207-211), which promises a few too few.

    Raises `PlanError` as `paired_rate_power` does.
    """
    _check(difference, discordant)
    z_alpha, z_power = stats.norm.ppf([1 - alpha / 2, power])
    connor = (z_alpha * sqrt(discordant) + z_power * sqrt(discordant - difference**2)) ** 2 / difference**2
    return _smallest(lambda n: paired_rate_power(n, difference, discordant, alpha) >= power, ceil(connor))


def independent_rate_episodes(difference: float, rate: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Episodes of each policy where they do not share initial states, by the z-test for two proportions.

    Raises `PlanError` as `other_rate` does.
    """
    other = other_rate(rate, difference)
    return ceil(samplesize_proportions_2indep_onetail(other - rate, rate, power, alpha=alpha))


def paired_mean_episodes(difference: float, deviation: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Episodes of each policy that find a difference of mean scores, by the paired t-test.

    `deviation` is the standard deviation of the difference of two scores in an episode. Raises `PlanError` for none.
    """
    if not (deviation > 0 and difference > 0):
        raise PlanError(
            f"scores that never differ from one another (deviation {deviation:g}) differ by no {difference:g}"
        )
    return ceil(TTestPower().solve_power(difference / deviation, alpha=alpha, power=power))


def _check(difference: float, discordant: float) -> None:
    if not 0 < difference <= discordant <= 1:
        raise PlanError(
            f"rates that differ by {difference:g} differ in at least as many episodes: {discordant:g} are discordant"
        )


def _smallest(enough: Callable[[int], bool], guess: int) -> int:
    """The smallest number that is enough; an exact test's power is a sawtooth, so that some above it may not be."""
    high = max(guess, 1)
    while not enough(high):
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
