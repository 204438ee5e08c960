"""What a set of episodes says about a policy or a setting."""

from collections.abc import Sequence
from dataclasses import fields
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bet import tasks
from bet.measure import Measurement, judged_by, measure, measure_difference, measure_modes
from bet.metrics import BLOCKPUSH_ROUTES, NEVER, NO_ROUTE, sequence_entropies
from bet.stats import Method, mean_interval, paired_mean_difference, paired_rate_test, rate_interval

PUSHT, BLOCKS, GRID = tasks.get("pusht"), tasks.get("blockpush"), tasks.get("pointmass2")
KITCHEN = tasks.get("kitchen")
ROUTES = list(GRID.modes)  # right_first .3, diagonal .4, up_first .3, none 0


def on_grid(routes: dict[str, int], failures: int = 0, train_seed: int = 0) -> Measurement:
    """Measure so many successes by route, and failures, in one training seed."""
    names, success, seeds = columns(routes, failures, train_seed)
    return measure(GRID, success.astype(float), success, {"route": names}, seeds)


def columns(
    routes: dict[str, int], failures: int, train_seed: int
) -> tuple[list[str], NDArray[np.bool_], NDArray[np.int64]]:
    names = [name for name, count in routes.items() for _ in range(count)] + ["none"] * failures
    success = np.arange(len(names)) < len(names) - failures
    return names, success, np.full(len(names), train_seed)


# Tasks whose modes have no names.


def test_the_primary_is_the_mean_score_and_success_its_own_rate() -> None:
    primary, success = np.linspace(0, 1, 11), np.arange(11) > 8
    result = measure(PUSHT, primary, success, {}, np.zeros(11, np.int64))
    assert result.primary == mean_interval(primary)
    assert result.primary.estimate == pytest.approx(0.5)
    assert result.success == rate_interval(2, 11)
    assert (result.episodes, result.seeds) == (11, 1)
    assert result.mode_shares == {}
    assert result.mode_coverage is None


def test_where_success_is_the_primary_both_have_the_same_interval() -> None:
    task = tasks.simulated("MountainCarContinuous-v0")
    for train_seeds in (np.zeros(40, np.int64), np.repeat([0, 1], 20)):
        won = np.arange(40) % 4 > 0
        found = measure(task, won.astype(float), won, {}, train_seeds)
        assert found.primary == found.success
        assert found.primary.estimate == 0.75


def test_several_training_seeds_speak_of_the_setting() -> None:
    rng = np.random.default_rng(0)
    primary, seeds = rng.random(60), np.repeat([3, 5, 9], 20)
    result = measure(PUSHT, primary, primary > 0.5, {}, seeds)
    one = measure(PUSHT, primary, primary > 0.5, {}, np.zeros(60, np.int64))
    assert result.seeds == 3
    assert result.primary.method is Method.CLUSTERED
    assert result.success.method is Method.CLUSTERED
    assert result.primary.estimate == pytest.approx(one.primary.estimate)
    assert result.primary.high - result.primary.low >= one.primary.high - one.primary.low


def test_a_seed_that_differs_from_the_others_widens_the_interval() -> None:
    seeds = np.repeat([0, 1, 2], 100)
    alike = measure(PUSHT, np.full(300, 0.5), np.ones(300, bool), {}, seeds)
    apart = measure(PUSHT, np.repeat([0.1, 0.5, 0.9], 100), np.ones(300, bool), {}, seeds)
    assert apart.primary.estimate == pytest.approx(alike.primary.estimate)
    assert apart.primary.high - apart.primary.low > 2 * (alike.primary.high - alike.primary.low)


# Tasks whose modes have names.


@pytest.mark.parametrize(
    ("routes", "failures", "coverage", "primary"),
    [
        ({"right_first": 30, "diagonal": 40, "up_first": 30}, 0, 1.0, 1.0),
        ({"right_first": 30, "diagonal": 40, "up_first": 30}, 100, 1.0, 0.5),
        ({"diagonal": 50}, 0, 0.4, 0.4),
        ({"right_first": 20, "up_first": 20}, 10, 0.6, 0.48),
        ({"none": 10}, 10, 0.0, 0.0),
    ],
    ids=["as demonstrated", "half of the time", "one route", "two routes", "no route"],
)
def test_the_primary_is_success_times_mode_coverage(
    routes: dict[str, int], failures: int, coverage: float, primary: float
) -> None:
    result = on_grid(routes, failures)
    successes = sum(routes.values())
    assert result.mode_coverage == pytest.approx(coverage)
    assert result.primary.estimate == pytest.approx(primary)
    assert result.success == rate_interval(successes, successes + failures)
    assert result.mode_shares == pytest.approx({name: routes.get(name, 0) / successes for name in ROUTES})


def test_without_a_success_nothing_is_covered() -> None:
    result = on_grid({}, failures=20)
    assert result.primary.estimate == 0
    assert result.mode_coverage == 0
    assert set(result.mode_shares.values()) == {0.0}


def test_a_failed_episodes_route_does_not_count() -> None:
    success = np.array([True, False])
    result = measure(GRID, success.astype(float), success, {"route": ["diagonal", "up_first"]}, np.zeros(2, np.int64))
    assert result.mode_shares["diagonal"] == 1.0


@settings(max_examples=10)
@given(
    counts=st.lists(st.integers(0, 30), min_size=4, max_size=4),
    failures=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_the_order_of_episodes_does_not_matter_and_estimates_lie_in_their_intervals(
    counts: list[int], failures: int, seed: int
) -> None:
    names, success, seeds = columns(dict(zip(ROUTES, counts, strict=True)), failures + 1, 0)
    result = measure(GRID, success.astype(float), success, {"route": names}, seeds)
    order = np.random.default_rng(seed).permutation(len(names))
    again = measure(GRID, success[order].astype(float), success[order], {"route": [names[i] for i in order]}, seeds)
    assert again == result
    for interval in (result.primary, result.success):
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_several_training_seeds_that_each_know_one_route_do_not_know_all_three() -> None:
    """Pooled they would cover every mode; a policy of the setting covers one."""
    parts = [columns({route: 50}, 0, seed) for seed, route in enumerate(["right_first", "diagonal", "up_first"])]
    names = [name for part in parts for name in part[0]]
    success, seeds = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    result = measure(GRID, success.astype(float), success, {"route": names}, seeds)
    assert result.seeds == 3
    assert result.primary.method is Method.CLUSTERED
    assert result.primary.estimate == pytest.approx((0.3 + 0.4 + 0.3) / 3)
    assert result.success.estimate == 1.0


def test_a_route_that_the_task_does_not_have_is_refused() -> None:
    success = np.array([True])
    with pytest.raises(ValueError, match="sideways"):
        measure(GRID, success.astype(float), success, {"route": ["sideways"]}, np.zeros(1, np.int64))


@pytest.mark.parametrize("task", [PUSHT, BLOCKS, GRID, KITCHEN], ids=lambda task: task.name)
def test_no_episodes_say_nothing(task: tasks.SimulatedTask) -> None:
    result = measure(
        task, np.zeros(0), np.zeros(0, bool), {name: [] for name in judged_by(task)}, np.zeros(0, np.int64)
    )
    assert result.episodes == 0
    assert np.isnan(result.primary.estimate)
    assert (result.primary.low, result.primary.high) == (0, 1)
    assert set(result.rates) == set(task.rates)
    assert all(np.isnan(rate.estimate) for rate in result.rates.values())
    assert (result.times, result.begun, result.mode_entropy, result.entropies) == ({}, {}, None, {})


# Rates, events, and what episodes began with.


def pushing(n: int, train_seeds: NDArray[np.int64] | None = None, /, **given: Sequence[Any]) -> Measurement:
    """Measure n episodes of BlockPush in which nothing happened but for these columns."""
    nothing = {name: [NEVER if name.endswith("_at") else 0] * n for name in judged_by(BLOCKS)}
    names = dict.fromkeys(("route", "first_push"), [NO_ROUTE] * n)
    own = nothing | names | given
    primary = np.array([pushed or 0 for pushed in own["pushed"]]) / 2
    success = np.array([route not in (None, NO_ROUTE) for route in own["route"]])
    return measure(BLOCKS, primary, success, own, np.zeros(n, np.int64) if train_seeds is None else train_seeds)


def test_rates_are_shares_of_the_episodes_that_have_so_many() -> None:
    found = pushing(10, reached=[2] * 6 + [1] * 3 + [0], pushed=[2] * 2 + [1] * 3 + [0] * 5, stayed=[1] * 4 + [0] * 6)
    expected = {"R1": 9, "R2": 6, "P1": 5, "P2": 2, "P1 stays": 4, "P2 stays": 0, "P1 4 cm": 0}
    for name, count in expected.items():
        assert found.rates[name] == rate_interval(count, 10)
    assert list(found.rates) == list(BLOCKS.rates)
    assert found.primary.estimate == pytest.approx((5 + 2) / 20)


def test_only_what_the_literature_has_is_a_published_rate() -> None:
    assert BLOCKS.published_rates == ["R1", "R2", "P1", "P2"]
    assert PUSHT.published_rates == []


def test_rates_of_several_training_seeds_speak_of_the_setting() -> None:
    pushed, seeds = [2] * 20 + [1] * 20 + [0] * 20, np.repeat([3, 5, 9], 20)
    found = pushing(60, seeds, pushed=pushed)
    assert found.rates["P1"] == mean_interval(np.array(pushed) >= 1.0, seeds)
    assert found.rates["P1"].method is Method.CLUSTERED
    assert found.rates["P1"].estimate == pytest.approx(2 / 3)
    alone = rate_interval(40, 60)
    assert found.rates["P1"].high - found.rates["P1"].low > 2 * (alone.high - alone.low)


def test_times_are_quantiles_of_what_happened_and_what_never_did_has_none() -> None:
    found = pushing(20, first_pushed_at=[*range(10, 21)] + [NEVER] * 9, first_reached_at=[7] + [NEVER] * 19)
    assert found.times == {"first block pushed": (11, 15, 19), "first block reached": (7, 7, 7)}


def test_what_episodes_began_with_is_shared_out_among_those_that_began_anything() -> None:
    found = pushing(8, first_push=["block_to_target"] * 3 + ["block2_to_target"] + [NO_ROUTE] * 4)
    assert found.begun == {"block2_to_target": 0.25, "block_to_target": 0.75}
    assert pushing(8).begun == {}


def test_an_episode_that_ended_in_an_error_counts_in_rates_and_in_nothing_else() -> None:
    happened: dict[str, list[Any]] = {
        "reached": [2],
        "pushed": [2],
        "route": ["block_first_crossed"],
        "first_push": ["block_to_target2"],
        "first_pushed_at": [30],
    }
    plain = pushing(1, **happened)
    columns = {name: [*happened.get(name, [0]), None] for name in judged_by(BLOCKS)}
    found = pushing(2, **columns)
    assert found.rates["P2"] == rate_interval(1, 2)
    assert found.success == rate_interval(1, 2)
    assert (found.times, found.begun, found.mode_shares) == (plain.times, plain.begun, plain.mode_shares)
    assert found.times == {"first block pushed": (30, 30, 30)}
    assert pushing(1, **{name: [None] for name in judged_by(BLOCKS)}).begun == {}


def test_entropies_are_of_the_episodes_that_ended_without_an_error() -> None:
    columns: dict[str, list[Any]] = {name: [0, 0, None] for name in judged_by(KITCHEN)}
    columns["sequence"] = ["kettle", "microwave", None]
    found = measure(KITCHEN, np.zeros(3), np.zeros(3, bool), columns, np.zeros(3, np.int64))
    assert found.entropies == sequence_entropies(["kettle", "microwave"])
    assert found.entropies["sequence entropy"] == pytest.approx(1)


def test_the_entropy_of_modes_is_that_of_four_where_all_are_as_frequent() -> None:
    assert pushing(12, route=[*BLOCKPUSH_ROUTES * 2, *[NO_ROUTE] * 4]).mode_entropy == pytest.approx(log(4))
    assert pushing(4, route=[BLOCKPUSH_ROUTES[0]] * 4).mode_entropy == 0
    assert pushing(4).mode_entropy is None
    assert measure(PUSHT, np.ones(2), np.ones(2, bool), {}, np.zeros(2, np.int64)).mode_entropy is None


@pytest.mark.parametrize("task", [PUSHT, BLOCKS, GRID], ids=lambda task: task.name)
def test_the_columns_that_a_task_is_judged_by_are_of_its_outcome_and_named_once(task: tasks.SimulatedTask) -> None:
    columns = judged_by(task)
    assert len(columns) == len(set(columns))
    assert set(columns) <= {field.name for field in fields(task.outcome_type)}
    needed = {rate.column for rate in task.rates.values()} | {*task.events.values()} | {task.first} - {None}
    assert set(columns) == needed | ({"route"} if task.modes else set())


# Two policies on the same episodes.


def test_scores_and_successes_of_two_policies_are_compared_by_episode() -> None:
    rng = np.random.default_rng(0)
    primary = rng.random(40), rng.random(40)
    success = primary[0] > 0.5, primary[1] > 0.7
    found = measure_difference(PUSHT, primary, success, None)
    assert found.primary == paired_mean_difference(*primary)
    assert found.success == paired_rate_test(*success)
    task = tasks.simulated("MountainCarContinuous-v0")  # success is the primary metric
    assert measure_difference(task, primary, success, None).primary == found.success


def test_a_policy_that_forgot_two_routes_is_worse_though_it_succeeds_as_often() -> None:
    names, success, _ = columns({"right_first": 30, "diagonal": 40, "up_first": 30}, 10, 0)
    routes = names, ["diagonal"] * 100 + ["none"] * 10
    found = measure_difference(
        GRID, (success.astype(np.float64), success.astype(np.float64)), (success, success), routes
    )
    assert found.primary.difference.estimate == pytest.approx(0.6 * 100 / 110)
    assert found.primary.difference.low > 0.3
    assert found.primary.p_value < 0.001
    assert found.success.p_value == 1


def test_modes_are_measured_among_the_successes_with_intervals() -> None:
    names, success, seeds = columns({ROUTES[0]: 30, ROUTES[1]: 40, ROUTES[2]: 30}, 50, 0)
    coverage, spread = measure_modes(GRID, success, names, seeds)
    assert coverage.estimate == pytest.approx(1)
    assert spread.estimate == pytest.approx(GRID.mode_entropy)
    assert 0.7 < coverage.low < coverage.high == 1
    assert spread.low < GRID.mode_entropy < spread.high
    once = measure_modes(GRID, np.array([True]), [ROUTES[1]], np.zeros(1, np.int64))
    assert [one.estimate for one in once] == pytest.approx([0.4, 0])


def test_modes_of_a_setting_are_the_mean_of_its_training_seeds() -> None:
    names, success, seeds = columns({ROUTES[0]: 20}, 5, 0)
    others, won, more = columns({ROUTES[1]: 40}, 0, 1)
    failed = columns({}, 9, 2)  # a seed that took no mode at all
    coverage, spread = measure_modes(
        GRID,
        np.concatenate([success, won, failed[1]]),
        [*names, *others, *failed[0]],
        np.concatenate([seeds, more, failed[2]]),
    )
    assert (coverage.estimate, spread.estimate) == (pytest.approx(0.35), pytest.approx(0))
    assert coverage.method is spread.method is Method.CLUSTERED
