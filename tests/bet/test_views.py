"""Views name every number, and find the simulator's state again behind an observation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet import tasks
from bet.config import ConfigError
from bet.layouts import PushTLayout, pusht_observations
from bet.views import placed

ALL = [(task, layout) for task in tasks.TASKS.values() for layout in task.layouts]


@pytest.mark.parametrize(("task", "layout"), ALL, ids=lambda value: getattr(value, "name", str(value)))
def test_every_column_has_a_name_of_its_own(task, layout):
    view, env = task.view(layout), task.make_env(1, layout)
    assert env.single_observation_space.shape == (len(set(view.columns)),)
    assert env.single_action_space.shape == (len(set(view.action_columns)),)


@pytest.mark.parametrize(("task", "layout"), ALL, ids=lambda value: getattr(value, "name", str(value)))
def test_a_complete_view_puts_the_simulator_where_the_observation_was(task, layout):
    view, env = task.view(layout), task.make_env(3, layout)
    observations, _ = env.reset(seed=[0, 1, 2])
    if not view.complete:
        assert view.scene(observations).shape[1] != env.state_dim
        return
    states = env.states
    env.reset(seed=[7, 8, 9])
    again, _ = env.reset(options={"states": view.scene(observations)})
    np.testing.assert_allclose(again, observations, atol=1e-4)
    np.testing.assert_allclose(env.states, states, atol=1e-4)


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match="pusht has no layout 'stat'; did you mean 'state'"):
        tasks.get("pusht").view("stat")


@given(st.lists(st.floats(0, 512), min_size=4, max_size=4), st.floats(0.001, 6.282))
def test_pushts_state_is_found_behind_cosine_and_sine(position, angle):
    observation = pusht_observations(np.array([[*position, angle]]), PushTLayout.STATE)
    np.testing.assert_allclose(tasks.get("pusht").view("state").scene(observation), [[*position, angle]], atol=1e-4)


def test_a_quarter_turn_takes_x_to_y():
    np.testing.assert_allclose(placed(np.array([[1.0, 0.0]]), 10, 20, np.pi / 2), [[10, 21]])
