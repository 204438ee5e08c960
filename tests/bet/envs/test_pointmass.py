"""The point mass's own rules; what it shares with the other environments is in `test_contract.py`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bet.envs.pointmass import Maze, PointMassVectorEnv, PointMassVersion, draw

ONE, TWO = PointMassVersion.ONE, PointMassVersion.TWO
versions = pytest.mark.parametrize("version", list(PointMassVersion))


def at(version: PointMassVersion, *points: tuple[float, float], max_steps: int = 50) -> PointMassVectorEnv:
    """One slot at each of the points."""
    env = PointMassVectorEnv(len(points), version, max_steps)
    env.reset(options={"states": np.array(points, dtype=np.float64)})
    return env


@versions
def test_a_maze_is_well_formed(version: PointMassVersion) -> None:
    maze = version.maze
    assert maze.shares.sum() == pytest.approx(1)
    assert len({route.name for route in maze.routes}) == len(maze.routes)
    assert {route.waypoints[0] for route in maze.routes} == {maze.start}
    assert {route.waypoints[-1] for route in maze.routes} == {maze.target}
    corners = np.array([corner for route in maze.routes for corner in route.waypoints])
    assert ((corners > maze.low) & (corners < maze.high)).all()


def test_the_versions_are_the_published_ones() -> None:
    assert (ONE.maze.start, ONE.maze.target, ONE.maze.low, ONE.maze.high) == ((1, 2), (5, 2), -1, 6)
    assert (TWO.maze.start, TWO.maze.target, TWO.maze.low, TWO.maze.high) == ((0, 0), (8, 8), -2, 10)
    np.testing.assert_array_equal(TWO.maze.shares, [0.3, 0.4, 0.3])


def test_the_routes_of_version_1_mirror_each_other() -> None:
    upper, lower = (np.array(route.waypoints) for route in ONE.maze.routes)
    np.testing.assert_array_equal(upper * [1, -1] + [0, 4], lower)


def test_the_outer_routes_of_version_2_mirror_each_other() -> None:
    right_first, _, up_first = (np.array(route.waypoints) for route in TWO.maze.routes)
    np.testing.assert_array_equal(right_first[:, ::-1], up_first)


@versions
def test_starts_scatter_around_the_start_and_are_not_snapped(version: PointMassVersion) -> None:
    env = PointMassVectorEnv(500, version, start_noise=0.1)
    observations, _ = env.reset(seed=0)
    offsets = env.states - np.array(version.maze.start)
    assert np.abs(offsets.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(offsets.std(axis=0), 0.1, rtol=0.15)
    assert (offsets != 0).all()
    np.testing.assert_array_equal(observations, env.states.astype(np.float32))


@versions
def test_without_noise_every_start_is_the_start(version: PointMassVersion) -> None:
    env = PointMassVectorEnv(3, version, start_noise=0.0)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.states, np.tile(version.maze.start, (3, 1)))


def test_starts_stay_within_the_bounds_however_large_the_noise() -> None:
    env = PointMassVectorEnv(100, ONE, start_noise=50.0)
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    assert (env.states >= -1).all()
    assert (env.states <= 6).all()


@settings(max_examples=50)
@given(
    version=st.sampled_from(PointMassVersion),
    start=st.tuples(st.floats(-1, 6), st.floats(-1, 6)),
    action=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)
def test_a_step_adds_the_clipped_action_then_rounds(
    version: PointMassVersion, start: tuple[float, float], action: tuple[float, float]
) -> None:
    env = at(version, start)
    observations, *_ = env.step(np.array([action]))
    expected = [float(round(a + min(max(b, -2.0), 2.0))) for a, b in zip(start, action, strict=True)]
    assert env.states[0].tolist() == expected
    assert observations[0].tolist() == expected


def test_half_way_rounds_to_the_even_cell_as_in_the_study() -> None:
    env = at(ONE, (1, 2), (2, 2))
    env.step(np.full((2, 2), 0.5))
    assert env.states.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_rounding_comes_before_the_target_is_looked_at() -> None:
    env = at(ONE, (4, 2), (4, 2), (4, 2))
    _, rewards, terminated, _, info = env.step(np.array([[0.6, 0.4], [0.6, 0.6], [0.4, 0.0]]))
    assert env.states.tolist() == [[5, 2], [5, 3], [4, 2]]
    assert rewards.tolist() == [1, 0, 0]
    assert terminated.tolist() == [True, False, False]
    assert info["success"].tolist() == [1, 0, 0]


def test_the_bounds_themselves_are_legal_and_one_cell_beyond_is_lost() -> None:
    env = at(ONE, (5, 0), (5, 0), (0, 0), (0, 0))
    _, rewards, terminated, truncated, info = env.step(np.array([[1, 0], [2, 0], [-1, 0], [0, -2]]))
    assert env.states.tolist() == [[6, 0], [7, 0], [-1, 0], [0, -2]]
    assert rewards.tolist() == [0, -1, 0, -1]
    assert terminated.tolist() == [False, True, False, True]
    assert not truncated.any()
    assert not info["success"].any()


def test_standing_on_the_target_counts_only_after_a_step() -> None:
    env = at(ONE, (5, 2))
    assert env.step(np.zeros((1, 2)))[4]["success"].tolist() == [1]


def test_arriving_on_the_last_step_is_success_not_a_time_limit() -> None:
    env = at(ONE, (4, 2), max_steps=1)
    _, _, terminated, truncated, _ = env.step(np.array([[1.0, 0.0]]))
    assert terminated.tolist() == [True]
    assert truncated.tolist() == [False]


@pytest.mark.parametrize("point", [(np.nan, 0.0), (0.0, np.inf), (9.0, 0.0), (0.0, -3.5)])
def test_a_state_it_cannot_reach_is_refused_naming_the_slot(point: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="slot 1"):
        at(ONE, (1, 2), point)


@pytest.mark.parametrize("noise", [-0.1, np.nan])
def test_a_negative_start_noise_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="start_noise"):
        PointMassVectorEnv(1, ONE, start_noise=noise)


@versions
def test_a_frame_shows_the_point_where_it_is(version: PointMassVersion) -> None:
    maze = version.maze
    for point in (maze.start, maze.target, (maze.low, maze.low), (maze.low, maze.high)):
        frame = draw(maze, np.array(point))
        assert frame.shape == (256, 256, 3)
        rows, columns = np.nonzero((frame < 60).all(axis=2))  # nothing else is that dark
        assert pixel(maze, point) == pytest.approx((columns.mean(), rows.mean()), abs=1)


def pixel(maze: Maze, point: tuple[float, float]) -> tuple[float, float]:
    """Column and row of a point: y upwards, half a cell of margin."""
    cell = 256 / (maze.high - maze.low + 1)
    return (point[0] - maze.low + 0.5) * cell, (maze.high + 0.5 - point[1]) * cell


def test_frames_do_not_share_memory() -> None:
    first, second = at(ONE, (1, 2), (1, 2)).render()
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)
