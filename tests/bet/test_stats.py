"""Intervals and paired tests: known values, properties, and coverage by simulation (fixed seeds)."""

from collections.abc import Callable
from math import isnan
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bet.stats import (
    Interval,
    Method,
    RateMethod,
    clustered,
    counts_interval,
    holm,
    mean_interval,
    paired_counts_difference,
    paired_mean_difference,
    paired_rate_test,
    rate_interval,
    simultaneous_confidence,
)

MONTE_CARLO = 0.01  # how far 10,000 draws may put a limit from its exact value, n >= 10

scores = st.lists(st.floats(0, 1), min_size=1, max_size=30)
rates = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
rate_methods: st.SearchStrategy[RateMethod] = st.sampled_from(get_args(RateMethod))
quick = settings(max_examples=25)


def success_rate(counts: NDArray[np.float64]) -> NDArray[np.float64]:  # (..., K) -> (...)
    return 1 - counts[..., 0] / counts.sum(axis=-1)


def success_times_coverage(counts: NDArray[np.float64]) -> NDArray[np.float64]:  # (..., 1 + R) -> (...)
    """Success rate x normalised entropy of the routes taken, smooth in the shares."""
    routes = counts[..., 1:]
    wins = routes.sum(axis=-1)
    shares = routes / np.maximum(wins, 1e-12)[..., None]
    coverage = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=-1) / np.log(routes.shape[-1])
    return wins / counts.sum(axis=-1) * np.clip(coverage, 0, 1)


def table(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[int], list[int]]:
    first = [1] * (both + only_first) + [0] * (only_second + neither)
    second = [1] * both + [0] * only_first + [1] * only_second + [0] * neither
    return first, second


def coverage(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([truth in interval for interval in intervals]))


# Interval


def test_an_interval_prints_its_estimate_and_limits_in_the_format_asked_for():
    interval = Interval(0.5214, 0.4512, 0.5902, 0.95, 200, Method.WILSON)
    assert str(interval) == "0.52 [0.45, 0.59]"
    assert f"{interval:.1%}" == "52.1% [45.1%, 59.0%]"


# Rates


def test_a_rate_interval_agrees_with_published_wilson_and_exact_limits():
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I: 81/263, 15/148, 0/20 and 1/29.
    published = {
        (81, 263): ((0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148): ((0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20): ((0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29): ((0.0061, 0.1718), (0.0009, 0.1776)),
    }
    for (successes, n), (wilson, exact) in published.items():
        for method, limits in zip(get_args(RateMethod), (wilson, exact), strict=True):
            interval = rate_interval(successes, n, method)
            assert (interval.low, interval.high) == pytest.approx(limits, abs=5.1e-5)


def test_no_episodes_leave_every_rate_and_score_open():
    for interval in (rate_interval(0, 0), mean_interval([]), counts_interval([0, 0], success_rate)):
        assert isnan(interval.estimate)
        assert (interval.low, interval.high, interval.n) == (0, 1, 0)
    assert paired_rate_test([], []).p_value == paired_mean_difference([], []).p_value == 1
    assert paired_mean_difference([], []).difference.low == paired_rate_test([], []).difference.low == -1


@given(rates, rate_methods, st.floats(0.5, 0.999))
def test_a_rate_interval_holds_its_estimate_and_stays_within_0_and_1(
    rate: tuple[int, int], method: RateMethod, confidence: float
):
    interval = rate_interval(*rate, method, confidence)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high


@given(rates, rate_methods)
def test_swapping_success_and_failure_mirrors_a_rate_interval(rate: tuple[int, int], method: RateMethod):
    successes, n = rate
    interval = rate_interval(successes, n, method)
    mirrored = rate_interval(n - successes, n, method)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-9)


@given(rates, rate_methods, st.integers(2, 5))
def test_more_episodes_at_the_same_rate_narrow_the_interval(rate: tuple[int, int], method: RateMethod, times: int):
    few = rate_interval(*rate, method)
    many = rate_interval(times * rate[0], times * rate[1], method)
    assert many.high - many.low < few.high - few.low


@given(rates, rate_methods)
def test_more_confidence_widens_a_rate_interval(rate: tuple[int, int], method: RateMethod):
    narrow, wide = (rate_interval(*rate, method, c) for c in (0.9, 0.99))
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


def exact_coverage(n: int, method: RateMethod) -> NDArray[np.float64]:  # (P,) at each rate of RATES
    """The probability that the interval after n episodes holds the true rate: a sum over outcomes, no simulation."""
    intervals = [rate_interval(successes, n, method) for successes in range(n + 1)]
    held = np.array([[p in interval for interval in intervals] for p in RATES])  # (P, n + 1)
    return (stats.binom.pmf(np.arange(n + 1), n, RATES[:, None]) * held).sum(axis=1)


RATES = np.linspace(0.005, 0.995, 199)


@pytest.mark.parametrize("n", [5, 10, 20, 50, 100, 200, 500])
def test_clopper_pearson_covers_at_least_as_stated_at_every_rate(n: int):
    assert exact_coverage(n, Method.CLOPPER_PEARSON).min() >= 0.95


@pytest.mark.parametrize("n", [5, 10, 20, 50, 100, 200, 500])
def test_wilson_covers_as_stated_averaged_over_rates(n: int):
    coverages = exact_coverage(n, Method.WILSON)
    assert 0.94 <= coverages.mean() <= 0.96
    assert coverages.min() < 0.95  # at some rates it does not, which is why the other one exists


# Means


@quick
@given(scores, st.integers(0, 3))
def test_a_mean_interval_holds_its_estimate_has_width_and_repeats_bit_for_bit(values: list[float], seed: int):
    interval = mean_interval(values, seed=seed)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high
    assert mean_interval(values, seed=seed) == interval


@quick
@given(st.lists(st.floats(0, 1), min_size=10, max_size=30))
def test_swapping_the_ends_of_the_score_mirrors_a_mean_interval(values: list[float]):
    interval, mirrored = mean_interval(values), mean_interval(1 - np.array(values))
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low), abs=2 * MONTE_CARLO)


@quick
@given(st.lists(st.floats(0, 1), min_size=10, max_size=30))
def test_the_same_scores_seen_four_times_narrow_the_mean_interval(values: list[float]):
    few, many = mean_interval(values), mean_interval(values * 4)
    assert many.high - many.low < few.high - few.low


@quick
@given(st.permutations([0.0, 0.1, 0.1, 0.5, 0.9, 1.0, 1.0]))
def test_the_order_of_episodes_does_not_change_a_bit_of_the_limits(values: list[float]):
    first, other = mean_interval(values), mean_interval(sorted(values))
    assert (first.low, first.high) == (other.low, other.high)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 20), (10, 20), (97, 100), (100, 100)])
def test_the_mean_of_zeros_and_ones_gets_the_clopper_pearson_interval(successes: int, n: int):
    interval = mean_interval([1] * successes + [0] * (n - successes))
    exact = rate_interval(successes, n, Method.CLOPPER_PEARSON)
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=MONTE_CARLO)


def test_a_constant_score_leaves_room_for_what_was_not_seen():
    unseen = 0.025 ** (1 / 20)
    interval = mean_interval([0.3] * 20)
    assert (interval.low, interval.high) == pytest.approx((0.3 * unseen, 1 - 0.7 * unseen), abs=MONTE_CARLO)
    assert mean_interval(np.zeros(20)).high == pytest.approx(0.168, abs=MONTE_CARLO)


def rare_scores(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return (rng.random(n) < 0.1) * rng.beta(2, 2, n)  # mean 0.05


def test_a_rare_skewed_score_is_covered_where_the_bca_bootstrap_falls_short():
    rng = np.random.default_rng(0)
    samples = [rare_scores(rng, 20) for _ in range(200)]
    assert coverage(0.05, [mean_interval(sample) for sample in samples]) >= 0.94

    def bca_covers(sample: NDArray[np.float64]) -> bool:
        limits = stats.bootstrap((sample,), np.mean, n_resamples=999, rng=rng).confidence_interval
        return bool(limits.low <= 0.05 <= limits.high)

    with np.errstate(all="ignore"), pytest.warns(stats.DegenerateDataWarning):
        assert np.mean([bca_covers(sample) for sample in samples]) < 0.9


def test_with_many_episodes_the_mean_interval_is_as_narrow_as_the_ordinary_one():
    values = np.random.default_rng(0).beta(0.5, 0.8, 2000)
    interval = mean_interval(values)
    ordinary = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert 1 < (interval.high - interval.low) / ordinary < 1.05


# Means over training seeds


def seeds_that_differ(rng: np.random.Generator, seeds: int, episodes: int) -> NDArray[np.float64]:
    rate = rng.beta(5, 5, seeds)[:, None]  # mean 0.5, standard deviation 0.15
    return (rng.random((seeds, episodes)) < rate).astype(float)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_setting_is_covered_over_its_training_seeds_where_pooled_episodes_pretend(seeds: int):
    rng = np.random.default_rng(1)
    runs = [seeds_that_differ(rng, seeds, 50) for _ in range(150)]
    labels = np.repeat(np.arange(seeds), 50)
    assert coverage(0.5, [mean_interval(run.ravel(), labels) for run in runs]) >= 0.92
    assert coverage(0.5, [mean_interval(run.ravel()) for run in runs]) < 0.75


@quick
@given(st.lists(st.floats(0, 1), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4]))
def test_knowing_the_training_seeds_never_narrows_the_interval(values: list[float], seeds: int):
    pooled, setting = mean_interval(values), mean_interval(values, np.arange(12) % seeds)
    assert setting.low <= pooled.low + 1e-12
    assert pooled.high <= setting.high + 1e-12
    assert 0 <= setting.low <= setting.estimate <= setting.high <= 1


def test_seeds_that_each_know_one_route_do_not_make_a_setting_that_knows_both():
    pooled = counts_interval([0, 50, 50], success_times_coverage)  # coverage 1, though each seed's is 0
    setting = clustered([0.0, 0.0], pooled)
    assert pooled.estimate == pytest.approx(1)
    assert setting.estimate == 0
    assert setting.high < 0.1
    assert setting.method is Method.CLUSTERED


def test_every_training_seed_counts_alike_however_many_episodes_it_has():
    interval = mean_interval([1] * 30 + [0] * 10, ["a"] * 30 + ["b"] * 10)
    assert interval.estimate == 0.5
    assert interval.method is Method.CLUSTERED


def test_a_single_training_seed_is_the_interval_of_its_policy():
    values = [0.1, 0.4, 0.9]
    assert mean_interval(values, [7, 7, 7]) == mean_interval(values)


# Outcome counts


def test_twenty_failures_leave_room_for_what_clopper_pearson_allows():
    interval = counts_interval([20, 0, 0], success_rate)
    exact = rate_interval(0, 20, Method.CLOPPER_PEARSON)
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))


def test_twenty_successes_on_two_routes_still_leave_room_for_failures():
    assert counts_interval([0, 10, 10], success_rate).low == pytest.approx(0.025 ** (1 / 20))


def test_one_route_only_leaves_room_for_the_other():
    interval = counts_interval([0, 20, 0], success_times_coverage)
    assert interval.estimate == interval.low == 0
    assert 0.5 < interval.high < 1


def test_failures_only_leave_room_for_unseen_routes_taken_alike():
    interval = counts_interval([20, 0, 0], success_times_coverage)
    assert interval.estimate == interval.low == 0
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 20))


@quick
@given(st.lists(st.integers(0, 50), min_size=3, max_size=4).filter(any), st.integers(0, 3))
def test_a_counts_interval_holds_its_estimate_has_width_and_repeats_bit_for_bit(counts: list[int], seed: int):
    interval = counts_interval(counts, success_rate, seed=seed)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high
    assert counts_interval(counts, success_rate, seed=seed) == interval


@pytest.mark.parametrize("shares", [(0.3, 0.5, 0.2), (0.1, 0.6, 0.3), (0.2, 0.32, 0.24, 0.24)])
def test_success_times_mode_coverage_is_covered(shares: tuple[float, ...]):
    rng = np.random.default_rng(0)
    truth = float(success_times_coverage(np.array(shares)))
    intervals = [counts_interval(rng.multinomial(100, shares), success_times_coverage) for _ in range(200)]
    assert coverage(truth, intervals) >= 0.91


def test_a_policy_that_takes_every_route_alike_is_covered_although_every_sample_falls_short():
    def success_times_overlap(counts: NDArray[np.float64]) -> NDArray[np.float64]:  # 1 - total variation: a kink
        wins = counts[..., 1:].sum(axis=-1)
        shares = counts[..., 1:] / np.maximum(wins, 1e-12)[..., None]
        return wins / counts.sum(axis=-1) * np.minimum(shares, 0.5).sum(axis=-1)

    rng = np.random.default_rng(0)
    intervals = [counts_interval(rng.multinomial(100, (0.1, 0.45, 0.45)), success_times_overlap) for _ in range(200)]
    assert np.mean([interval.estimate for interval in intervals]) < 0.87
    assert coverage(0.9, intervals) >= 0.9


# Pairs


def test_paired_successes_agree_with_published_analyses():
    # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33: airway hyper-responsiveness (Bentur et al. 2009).
    airway = paired_rate_test(*table(1, 1, 7, 12))
    assert airway.p_value == pytest.approx(0.0703, abs=5e-5)
    assert airway.difference.estimate == pytest.approx(-6 / 21)
    assert (airway.difference.low, airway.difference.high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    # Agresti (2002), Categorical Data Analysis, section 10.1: approval of the prime minister, 0.59 then 0.55, z = 4.17.
    approval = paired_rate_test(*table(794, 150, 86, 570))
    assert approval.difference.estimate == pytest.approx(0.04)
    assert approval.p_value == pytest.approx(2 * stats.norm.sf(4.17), rel=0.25)


def test_policies_that_agree_on_every_episode_differ_by_at_most_what_n_allows():
    same = paired_rate_test(*table(10, 0, 0, 10))
    z2 = stats.norm.ppf(0.975) ** 2
    assert same.p_value == 1
    assert same.difference.high == pytest.approx(z2 / (20 + z2))  # Tango's limits have this closed form here
    assert same.difference.low == pytest.approx(-same.difference.high)


@pytest.mark.parametrize("rows", [table(0, 5, 0, 0), table(0, 0, 5, 0), table(0, 1, 0, 0), table(3, 5, 0, 0)])
def test_a_clean_sweep_keeps_the_interval_of_differences_in_bounds(rows: tuple[list[int], list[int]]):
    interval = paired_rate_test(*rows).difference
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high


@quick
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_policies_mirrors_a_comparison_of_rates(pairs: list[tuple[bool, bool]]):
    first, second = zip(*pairs, strict=True)
    there, back = paired_rate_test(first, second), paired_rate_test(second, first)
    assert there.p_value == back.p_value
    assert (there.difference.low, there.difference.high) == pytest.approx(
        (-back.difference.high, -back.difference.low), abs=1e-6
    )


def test_the_interval_of_paired_rates_covers():
    rng = np.random.default_rng(0)
    cells = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [3, 2, 1, 4], axis=0)  # difference 0.1
    draws = [cells[rng.integers(10, size=60)] for _ in range(500)]
    intervals = [paired_rate_test(draw[:, 0], draw[:, 1]).difference for draw in draws]
    assert coverage(0.1, intervals) >= 0.93


def test_pairing_finds_a_small_difference_that_hard_and_easy_episodes_hide():
    rng = np.random.default_rng(0)
    easy = rng.random(100) * 0.9
    comparison = paired_mean_difference(easy + 0.05 + 0.04 * rng.random(100), easy)
    assert comparison.difference.low > 0
    assert comparison.p_value < 0.001


def test_equal_scores_are_no_difference_but_not_certainty():
    same = paired_mean_difference([0.5] * 20, [0.5] * 20)
    assert same.p_value == 1
    assert same.difference.low == pytest.approx(-same.difference.high, abs=2 * MONTE_CARLO)
    assert same.difference.high > 0.1


def test_one_episode_that_differs_says_nothing_of_which_is_better():
    assert paired_mean_difference([0.5, 0.2, 0.1], [0.5, 0.2, 0.9]).p_value == 1


def test_a_difference_from_one_lucky_training_seed_is_not_significant():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 150)) * 0.5
    first[:50] += 0.4
    labels = np.repeat([0, 1, 2], 50)
    assert paired_mean_difference(first, second).p_value < 0.001
    clustered = paired_mean_difference(first, second, labels)
    assert clustered.p_value > 0.05
    assert 0 in clustered.difference


def test_without_a_difference_p_values_are_small_no_more_often_than_they_should():
    rng = np.random.default_rng(0)
    found = [paired_mean_difference(*rng.beta(0.5, 1, (2, 12))).p_value <= 0.1 for _ in range(150)]
    assert np.mean(found) <= 0.15


@pytest.mark.parametrize("rows", [table(5, 9, 2, 4), table(0, 6, 0, 20), table(10, 4, 4, 10)])
def test_success_as_an_outcome_share_is_compared_as_success_is(rows: tuple[list[int], list[int]]):
    shares, exact = paired_counts_difference(*rows, 2, success_rate), paired_rate_test(*rows)
    assert shares.difference.estimate == pytest.approx(exact.difference.estimate)
    assert shares.p_value == pytest.approx(exact.p_value, abs=MONTE_CARLO)


ROUTES = np.array([[0.1, 0.3, 0.6], [0.3, 0.5, 0.2], [0.6, 0.2, 0.2]])  # of three episodes, easy to hard: (3, 3)


def two_policies(rng: np.random.Generator, n: int, apart: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Outcomes of episodes that are as hard for both; `apart`, the second has forgotten one route."""
    hard = rng.integers(3, size=n)
    first, second = (np.array([rng.choice(3, p=ROUTES[h]) for h in hard]) for _ in range(2))
    return first, np.where(apart & (second == 2), 1, second)


@pytest.mark.parametrize("apart", [False, True])
def test_a_difference_of_success_times_mode_coverage_is_covered_and_found(apart: bool):
    rng = np.random.default_rng(0)
    shares = ROUTES.mean(axis=0)
    forgotten = np.array([shares[0], shares[1] + shares[2], 0.0])
    truth = float(success_times_coverage(shares) - success_times_coverage(forgotten)) if apart else 0.0
    found = [paired_counts_difference(*two_policies(rng, 100, apart), 3, success_times_coverage) for _ in range(120)]
    assert coverage(truth, [comparison.difference for comparison in found]) >= 0.9
    significant = np.mean([comparison.p_value <= 0.05 for comparison in found])
    assert significant > 0.95 if apart else significant <= 0.08


def test_policies_with_the_same_outcomes_differ_by_what_n_allows():
    codes = [0, 1, 2] * 20
    same = paired_counts_difference(codes, codes, 3, success_times_coverage)
    assert same.p_value == 1
    assert same.difference.estimate == 0
    assert -0.2 < same.difference.low < 0 < same.difference.high < 0.2


# Many at once


def test_holm_adjusts_step_by_step():
    # By hand: the smallest times 4, the next times 3, ..., and none below one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)


def test_five_finalists_share_the_error_of_one():
    assert simultaneous_confidence(5, 0.95) == pytest.approx(0.99)
    assert simultaneous_confidence(1, 0.9) == pytest.approx(0.9)


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rate_interval(3, 2), "3 of 2"),
        (lambda: rate_interval(1, 2, Method.TANGO), "no tango interval"),  # pyright: ignore[reportArgumentType]
        (lambda: rate_interval(1, 2, confidence=95), "between 0 and 1: 95"),
        (lambda: mean_interval([0.5, 1.5]), "row 1 is 1.5"),
        (lambda: mean_interval([0.5, float("nan")]), "row 1 is nan"),
        (lambda: mean_interval([[0.5]]), "one number per episode"),
        (lambda: mean_interval([0.5, 0.6], [1]), "labels"),
        (lambda: clustered([0.5], mean_interval([0.5])), "at least two clusters"),
        (lambda: counts_interval([1, -1], success_rate), "whole numbers"),
        (lambda: counts_interval([1, 1.5], success_rate), "whole numbers"),
        (lambda: counts_interval([1, 2], lambda counts: counts), "must map"),
        (lambda: counts_interval([1, 2], lambda counts: counts[..., 0]), "must map"),
        (lambda: paired_rate_test([0.5], [1]), "first: a success is 0 or 1"),
        (lambda: paired_rate_test([1, 0], [1]), "2 and 1"),
        (lambda: paired_mean_difference([1, 0], [1]), "2 and 1"),
        (lambda: paired_counts_difference([0, 3], [0, 1], 3, success_rate), r"0\.\.2"),
        (lambda: paired_counts_difference([0, 1], [0], 3, success_rate), "2 and 1"),
        (lambda: holm([0.5, 1.5]), "p-values"),
        (lambda: simultaneous_confidence(0), "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        call()
