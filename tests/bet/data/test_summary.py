"""A summary says what demonstrations hold."""

import numpy as np
import pytest

from bet import tasks
from bet.config import make_config
from bet.data.episodes import Episodes
from bet.data.summary import paths_of, routes_taken, summarize
from bet.envs.pointmass import PointMassVersion
from bet.oracles import blockpush
from bet.oracles.pointmass import demonstrated_routes, demonstrations


def test_numbers_of_a_small_set_are_those_of_its_arrays():
    observations = np.array([[0, 1], [2, 1], [4, 1], [6, 1]], np.float32)
    actions = np.array([[1, 0], [1, 0], [2, 0], [0, 5]], np.float32)
    found = summarize(
        Episodes(observations, actions, np.array([1, 4]), "pointmass1"),
        tasks.get("pointmass1"),
        make_config("pointmass1"),
    )
    assert (found.episodes, found.steps, found.lengths) == (2, 4, (1, 2.0, 3))
    assert (found.window, found.windows) == (2, 3)  # one short episode, two windows in the other
    assert found.distinct_actions == 3
    x, y = found.observations
    assert (x.name, x.low, x.mean, x.high, x.constant) == ("x", 0, 3, 6, False)
    assert x.std == pytest.approx(np.sqrt(5))
    assert (y.low, y.mean, y.high, y.std, y.constant) == (1, 1, 1, 0, True)


@pytest.mark.parametrize("version", PointMassVersion)
def test_the_routes_found_are_those_that_were_drawn(version):
    task, episodes = tasks.get(version.value), demonstrations(version, 300, seed=4)
    drawn = [version.maze.routes[route].name for route in demonstrated_routes(version, 300, seed=4)]
    assert routes_taken(episodes, task, "state") == drawn
    assert summarize(episodes, task, make_config(version.value)).routes == {
        route: drawn.count(route) for route in task.modes
    }


def test_the_routes_found_of_block_pushing_are_the_orders_that_were_drawn():
    episodes, _ = blockpush.demonstrations(range(24), seed=0)
    found = routes_taken(episodes, tasks.get("blockpush"), "state")
    for number, route in enumerate(found):
        _, order = blockpush.drawn(0, number)
        assert route.startswith(("block_", "block2_")[order.blocks[0]])
        assert route.endswith("straight" if order.blocks == order.targets else "crossed")
    assert len(set(found)) == 4


def test_a_path_of_steps_goes_on_to_where_the_last_action_leads():
    episodes = demonstrations(PointMassVersion.TWO, 5, seed=0, noise=0)
    for path, length in zip(paths_of(episodes, tasks.get("pointmass2").view("state")), episodes.lengths, strict=True):
        assert path.shape == (length + 1, 2)
        np.testing.assert_allclose(path[-1], PointMassVersion.TWO.maze.target, atol=1e-6)


def test_a_path_of_places_ends_where_the_observations_do():
    observations, actions = np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32)
    episodes = Episodes(observations, actions, np.array([4]), "pusht")
    (path,) = paths_of(episodes, tasks.get("pusht").view("agent"))
    np.testing.assert_array_equal(path, observations)
