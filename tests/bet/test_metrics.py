"""Outcomes of episodes, and how well their routes cover the demonstrated ones."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import ArrayLike, NDArray

from bet.envs.blockpush import BLOCK_XY, OBS_DIM, TARGET_XY, TOLERANCE, block_distances
from bet.envs.kitchen import ELEMENTS, START, judged
from bet.envs.pointmass import PointMassVersion, Route
from bet.metrics import (
    BLOCKPUSH_FIRST,
    BLOCKPUSH_ROUTES,
    NEVER,
    NO_ROUTE,
    BlockPushOutcome,
    KitchenOutcome,
    PointMassOutcome,
    PushTOutcome,
    blockpush_outcome,
    blockpush_primary,
    kitchen_outcome,
    kitchen_primary,
    mode_coverage,
    pointmass_outcome,
    pusht_outcome,
    pusht_primary,
    route_labels,
    route_shares,
    sequence_entropies,
    success_primary,
)
from bet.oracles.pointmass import route_points
from bet.tasks import get
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


@pytest.mark.parametrize("outcome", [PushTOutcome, BlockPushOutcome, PointMassOutcome])
def test_an_outcome_has_columns_that_parquet_knows(outcome: type) -> None:
    assert all(field.type in (str, float, int, bool) for field in dataclasses.fields(outcome))


# Push-T.


def test_pusht_remembers_the_best_coverage_not_the_last() -> None:
    assert pusht_outcome(pusht(0.1, 0.7, 0.2)) == PushTOutcome(best_coverage=0.7)


@pytest.mark.parametrize(("best", "score"), [(0.0, 0.0), (0.475, 0.5), (0.95, 1.0), (0.99, 1.0)])
def test_the_pusht_score_is_best_coverage_as_a_share_of_what_counts_as_solved(best: float, score: float) -> None:
    assert pusht_primary(pusht(0.0, best)) == pytest.approx(score)


# BlockPush.

TARGET, TARGET2 = (0.28, 0.2), (0.52, 0.2)
AWAY, AWAY2, MIDWAY = (0.3, -0.2), (0.5, -0.2), (0.4, 0.0)  # in no target
BELOW = (TARGET[0], TARGET[1] - 0.045)  # in the target at 5 cm, not at 4
SWAPPED = {"block": "block2", "block2": "block", "target": "target2", "target2": "target"}

Path = Sequence[tuple[float, float]]


def pushed(block: Path, block2: Path, target: Path = (TARGET,), target2: Path = (TARGET2,)) -> Trajectory:
    """Two blocks that lie at these places one after another, (T + 1, 2) each; a success where the simulator has one."""
    observations = np.zeros((len(block), OBS_DIM), dtype=np.float32)
    for columns, places in zip((*BLOCK_XY, *TARGET_XY), (block, block2, target, target2), strict=True):
        observations[:, columns] = places
    distances = block_distances(observations[1:])  # (T, 2, 2)
    nearest = distances.argmin(axis=2)
    success = np.all(distances.min(axis=2) < TOLERANCE, axis=1) & (nearest[:, 0] != nearest[:, 1])
    steps = len(success)
    signals = {"success": success.astype(float)}
    return Trajectory(observations, np.zeros((steps, 2), np.float32), np.zeros(steps), signals, np.zeros(steps, int))


def still(place: tuple[float, float], steps: int) -> Path:
    return [place] * (steps + 1)


def test_where_nothing_is_touched_nothing_has_happened() -> None:
    outcome = blockpush_outcome(pushed(still(AWAY, 3), still(AWAY2, 3)))
    assert outcome == BlockPushOutcome(0, 0, 0, 0, 0, NO_ROUTE, NO_ROUTE, NEVER, NEVER, NEVER, NEVER)


def test_a_block_is_reached_when_it_is_over_a_millimetre_nearer_to_or_further_from_the_origin() -> None:
    start = (0.4, 0.0)
    for far in (0.4009, 0.3991):
        assert blockpush_outcome(pushed([start, (far, 0.0)], still(AWAY2, 1))).reached == 0
    for far in (0.4011, 0.3989):
        outcome = blockpush_outcome(pushed([start, start, (far, 0.0), start], still(AWAY2, 3)))
        assert (outcome.reached, outcome.first_reached_at, outcome.second_reached_at) == (1, 2, NEVER)
    slowly = blockpush_outcome(pushed([start, (0.4006, 0.0), (0.4012, 0.0)], still(AWAY2, 2)))
    assert (slowly.reached, slowly.first_reached_at) == (1, 2)


def test_a_block_that_moves_along_a_circle_about_the_origin_is_not_reached_even_on_its_way_into_a_target() -> None:
    """The original's quirk: it compares lengths, not places."""
    angles = np.linspace(-0.5, np.arctan2(TARGET[1], TARGET[0]), 5)
    circle = np.hypot(*TARGET) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outcome = blockpush_outcome(pushed(circle.tolist(), still(AWAY2, 4)))
    assert (outcome.reached, outcome.first_reached_at) == (0, NEVER)
    assert (outcome.pushed, outcome.stayed, outcome.first_pushed_at) == (1, 1, 4)


@pytest.mark.parametrize("swapped", [False, True])
def test_each_block_is_reached_at_a_step_of_its_own(swapped: bool) -> None:
    paths = [AWAY, AWAY, MIDWAY, MIDWAY], [AWAY2, AWAY2, AWAY2, MIDWAY]
    outcome = blockpush_outcome(pushed(*(paths[::-1] if swapped else paths)))
    assert (outcome.reached, outcome.first_reached_at, outcome.second_reached_at) == (2, 2, 3)
    together = blockpush_outcome(pushed([AWAY, MIDWAY], [AWAY2, MIDWAY]))
    assert (together.reached, together.first_reached_at, together.second_reached_at) == (2, 1, 1)


def test_what_entered_a_target_and_left_it_again_did_not_stay() -> None:
    outcome = blockpush_outcome(pushed([AWAY, TARGET, MIDWAY], still(AWAY2, 2)))
    assert (outcome.pushed, outcome.pushed_4cm, outcome.stayed, outcome.stayed_4cm) == (1, 1, 0, 0)
    assert (outcome.first_push, outcome.first_pushed_at, outcome.second_pushed_at) == ("block_to_target", 1, NEVER)


def test_both_may_have_entered_and_only_one_have_stayed() -> None:
    outcome = blockpush_outcome(pushed([AWAY, TARGET, MIDWAY, MIDWAY], [AWAY2, AWAY2, AWAY2, TARGET2]))
    assert (outcome.pushed, outcome.stayed, outcome.route) == (2, 1, NO_ROUTE)
    assert (outcome.first_pushed_at, outcome.second_pushed_at) == (1, 3)


def test_at_4_cm_less_counts() -> None:
    outcome = blockpush_outcome(pushed([AWAY, BELOW, BELOW], [AWAY2, AWAY2, TARGET2]))
    assert (outcome.pushed, outcome.stayed) == (2, 2)
    assert (outcome.pushed_4cm, outcome.stayed_4cm) == (1, 1)


def test_two_blocks_in_the_same_target_count_as_one() -> None:
    outcome = blockpush_outcome(pushed([AWAY, TARGET, TARGET], [AWAY2, AWAY2, TARGET]))
    assert (outcome.pushed, outcome.stayed, outcome.pushed_4cm, outcome.stayed_4cm) == (1, 1, 1, 1)
    assert (outcome.first_pushed_at, outcome.second_pushed_at) == (1, NEVER)
    then_apart = blockpush_outcome(pushed([AWAY, TARGET, TARGET, TARGET], [AWAY2, AWAY2, TARGET, TARGET2]))
    assert (then_apart.pushed, then_apart.stayed, then_apart.second_pushed_at) == (2, 2, 3)


def test_a_block_that_enters_both_targets_counts_as_one_until_the_other_block_enters_either() -> None:
    alone = blockpush_outcome(pushed([AWAY, TARGET, TARGET2], still(AWAY2, 2)))
    assert (alone.pushed, alone.stayed, alone.first_push, alone.second_pushed_at) == (1, 1, "block_to_target", NEVER)
    for last in (TARGET, TARGET2):
        both = blockpush_outcome(pushed([AWAY, TARGET, TARGET2, MIDWAY], [AWAY2, AWAY2, AWAY2, last]))
        assert (both.pushed, both.stayed, both.second_pushed_at) == (2, 1, 3)


@pytest.mark.parametrize("first", ["block", "block2"])
@pytest.mark.parametrize("pairing", ["straight", "crossed"])
def test_a_success_is_named_by_the_block_that_entered_first_and_by_who_is_where(first: str, pairing: str) -> None:
    end, end2 = (TARGET, TARGET2) if pairing == "straight" else (TARGET2, TARGET)
    block, block2 = [AWAY, MIDWAY, end, end, end], [AWAY2, AWAY2, AWAY2, AWAY2, end2]
    if first == "block2":
        block, block2 = [AWAY, AWAY, AWAY, AWAY, end], [AWAY2, MIDWAY, end2, end2, end2]
    episode = pushed(block, block2)
    assert episode.success
    outcome = blockpush_outcome(episode)
    where = "target" if (first == "block") == (pairing == "straight") else "target2"
    names = f"{first}_first_{pairing}", f"{first}_to_{where}"
    assert outcome == BlockPushOutcome(2, 2, 2, 2, 2, *names, 1, 4, 2, 4)
    assert blockpush_primary(episode) == 1.0


def test_the_names_of_routes_and_of_first_pushes_are_the_tasks() -> None:
    assert set(BLOCKPUSH_ROUTES) == set(get("blockpush").modes) - {NO_ROUTE}
    assert BLOCKPUSH_FIRST == ("block_to_target", "block_to_target2", "block2_to_target", "block2_to_target2")


def test_a_block_that_changed_its_target_is_told_by_where_it_came_first_and_its_route_by_where_it_ended() -> None:
    outcome = blockpush_outcome(pushed([AWAY, TARGET2, MIDWAY, TARGET, TARGET], [AWAY2, AWAY2, AWAY2, AWAY2, TARGET2]))
    assert (outcome.first_push, outcome.route) == ("block_to_target2", "block_first_straight")
    assert (outcome.first_pushed_at, outcome.second_pushed_at) == (1, 4)


def test_a_route_is_that_of_the_success_whatever_came_after() -> None:
    """As where recorded steps are made again, and the simulator finds the success a step before the recorded one."""
    outcome = blockpush_outcome(pushed([AWAY, TARGET2, TARGET2, MIDWAY], [AWAY2, AWAY2, TARGET, TARGET]))
    assert (outcome.route, outcome.pushed, outcome.stayed) == ("block_first_crossed", 2, 1)


def test_a_block_that_begins_in_a_target_enters_it_with_the_first_step() -> None:
    outcome = blockpush_outcome(pushed(still(TARGET, 1), still(AWAY2, 1)))
    assert (outcome.reached, outcome.pushed, outcome.first_pushed_at) == (0, 1, 1)


@pytest.mark.parametrize(("block", "share"), [(AWAY, 0.0), (TARGET, 0.5)])
def test_the_primary_of_block_push_is_the_share_of_the_blocks_that_entered(
    block: tuple[float, float], share: float
) -> None:
    assert blockpush_primary(pushed([AWAY, block, AWAY], still(AWAY2, 2))) == share


def test_a_block_exactly_as_far_away_as_the_tolerance_is_outside() -> None:
    near, above, target = float(np.float32(0.05)), 1.1780402e-09, (7.4505807e-10, 0.0)  # as float32 5 cm to the bit
    episode = pushed([AWAY, (near, above)], still(AWAY2, 1), target=(target,))
    assert block_distances(episode.observations)[1, 0, 0] == TOLERANCE
    assert blockpush_outcome(episode).pushed == 0
    nearer = float(np.nextafter(np.float32(near), np.float32(0)))
    assert blockpush_outcome(pushed([AWAY, (nearer, above)], still(AWAY2, 1), target=(target,))).pushed == 1


def test_a_success_that_rounding_to_float32_hides_counts_and_has_its_steps() -> None:
    """The simulator saw a block a hair inside of 5 cm; what is recorded of that is a hair outside."""
    edge = (0.05, 0.0)  # as float32 a little more
    episode = pushed([AWAY, edge, edge], [AWAY2, AWAY2, TARGET2], target=((0.0, 0.0),))
    assert not episode.success
    episode = dataclasses.replace(episode, signals={"success": np.array([0.0, 1.0])})
    outcome = blockpush_outcome(episode)
    assert (outcome.pushed, outcome.stayed, outcome.pushed_4cm, outcome.stayed_4cm) == (2, 2, 1, 1)
    assert (outcome.first_pushed_at, outcome.second_pushed_at, outcome.route) == (2, 2, "block_first_straight")


PLACES = st.sampled_from([AWAY, AWAY2, MIDWAY, BELOW, TARGET, TARGET2, (0.49, 0.2), (0.34, 0.2), (0.52, 0.245)])
EPISODES = st.integers(1, 6).flatmap(
    lambda steps: st.tuples(*[st.lists(PLACES, min_size=steps + 1, max_size=steps + 1)] * 2)
)


@given(EPISODES)
def test_stricter_readings_count_no_more_and_counts_agree_with_steps(paths: tuple[Path, Path]) -> None:
    episode = pushed(*paths)
    outcome = blockpush_outcome(episode)
    assert outcome.stayed_4cm <= min(outcome.stayed, outcome.pushed_4cm)
    assert max(outcome.stayed, outcome.pushed_4cm) <= outcome.pushed
    for count, at in (
        (outcome.reached, (outcome.first_reached_at, outcome.second_reached_at)),
        (outcome.pushed, (outcome.first_pushed_at, outcome.second_pushed_at)),
    ):
        assert count == sum(step != NEVER for step in at)
        assert all(step == NEVER or 1 <= step <= len(episode) for step in at)
        assert count < 2 or at[0] <= at[1]
    assert (outcome.first_push == NO_ROUTE) == (outcome.pushed == 0)
    assert (outcome.route == NO_ROUTE) == (not episode.success)
    assert not episode.success or outcome.pushed == 2


@given(EPISODES)
def test_an_episode_cut_short_has_the_events_that_had_happened_by_then(paths: tuple[Path, Path]) -> None:
    whole = blockpush_outcome(pushed(*paths))
    for steps in range(1, len(paths[0]) - 1):
        part = vars(blockpush_outcome(pushed(*(path[: steps + 1] for path in paths))))
        for event, at in vars(whole).items():
            if event.endswith("_at"):
                assert part[event] == (at if at <= steps else NEVER)


@given(EPISODES)
def test_other_names_of_blocks_and_targets_change_names_alone(paths: tuple[Path, Path]) -> None:
    episode = pushed(*paths)
    outcome = blockpush_outcome(episode)
    inside = np.any(block_distances(episode.observations[1:]) < TOLERANCE, axis=2)  # (T, 2)
    assume(outcome.pushed == 0 or not inside[outcome.first_pushed_at - 1].all())  # of two at once the first is named
    blocks_swapped = pushed(*paths[::-1])
    targets_swapped = pushed(*paths, target=(TARGET2,), target2=(TARGET,))
    for other, swaps in ((blocks_swapped, "block"), (targets_swapped, "target")):
        renamed = blockpush_outcome(other)
        first, route = outcome.first_push, outcome.route
        if first != NO_ROUTE:
            names = first.split("_to_")
            first = "_to_".join(SWAPPED[name] if name.startswith(swaps) else name for name in names)
        if route != NO_ROUTE:
            block, pairing = route.split("_first_")
            other_pairing = {"straight": "crossed", "crossed": "straight"}[pairing]
            route = f"{SWAPPED[block] if swaps == 'block' else block}_first_{other_pairing}"
        assert renamed == dataclasses.replace(outcome, first_push=first, route=route)


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


# The kitchen.


def cooking(*steps: Sequence[str]) -> Trajectory:
    """An episode that finds the named elements at their goals after each step, and nothing else."""
    observations = np.zeros((len(steps) + 1, 60), np.float32)
    observations[:, : len(START)] = START
    for row, names in zip(observations[1:], steps, strict=True):
        for name in names:
            row[ELEMENTS[name].columns] = ELEMENTS[name].goal
    rewards, signals = judged(observations)
    return Trajectory(observations, np.zeros((len(steps), 9), np.float32), rewards, signals, np.zeros(len(steps), int))


def test_tasks_are_told_in_the_order_in_which_they_were_done_and_once() -> None:
    found = kitchen_outcome(cooking([], ["kettle"], ["kettle", "microwave"], ["microwave"], ["kettle"]))
    assert found == KitchenOutcome(
        done=2,
        sequence="kettle, microwave",
        bottom_burner_at=NEVER,
        top_burner_at=NEVER,
        light_switch_at=NEVER,
        slide_cabinet_at=NEVER,
        hinge_cabinet_at=NEVER,
        microwave_at=3,
        kettle_at=2,
    )


def test_tasks_of_one_step_are_told_in_the_originals_order() -> None:
    assert kitchen_outcome(cooking(["kettle", "top burner"])).sequence == "top burner, kettle"


def test_an_episode_in_which_nothing_was_done_has_an_empty_sequence() -> None:
    found = kitchen_outcome(cooking([], []))
    assert (found.done, found.sequence, found.kettle_at) == (0, "", NEVER)


def test_four_tasks_are_the_whole_of_the_primary_and_a_success() -> None:
    names = list(ELEMENTS)
    for done in range(1, 8):
        episode = cooking([], names[:done], [])
        assert kitchen_primary(episode) == min(done, 4) / 4
        assert episode.success == (done >= 4)
        np.testing.assert_array_equal(episode.rewards, [0, done, 0])


def test_the_distance_of_a_kettle_is_that_of_its_whole_pose() -> None:
    """The published 0.3, of seven numbers together: half a turn of the kettle is far enough."""
    element, state = ELEMENTS["kettle"], np.zeros(60)
    state[element.columns] = element.goal
    assert element.distances(state) == 0
    state[element.columns.start] += 0.2
    state[element.columns.start + 4] += 0.2
    assert element.distances(state) == pytest.approx(0.08**0.5)


def test_entropies_are_those_of_hand_in_bits() -> None:
    """Two orders alike often have one bit; tasks are padded to five an episode."""
    found = sequence_entropies(["kettle, microwave", "microwave, kettle"])
    assert found["sequence entropy"] == pytest.approx(1.0)
    shares = np.array([2, 2, 6]) / 10  # kettles, microwaves, nothing
    assert found["task entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_a_sequence_counts_in_the_entropy_of_tasks_as_often_as_it_was_taken() -> None:
    every = "bottom burner, top burner, light switch, slide cabinet, kettle"
    many, few = sequence_entropies([every] * 9 + [""]), sequence_entropies([every] + [""] * 9)
    assert many["sequence entropy"] == pytest.approx(few["sequence entropy"])
    assert many["task entropy"] > few["task entropy"]
    assert sequence_entropies([every] * 3) == pytest.approx({"task entropy": np.log2(5), "sequence entropy": 0})


def test_the_steps_of_a_kitchen_episode_have_a_column_for_each_element() -> None:
    task = get("kitchen")
    names = {field.name for field in dataclasses.fields(KitchenOutcome)}
    assert set(task.events.values()) == names - {"done", "sequence"}
    assert [rate.count for rate in task.rates.values()] == [1, 2, 3, 4, 5]
