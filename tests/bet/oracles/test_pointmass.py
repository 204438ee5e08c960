"""Demonstrations of the point mass: the study's spacing and noise, and a route drawn for each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bet.data.episodes import Episodes
from bet.envs.pointmass import PointMassVectorEnv, PointMassVersion
from bet.oracles.pointmass import demonstrated_routes, demonstrations, route_points

ONE, TWO = PointMassVersion.ONE, PointMassVersion.TWO
versions = pytest.mark.parametrize("version", list(PointMassVersion))


def path(episodes: Episodes, episode: int) -> NDArray[np.float32]:
    """Every point (P, 2) of a demonstration, the last from the last action."""
    rows = slice(episodes.episode_starts[episode], episodes.episode_ends[episode])
    observations, actions = episodes.observations[rows], episodes.actions[rows]
    return np.concatenate([observations, observations[-1:] + actions[-1:]])


def test_a_route_of_version_1_is_its_way_points() -> None:
    for route in ONE.maze.routes:
        np.testing.assert_array_equal(route_points(route), route.waypoints)


def test_the_routes_of_version_2_have_the_studys_spacing() -> None:
    right_first, diagonal, up_first = (route_points(route) for route in TWO.maze.routes)
    thirds = [4 + 4 / 3, 4 + 8 / 3, 8]
    along_x = [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, *thirds]
    along_y = [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8]
    np.testing.assert_allclose(right_first, np.transpose([along_x, along_y]))
    np.testing.assert_allclose(up_first, right_first[:, ::-1])
    np.testing.assert_allclose(diagonal, np.tile([[0], [0.8], [1.6], [2.4], [3.2], [4], [5], [6], [7], [8]], 2))


@versions
def test_without_noise_every_demonstration_is_its_route(version: PointMassVersion) -> None:
    episodes = demonstrations(version, 40, seed=3, noise=0.0)
    routes = [route_points(route) for route in version.maze.routes]
    for episode, route in enumerate(demonstrated_routes(version, 40, seed=3)):
        np.testing.assert_allclose(path(episodes, episode), routes[route], atol=1e-6)


@versions
def test_noise_is_on_every_point_and_each_action_leads_to_the_next_point(version: PointMassVersion) -> None:
    episodes = demonstrations(version, 2000, seed=0, noise=0.1)
    routes = [route_points(route) for route in version.maze.routes]
    errors = np.concatenate(
        [path(episodes, e) - routes[route] for e, route in enumerate(demonstrated_routes(version, 2000, seed=0))]
    )
    np.testing.assert_allclose(errors.std(axis=0), 0.1, rtol=0.03)
    assert np.abs(errors.mean(axis=0)).max() < 0.005
    inside = np.setdiff1d(np.arange(len(episodes.actions) - 1), episodes.episode_ends - 1)
    steps = episodes.observations[inside + 1] - episodes.observations[inside]
    np.testing.assert_allclose(episodes.actions[inside], steps, atol=2e-6)


@versions
def test_routes_are_drawn_with_their_shares(version: PointMassVersion) -> None:
    routes = demonstrated_routes(version, 20_000, seed=1)
    shares = np.bincount(routes, minlength=len(version.maze.routes)) / 20_000
    np.testing.assert_allclose(shares, version.maze.shares, atol=0.015)  # four standard deviations


@versions
def test_the_published_number_has_the_promised_form(version: PointMassVersion) -> None:
    episodes = demonstrations(version, 20_000, seed=0)
    assert episodes.task == version.value
    assert len(episodes) == 20_000
    steps = np.array([len(route_points(route)) - 1 for route in version.maze.routes])
    np.testing.assert_array_equal(episodes.lengths, steps[demonstrated_routes(version, 20_000, seed=0)])


@settings(max_examples=20)
@given(
    version=st.sampled_from(PointMassVersion),
    few=st.integers(1, 20),
    more=st.integers(0, 20),
    seed=st.integers(0, 2**64 - 1),
)
def test_more_demonstrations_begin_with_the_same_ones(
    version: PointMassVersion, few: int, more: int, seed: int
) -> None:
    some = demonstrations(version, few, seed)
    assert demonstrations(version, few + more, seed).select(np.arange(few)).digest == some.digest


@versions
def test_another_seed_gives_other_demonstrations(version: PointMassVersion) -> None:
    assert demonstrations(version, 10, seed=0).digest != demonstrations(version, 10, seed=1).digest


def test_demonstrated_actions_replay_to_the_target_in_version_1() -> None:
    for episode in range(10):
        demonstration = demonstrations(ONE, 10, seed=0, noise=0.0).select(np.array([episode]))
        env = PointMassVectorEnv(1, ONE, start_noise=0.0)
        env.reset(seed=0)
        successes = [env.step(action[None])[4]["success"][0] for action in demonstration.actions]
        assert successes == [0.0] * 7 + [1.0]


def test_replaying_an_outer_route_of_version_2_blindly_stops_a_cell_short() -> None:
    """Snapping eats a third of each of the last three steps: a policy has to look where it is."""
    env = PointMassVectorEnv(1, TWO, start_noise=0.0)
    env.reset(seed=0)
    for action in np.diff(route_points(TWO.maze.routes[0]), axis=0):
        env.step(action[None])
    assert env.states.tolist() == [[7.0, 8.0]]


@pytest.mark.parametrize("episodes", [0, -1])
def test_no_demonstrations_are_refused(episodes: int) -> None:
    with pytest.raises(ValueError, match="episodes"):
        demonstrations(ONE, episodes, seed=0)


@pytest.mark.parametrize("noise", [-0.1, np.nan])
def test_a_negative_noise_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="noise"):
        demonstrations(ONE, 1, seed=0, noise=noise)
