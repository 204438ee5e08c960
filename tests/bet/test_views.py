"""Views name every number, and find the simulator's state again behind an observation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet import tasks
from bet.config import ConfigError
from bet.data.bet_release import BetRelease, load_release
from bet.envs.blockpush import VELOCITIES
from bet.layouts import PushTLayout, pusht_observations
from bet.views import placed

ALL = [(task, layout) for task in tasks.TASKS.values() for layout in task.layouts]
SIMULATED = [(task, layout) for task, layout in ALL if isinstance(task, tasks.SimulatedTask)]


@pytest.mark.parametrize(("task", "layout"), ALL, ids=lambda value: getattr(value, "name", str(value)))
def test_every_column_has_a_name_of_its_own(task, layout):
    view, (observation, action) = task.view(layout), task.boxes(layout)
    assert observation.shape == (len(set(view.columns)),)
    assert action.shape == (len(set(view.action_columns)),)


@pytest.mark.parametrize(("task", "layout"), SIMULATED, ids=lambda value: getattr(value, "name", str(value)))
def test_a_complete_view_puts_the_simulator_where_the_observation_was(task, layout):
    quiet = "kitchen-noiseless-v1" if task.name == "kitchen" else None
    view, env = task.view(layout), task.make_env(3, layout, protocol=quiet)
    observations, _ = env.reset(seed=[0, 1, 2])
    if not view.complete:
        assert view.scene(observations).shape[1] != env.state_dim
        return
    states = env.states
    env.reset(seed=[7, 8, 9])
    again, _ = env.reset(options={"states": view.scene(observations)})
    np.testing.assert_allclose(again, observations, atol=1e-4)
    np.testing.assert_allclose(env.states, states, atol=1e-4)


def test_the_columns_of_block_push_are_those_that_the_demonstrations_show(data_dir):
    columns = tasks.get("blockpush").view("state").columns
    episodes = load_release(data_dir / "blockpush", BetRelease.BLOCKPUSH)
    found = dict(zip(columns, episodes.observations.T, strict=True))
    inside = np.diff(np.repeat(np.arange(len(episodes)), episodes.lengths)) == 0
    for axis, step in zip("xy", episodes.actions[:-1].T, strict=True):
        np.testing.assert_allclose(np.diff(found[f"effector target {axis}"])[inside], step[inside], atol=1e-6)
        assert np.abs(found[f"effector {axis}"] - found[f"effector target {axis}"]).max() < 0.02
    for target in ("target", "target 2"):  # stands still, turned by half a turn, more or less
        assert not any(np.diff(found[f"{target} {what}"])[inside].any() for what in ("x", "y", "yaw"))
        assert np.abs(found[f"{target} yaw"]).min() > np.pi - np.pi / 30 - 1e-6


def test_the_state_behind_an_observation_of_block_push_is_at_rest():
    view, task = tasks.get("blockpush").view("state"), tasks.get("blockpush")
    env = task.make_env(3)
    env.reset(seed=[0, 1, 2])
    observations, *_ = env.step(np.full((3, 2), 0.05))
    scene = view.scene(observations)
    assert view.complete
    assert scene.dtype == np.float64
    assert scene.shape == (3, 22) == (3, env.state_dim)
    np.testing.assert_array_equal(scene[:, :16], observations)
    assert not scene[:, VELOCITIES].any()


def test_the_elements_of_the_kitchen_are_where_its_tasks_look_for_them():
    columns = tasks.get("kitchen").view("state").columns
    elements = {  # DESIGN.md, section 7
        "bottom left burner": (11, 12),
        "top left burner": (15, 16),
        "light": (17, 18),
        "slide cabinet": (19,),
        "hinge cabinet": (20, 21),
        "microwave": (22,),
        "kettle": range(23, 30),
    }
    for element, places in elements.items():
        assert all(element in columns[place] for place in places)
        assert not any(element in name for place, name in enumerate(columns) if place not in places)


def test_an_unknown_layout_is_refused():
    with pytest.raises(ConfigError, match="pusht has no layout 'stat'; did you mean 'state'"):
        tasks.get("pusht").view("stat")


@given(st.lists(st.floats(0, 512), min_size=4, max_size=4), st.floats(0.001, 6.282))
def test_pushts_state_is_found_behind_cosine_and_sine(position, angle):
    observation = pusht_observations(np.array([[*position, angle]]), PushTLayout.STATE)
    np.testing.assert_allclose(tasks.get("pusht").view("state").scene(observation), [[*position, angle]], atol=1e-4)


def test_a_quarter_turn_takes_x_to_y():
    np.testing.assert_allclose(placed(np.array([[1.0, 0.0]]), 10, 20, np.pi / 2), [[10, 21]])
