"""Planned numbers of episodes have the power they promise: by enumeration, and by simulated comparisons."""

from collections.abc import Callable
from itertools import pairwise
from math import ceil, factorial, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import power_proportions_2indep

from bet.planning import (
    PlanError,
    independent_discordance,
    independent_rate_episodes,
    other_rate,
    paired_mean_episodes,
    paired_rate_episodes,
    paired_rate_power,
)
from bet.stats import paired_rate_test

quick = settings(max_examples=25)


@pytest.mark.parametrize(("difference", "discordant"), [(0.3, 0.5), (0.5, 0.5), (0.2, 1.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_power_is_the_probability_of_outcomes_that_the_paired_test_finds(
    difference: float, discordant: float, alpha: float
) -> None:
    n, power = 12, 0.0
    won, lost = (discordant + difference) / 2, (discordant - difference) / 2
    for wins in range(n + 1):
        for losses in range(n + 1 - wins):
            same = n - wins - losses
            ways = factorial(n) // (factorial(wins) * factorial(losses) * factorial(same))
            probability = ways * won**wins * lost**losses * (1 - discordant) ** same
            first, second = [1] * wins + [0] * (losses + same), [0] * wins + [1] * losses + [0] * same
            power += probability * (paired_rate_test(first, second).p_value <= alpha)
    assert paired_rate_power(n, difference, discordant, alpha) == pytest.approx(power)


@pytest.mark.parametrize(("difference", "discordant"), [(0.1, 0.3), (0.2, 0.34), (0.3, 0.3)])
def test_that_many_episodes_find_the_difference_as_often_as_promised(difference: float, discordant: float) -> None:
    rng = np.random.default_rng(0)
    n = paired_rate_episodes(difference, discordant)
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    draws = rng.choice([1, -1, 0], p=shares, size=(500, n))
    found = np.mean([paired_rate_test(draw > 0, draw < 0).p_value <= 0.05 for draw in draws])
    assert 0.76 <= found <= 0.88  # a few above 0.8 where so few episodes suffice that power comes in steps


@quick
@given(st.floats(0.05, 0.5), st.floats(0, 1), st.sampled_from([0.05, 0.05 / 39]), st.sampled_from([0.8, 0.95]))
def test_one_episode_fewer_has_too_little_power(difference: float, more: float, alpha: float, power: float) -> None:
    discordant = difference + more * (1 - difference)
    n = paired_rate_episodes(difference, discordant, alpha, power)
    assert paired_rate_power(n, difference, discordant, alpha) >= power
    assert paired_rate_power(n - 1, difference, discordant, alpha) < power


@pytest.mark.parametrize(("difference", "discordant"), [(0.02, 0.5), (0.05, 0.5), (0.05, 0.2), (0.1, 0.3)])
def test_the_exact_test_takes_a_few_more_than_the_normal_approximation(difference: float, discordant: float) -> None:
    root = 1.959964 * sqrt(discordant) + 0.841621 * sqrt(discordant - difference**2)
    assert 1 < paired_rate_episodes(difference, discordant) / (root / difference) ** 2 < 1.1


def test_policies_that_find_the_same_episodes_hard_need_fewer() -> None:
    needed = [paired_rate_episodes(0.05, share) for share in (0.05, 0.1, 0.2, 0.5)]
    assert all(a < b for a, b in pairwise(needed))
    assert paired_rate_episodes(0.05, 0.2, alpha=0.05 / 39) > needed[2]


def test_without_pairing_it_takes_about_as_many_as_with_independent_outcomes() -> None:
    alone = independent_rate_episodes(0.05, 0.5)
    assert power_proportions_2indep(-0.05, 0.5, alone, return_results=False) == pytest.approx(0.8, abs=1e-3)
    paired = paired_rate_episodes(0.05, independent_discordance(0.5, 0.45))
    assert paired == pytest.approx(alone, rel=0.05)


def test_the_other_rate_lies_towards_a_half_and_inside_0_and_1() -> None:
    assert other_rate(0.9, 0.05) == pytest.approx(0.85)
    assert other_rate(0.02, 0.05) == pytest.approx(0.07)
    assert independent_discordance(0.9, 0.7) == pytest.approx(0.34)


def test_scores_take_the_episodes_of_a_paired_t_test() -> None:
    n = paired_mean_episodes(0.05, 0.3)
    rng = np.random.default_rng(0)
    draws = rng.normal(0.05, 0.3, (2000, n))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.03)  # pyright: ignore[reportAttributeAccessIssue]
    assert n == ceil(n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_rate_episodes(0.2, 0.1), "0.1 are discordant"),
        (lambda: paired_rate_power(10, 0.0, 0.1), "differ by 0"),
        (lambda: other_rate(0.5, 0.6), "no rate differs from 0.5 by 0.6"),
        (lambda: paired_mean_episodes(0.1, 0.0), "never differ"),
        (lambda: other_rate(1.5, 0.1), "no rate differs from 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        call()
