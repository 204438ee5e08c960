"""Outcomes of episodes, and how well their routes cover the demonstrated ones."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import ArrayLike, NDArray

from bet.envs.pointmass import PointMassVersion, Route
from bet.metrics import (
    NO_ROUTE,
    PointMassOutcome,
    PushTOutcome,
    mode_coverage,
    pointmass_outcome,
    pusht_outcome,
    pusht_primary,
    route_labels,
    route_shares,
    success_primary,
)
from bet.oracles.pointmass import route_points
from bet.trajectory import Trajectory

ONE, TWO = PointMassVersion.ONE, PointMassVersion.TWO
EVERY_ROUTE = [(version, route) for version in PointMassVersion for route in version.maze.routes]
every_route = pytest.mark.parametrize(("version", "route"), EVERY_ROUTE, ids=[r.name for _, r in EVERY_ROUTE])


def trajectory(path: ArrayLike, *, success: bool = True, **signals: ArrayLike) -> Trajectory:
    """A walk along the points of a path, (T + 1, 2)."""
    points = np.asarray(path, dtype=np.float32)
    steps = len(points) - 1
    succeeded = np.zeros(steps)
    succeeded[-1] = success
    return Trajectory(
        observations=points,
        actions=np.diff(points, axis=0),
        rewards=succeeded,
        signals={"success": succeeded, **{name: np.asarray(values, float) for name, values in signals.items()}},
        bins=np.zeros(steps, dtype=np.int64),
    )


def pusht(*coverage: float) -> Trajectory:
    return trajectory(np.zeros((len(coverage) + 1, 2)), coverage=coverage)


# Trajectories.


def test_a_trajectory_succeeds_if_any_step_does() -> None:
    assert trajectory([(0, 0), (1, 0)]).success
    assert not trajectory([(0, 0), (1, 0)], success=False).success
    assert len(trajectory([(0, 0), (1, 0), (2, 0)])) == 2


@pytest.mark.parametrize("field", ["observations", "rewards", "bins"])
def test_a_trajectory_whose_lengths_disagree_is_refused_naming_the_array(field: str) -> None:
    good = trajectory([(0, 0), (1, 0), (2, 0)])
    with pytest.raises(ValueError, match=f"2 actions but {field} for 1 steps"):
        dataclasses.replace(good, **{field: getattr(good, field)[:-1]})


def test_a_signal_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="signal 'coverage' for 3 steps"):
        trajectory([(0, 0), (1, 0)], coverage=[0, 0, 0])


def test_a_trajectory_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        dataclasses.replace(trajectory([(0, 0), (1, 0)]), actions=np.zeros((0, 2), dtype=np.float32))


# Columns.


@pytest.mark.parametrize("outcome", [PushTOutcome, PointMassOutcome])
def test_an_outcome_has_columns_that_parquet_knows(outcome: type) -> None:
    assert all(field.type in (str, float, int, bool) for field in dataclasses.fields(outcome))


# Push-T.


def test_pusht_remembers_the_best_coverage_not_the_last() -> None:
    assert pusht_outcome(pusht(0.1, 0.7, 0.2)) == PushTOutcome(best_coverage=0.7)


@pytest.mark.parametrize(("best", "score"), [(0.0, 0.0), (0.475, 0.5), (0.95, 1.0), (0.99, 1.0)])
def test_the_pusht_score_is_best_coverage_as_a_share_of_what_counts_as_solved(best: float, score: float) -> None:
    assert pusht_primary(pusht(0.0, best)) == pytest.approx(score)


# Which route.


@every_route
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_demonstration_follows_its_route(version: PointMassVersion, route: Route, noise: float) -> None:
    for seed in range(5):
        points = route_points(route)
        outcome = pointmass_outcome(
            trajectory(points + noise * np.random.default_rng(seed).standard_normal(points.shape)), version
        )
        assert outcome.route == route.name
        assert outcome.route_distance < 0.5


@every_route
def test_a_path_of_large_or_small_steps_follows_its_route_all_the_same(version: PointMassVersion, route: Route) -> None:
    corners = np.array(route.waypoints)
    fine = np.concatenate([np.linspace(a, b, 7) for a, b in pairwise(corners)])
    for path in (corners, fine):
        assert pointmass_outcome(trajectory(path), version).route == route.name


@every_route
def test_standing_still_or_going_one_cell_astray_keeps_the_route(version: PointMassVersion, route: Route) -> None:
    points = route_points(route).round()
    middle = len(points) // 4
    aside = points[middle] + [0, 1]
    path = np.concatenate([points[: middle + 1], points[middle : middle + 1], [aside], points[middle:]])
    assert pointmass_outcome(trajectory(path), version).route == route.name


def test_entering_on_one_route_and_leaving_on_another_follows_none() -> None:
    halves = {}
    for route in TWO.maze.routes:
        points = route_points(route)
        crossing = int(np.argmin(np.abs(points - 4).sum(axis=1)))
        halves[route.name] = points[: crossing + 1], points[crossing + 1 :]
    for first, (start, _) in halves.items():
        for second, (_, end) in halves.items():
            outcome = pointmass_outcome(trajectory(np.concatenate([start, end])), TWO)
            assert outcome.route == (first if first == second else NO_ROUTE)


def test_cutting_through_the_middle_of_version_1_follows_none() -> None:
    outcome = pointmass_outcome(trajectory([(1, 2), (2, 2), (3, 2), (4, 2), (5, 2)]), ONE)
    assert outcome == PointMassOutcome(route=NO_ROUTE, route_distance=2.0)


def test_exactly_half_way_between_two_routes_follows_none() -> None:
    path = [(0, 0), (1, 1), (3, 1), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8)]
    assert pointmass_outcome(trajectory(path), TWO).route == NO_ROUTE


@every_route
def test_a_failed_episode_has_no_route_but_a_distance(version: PointMassVersion, route: Route) -> None:
    outcome = pointmass_outcome(trajectory(route_points(route), success=False), version)
    assert outcome.route == NO_ROUTE
    assert outcome.route_distance == pytest.approx(0, abs=1e-6)
    stuck = pointmass_outcome(trajectory(np.tile(version.maze.start, (51, 1)), success=False), version)
    assert stuck.route == NO_ROUTE
    assert np.isfinite(stuck.route_distance)


def test_the_primary_of_a_row_is_success() -> None:
    path = [(0, 0), (1, 0)]
    assert success_primary(trajectory(path)) == 1.0
    assert success_primary(trajectory(path, success=False)) == 0.0


# Labels.


def test_labels_and_shares_end_with_none() -> None:
    assert route_labels(TWO) == ("right_first", "diagonal", "up_first", "none")
    np.testing.assert_array_equal(route_shares(TWO), [0.3, 0.4, 0.3, 0.0])


# Mode coverage.


@pytest.mark.parametrize(
    ("counts", "coverage"),
    [
        ([30, 40, 30, 0], 1.0),
        ([3, 4, 3, 0], 1.0),
        ([0, 100, 0, 0], 0.4),
        ([50, 0, 50, 0], 0.6),
        ([0, 0, 0, 100], 0.0),
        ([15, 20, 15, 50], 0.5),
        ([0, 0, 0, 0], 0.0),
    ],
    ids=["as shown", "as shown, few", "one route", "two routes", "none of them", "half of the time", "no success"],
)
def test_mode_coverage_of_known_counts(counts: list[int], coverage: float) -> None:
    assert mode_coverage(counts, route_shares(TWO)) == pytest.approx(coverage)


SHARES = npst.arrays(np.float64, 3, elements=st.floats(0.01, 1)).map(lambda weights: weights / weights.sum())
COUNTS = npst.arrays(
    np.int64, npst.array_shapes(max_dims=2, max_side=4).map(lambda s: (*s, 3)), elements=st.integers(0, 50)
)


@given(counts=COUNTS, shares=SHARES)
def test_mode_coverage_is_one_less_the_total_variation_distance(
    counts: NDArray[np.int64], shares: NDArray[np.float64]
) -> None:
    coverage = mode_coverage(counts, shares)
    assert coverage.shape == counts.shape[:-1]
    for row in np.ndindex(coverage.shape):
        total = counts[row].sum()
        expected = 1 - np.abs(counts[row] / total - shares).sum() / 2 if total else 0.0
        assert coverage[row] == pytest.approx(expected)
        assert 0 <= coverage[row] <= 1


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ([1, 2], [0.3, 0.3, 0.4], "counts have shape"),
        ([[1], [2]], [[1.0]], "counts have shape"),
        ([1, 2], [0.3, 0.3], "sum to 0.6"),
    ],
)
def test_counts_and_shares_that_do_not_fit_are_refused(counts: ArrayLike, shares: ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mode_coverage(counts, shares)
