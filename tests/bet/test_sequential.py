"""Anytime-valid tests and intervals: closed forms, fairness by enumeration, and errors by simulation (fixed seeds).

Simulated paths are looked at after every single episode unless a stopping rule says otherwise: nobody can look oftener.
"""

from collections.abc import Callable
from itertools import pairwise, product
from math import isnan, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from bet.planning import paired_rate_episodes
from bet.sequential import Side, anytime_comparison, anytime_interval, log_evidence, looks
from bet.stats import Method, paired_rate_test

ALPHA = 0.05
BAR = log(1 / ALPHA)

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]  # n values

quick = settings(max_examples=25)


def pairs(only_first: float, only_second: float) -> Draw:
    """Differences of success where just one policy succeeds in these shares of the episodes."""

    def draw(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        return rng.choice([1.0, -1.0, 0.0], p=[only_first, only_second, max(1 - only_first - only_second, 0)], size=n)

    return draw


def equal_scores(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return rng.beta(0.5, 0.8, n) - rng.beta(0.5, 0.8, n)


def skewed(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Mean 0: a small gain nearly always, a total loss one time in 21."""
    return np.where(rng.random(n) < 1 / 21, -1.0, 0.05)


NULLS: dict[str, Draw] = {
    "rare success": pairs(0.02, 0.02),
    "independent, rate 0.5": pairs(0.25, 0.25),
    "alike on most episodes": pairs(0.05, 0.05),
    "never discordant": pairs(0.0, 0.0),
    "always discordant": pairs(0.5, 0.5),
    "scores": equal_scores,
    "skewed scores": skewed,
}


def paths(draw: Draw, runs: int, n: int, seed: int = 0) -> NDArray[np.float64]:
    """The evidence after each of n episodes, in each of many runs: (runs, n)."""
    rng = np.random.default_rng(seed)
    return np.stack([log_evidence(draw(rng, n)) for _ in range(runs)])


# What the evidence is


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=120))
def test_on_paired_successes_it_is_the_beta_mixture_over_discordant_pairs(differences: list[float]) -> None:
    seen = np.array(differences)
    won, discordant = (seen > 0).cumsum(), (seen != 0).cumsum()
    closed = special.betaln(1 + won, 1 + discordant - won) + discordant * log(2)
    assert log_evidence(seen) == pytest.approx(closed, abs=1e-9)


def test_it_stays_close_to_the_closed_form_over_thousands_of_discordant_pairs() -> None:
    seen = pairs(0.55, 0.45)(np.random.default_rng(0), 20_000)
    won, discordant = (seen > 0).sum(), len(seen)
    closed = special.betaln(1 + won, 1 + discordant - won) + discordant * log(2)
    assert log_evidence(seen)[-1] == pytest.approx(closed, rel=0.001)


@pytest.mark.parametrize(
    ("values", "shares"),
    [([-1, 0, 1], [0.2, 0.6, 0.2]), ([-1, 0.25, 0.5], [0.25, 0.6, 0.2]), ([-0.05, 0.95], [0.95, 0.05])],
)
def test_a_fair_game_is_fair_exactly(values: list[float], shares: list[float]) -> None:
    weights = np.array(shares) / np.sum(shares)
    mean = float(weights @ values)
    expected = 0.0
    for outcome in product(range(len(values)), repeat=5):
        probability = weights[list(outcome)].prod()
        expected += probability * np.exp(log_evidence(np.array(values)[list(outcome)], mean)[-1])
    assert expected == pytest.approx(1)


@quick
@given(st.permutations([-1.0, -0.2, 0.0, 0.1, 0.3, 1.0]))
def test_the_order_of_episodes_does_not_change_what_all_of_them_say(values: list[float]) -> None:
    assert log_evidence(values)[-1] == pytest.approx(log_evidence(sorted(values))[-1])
    interval, other = anytime_interval(values, (-1, 1)), anytime_interval(sorted(values), (-1, 1))
    assert (interval.low, interval.high) == pytest.approx((other.low, other.high))


@quick
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(-0.9, 0.9))
def test_the_wealth_of_both_sides_is_the_average_of_each(values: list[float], mean: float) -> None:
    seen = np.array(values)
    higher, lower = log_evidence(seen, mean, side=Side.HIGHER), log_evidence(-seen, -mean, side=Side.HIGHER)
    assert np.logaddexp(higher, lower) - log(2) == pytest.approx(log_evidence(seen, mean), abs=1e-9)


@quick
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_evidence_for_a_higher_mean_is_stronger_against_a_smaller_one(values: list[float], a: float, b: float) -> None:
    against_smaller, against_larger = (log_evidence(values, mean, side=Side.HIGHER) for mean in (min(a, b), max(a, b)))
    assert (against_smaller >= against_larger - 1e-9).all()


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_the_interval_is_what_the_evidence_does_not_refute(values: list[float], mean: float) -> None:
    interval = anytime_interval(values)
    evidence = log_evidence(values, mean, (0, 1))[-1]
    if abs(evidence - BAR) > 1e-6:
        assert (mean in interval) == (evidence < BAR)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_an_interval_holds_its_estimate_and_mirrors_with_the_score(values: list[float]) -> None:
    interval, mirrored = anytime_interval(values), anytime_interval(1 - np.array(values))
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low), abs=1e-6)


def test_only_zeros_leave_room_above_and_only_ones_below() -> None:
    nothing, all_of_it = anytime_interval(np.zeros(100)), anytime_interval(np.ones(100))
    assert (nothing.low, nothing.estimate) == (0, 0)
    assert 0.03 < nothing.high < 0.12  # Clopper-Pearson's for this one n is 0.036
    assert (all_of_it.low, all_of_it.high) == pytest.approx((1 - nothing.high, 1))
    assert nothing.method is Method.BETTING


def test_no_episodes_leave_everything_open() -> None:
    interval = anytime_interval([])
    assert isnan(interval.estimate)
    assert (interval.low, interval.high, interval.n) == (0, 1, 0)
    assert anytime_comparison([], []).p_value == 1
    assert log_evidence([]).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_evidence([0.5, 2.0]), "row 1 is 2.0, outside \\[-1, 1\\]"),
        (lambda: log_evidence([0.5], 1.0), "must lie inside"),
        (lambda: anytime_interval([0.5, -0.1]), "row 1 is -0.1"),
        (lambda: anytime_interval([0.5], confidence=95), "between 0 and 1: 95"),
        (lambda: anytime_comparison([1, 0], [1]), "2 and 1"),
        (lambda: looks(0), "looks need episodes"),
        (lambda: looks(100, growth=1.0), "must grow"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@given(st.integers(1, 5000), st.integers(1, 200), st.floats(1.01, 3))
def test_looks_grow_and_end_with_all_episodes(most: int, first: int, growth: float) -> None:
    found = looks(most, first, growth)
    assert found[-1] == most
    assert found[0] == min(first, most)
    assert all(a < b for a, b in pairwise(found))
    assert looks(2000) == [50, 75, 112, 168, 252, 378, 567, 850, 1275, 1912, 2000]


# Errors where there is no difference


@pytest.mark.parametrize("name", NULLS)
def test_without_a_difference_no_stopping_rule_errs_more_often_than_stated(name: str) -> None:
    runs, n = 1000, 500
    draw = NULLS[name]
    evidence = paths(draw, runs, n)  # (runs, n)
    rng = np.random.default_rng(0)
    ahead = np.stack([draw(rng, n).cumsum() for _ in range(runs)]) > 3  # the same draws: the first leads by three
    first_lead = np.where(ahead.any(axis=1), ahead.argmax(axis=1), n - 1)  # (runs,)
    schedule = np.array(looks(n)) - 1
    errors = {
        "at the first significance, looking after every episode": (evidence >= BAR).any(axis=1),
        "at the first significance, looking every 50": (evidence[:, 49::50] >= BAR).any(axis=1),
        "at the first significance, looking as `compare` does": (evidence[:, schedule] >= BAR).any(axis=1),
        "when the first policy is ahead": evidence[np.arange(runs), first_lead] >= BAR,
        "when all episodes are done": evidence[:, -1] >= BAR,
    }
    assert {rule: share for rule, found in errors.items() if (share := found.mean()) > ALPHA} == {}


def test_a_test_for_a_fixed_number_of_episodes_errs_under_the_same_looks() -> None:
    rng = np.random.default_rng(0)

    def ever_significant() -> bool:
        seen = NULLS["independent, rate 0.5"](rng, 500)
        return any(paired_rate_test(seen[:n] > 0, seen[:n] < 0).p_value <= ALPHA for n in range(25, 501, 25))

    assert np.mean([ever_significant() for _ in range(100)]) > 0.1


SCORES: dict[str, tuple[Draw, float]] = {
    "rare successes": (lambda rng, n: (rng.random(n) < 0.02).astype(float), 0.02),
    "successes": (lambda rng, n: (rng.random(n) < 0.7).astype(float), 0.7),
    "scores at both ends": (lambda rng, n: rng.beta(0.2, 0.3, n), 0.4),
    "scores in the middle": (lambda rng, n: rng.beta(20, 20, n), 0.5),
    "rarely above 0": (lambda rng, n: (rng.random(n) < 0.1) * rng.beta(2, 2, n), 0.05),
}


@pytest.mark.parametrize("name", SCORES)
def test_the_confidence_sequence_covers_at_all_episodes_at_once(name: str) -> None:
    draw, truth = SCORES[name]
    rng = np.random.default_rng(1)
    worst = [log_evidence(draw(rng, 500), truth, (0, 1)).max() for _ in range(600)]
    assert np.mean(np.array(worst) < BAR) >= 1 - ALPHA


def test_intervals_at_every_look_cover_together() -> None:
    draw, truth = SCORES["rarely above 0"]
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(60):
        seen = draw(rng, 500)
        covered.append(all(truth in anytime_interval(seen[:n]) for n in looks(500)))
    assert np.mean(covered) >= 1 - ALPHA


# Episodes saved where there is one


def stops(only_first: float, only_second: float, most: int, runs: int = 200) -> tuple[NDArray[np.intp], float]:
    """Episodes used in each run, looking as `compare` does, and the share of runs that found the better policy."""
    rng = np.random.default_rng(0)
    used, right = [], []
    for _ in range(runs):
        seen = pairs(only_first, only_second)(rng, most)
        strongest = np.maximum.accumulate(log_evidence(seen))
        n = next((n for n in looks(most) if strongest[n - 1] >= BAR), most)
        used.append(n)
        right.append(strongest[n - 1] >= BAR and seen[:n].mean() > 0)
    return np.array(used), float(np.mean(right))


@pytest.mark.parametrize(
    ("only_first", "only_second"),
    [(0.27, 0.07), (0.22, 0.02), (0.4, 0.1)],
    ids=["0.9 v 0.7, independent", "0.9 v 0.7, alike on most", "0.8 v 0.5"],
)
def test_on_clear_cases_it_saves_episodes(only_first: float, only_second: float) -> None:
    """Compared with designs that fix the number of episodes, a paired test at the same alpha.

    Such a design must name a difference before it has seen one. Against the honest one, planned for the smallest
    difference worth finding (0.1 at power 0.8), and against `--max-episodes 2000`, at least 30% are saved. Even a
    design that knew difference and discordance beforehand would need more for 95% power.
    """
    used, power = stops(only_first, only_second, 2000)
    discordant = only_first + only_second
    planned = paired_rate_episodes(0.1, discordant, ALPHA, 0.8)
    oracle = paired_rate_episodes(only_first - only_second, discordant, ALPHA, 0.95)
    assert power >= 0.99
    assert used.mean() <= 0.7 * planned
    assert used.mean() <= 0.7 * 2000
    assert used.mean() < oracle


def test_a_smaller_difference_takes_longer_and_none_runs_to_the_end() -> None:
    clear, small = (stops(0.15 + d / 2, 0.15 - d / 2, 2000, runs=100)[0].mean() for d in (0.2, 0.1))
    assert clear < small
    used, found = stops(0.15, 0.15, 600, runs=100)
    assert used.mean() > 550
    assert found <= ALPHA


def test_what_is_decided_does_not_depend_on_how_often_one_looked() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((2, 200)) < [[0.9], [0.7]]).astype(float)
    whenever = [anytime_comparison(first[:n], second[:n]).p_value for n in range(1, 201)]
    assert whenever == sorted(whenever, reverse=True)
    assert whenever[-1] < ALPHA
    comparison = anytime_comparison(first, second)
    assert comparison.difference.low > 0
    mirrored = anytime_comparison(second, first)
    assert mirrored.p_value == pytest.approx(comparison.p_value)
    assert mirrored.difference.high == pytest.approx(-comparison.difference.low, abs=1e-6)
