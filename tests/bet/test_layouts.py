"""One definition of what a policy sees, and the originals that it agrees with."""

from pathlib import Path
from typing import cast

import numpy as np
import pymunk
import pytest
import zarr
from gym_pusht.envs.pusht import PushTEnv
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fit_keypoints import fitted, recognised
from bet.layouts import KEYPOINTS8, KEYPOINTS9, PUSHT_REACH, PUSHT_SIZE, PushTLayout, pusht_observations, pusht_states

SHOWS_BLOCK = [layout for layout in PushTLayout if layout is not PushTLayout.AGENT]

STATES = np.array([[10.0, 20.0, 300.0, 400.0, np.pi / 2], [500.0, 3.0, 256.0, 256.0, 0.0]])


def test_state_layout_shows_positions_and_the_angle_as_a_point_on_the_circle():
    expected = [[10, 20, 300, 400, 0, 1], [500, 3, 256, 256, 1, 0]]
    np.testing.assert_allclose(pusht_observations(STATES, PushTLayout.STATE), expected, atol=1e-7)


def test_agent_layout_shows_only_the_agent():
    np.testing.assert_array_equal(pusht_observations(STATES, PushTLayout.AGENT), [[10, 20], [500, 3]])


def test_a_full_turn_of_the_block_looks_the_same():
    turned = STATES + np.array([0, 0, 0, 0, 2 * np.pi])
    np.testing.assert_allclose(
        pusht_observations(turned, PushTLayout.STATE), pusht_observations(STATES, PushTLayout.STATE), atol=1e-6
    )


@pytest.mark.parametrize("layout", PushTLayout)
def test_observations_are_float32_rows_of_the_layouts_width_within_its_bounds(layout):
    rng = np.random.default_rng(0)
    states = rng.uniform(0, [PUSHT_SIZE] * 4 + [2 * np.pi], (1000, 5))
    observations = pusht_observations(states, layout)
    assert observations.dtype == np.float32
    assert observations.shape == (1000, layout.dim)
    assert (observations >= layout.low).all()
    assert (observations <= layout.high).all()


@pytest.mark.parametrize("layout", PushTLayout)
def test_a_row_does_not_depend_on_its_neighbours(layout):
    states = np.random.default_rng(0).uniform(0, 6, (37, 5))
    together = pusht_observations(states, layout)
    for count in (1, 2, 5, 16, 33):
        apart = [pusht_observations(states[i : i + count], layout) for i in range(0, len(states), count)]
        np.testing.assert_array_equal(np.concatenate(apart), together)


def test_float32_states_of_a_data_set_are_seen_as_the_environments_are():
    stored = STATES.astype(np.float32)
    np.testing.assert_array_equal(
        pusht_observations(stored, PushTLayout.STATE), pusht_observations(stored.astype(float), PushTLayout.STATE)
    )


# Keypoints.


@pytest.fixture(scope="module")
def buffer(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """States (N, 5) and keypoints (N, 9, 2) of the published replay buffer."""
    group = zarr.open_group(data_dir / "pusht" / "pusht_cchi_v7_replay.zarr", mode="r")
    return np.asarray(group["data/state"]), np.asarray(group["data/keypoint"])


@pytest.mark.parametrize("layout", SHOWS_BLOCK)
def test_a_turned_block_has_its_keypoints_turned_about_its_origin(layout):
    state = np.array([[1.0, 2.0, 100.0, 200.0, np.pi / 2]])
    points = pusht_observations(state, layout)[0, 2:].reshape(-1, 2)
    if layout is not PushTLayout.STATE:
        np.testing.assert_allclose(points, [(100 - y, 200 + x) for x, y in layout.keypoints], atol=1e-4)


def test_the_eight_keypoints_are_gym_pushts_own(buffer):
    states = np.concatenate([buffer[0][::100], np.random.default_rng(0).uniform(0, [512] * 4 + [6.28], (300, 5))])
    shown = pusht_observations(states, PushTLayout.KEYPOINTS8)
    for state, row in zip(states.tolist(), shown, strict=True):
        _, shapes = PushTEnv.add_tee(pymunk.Space(), state[2:4], state[4])
        expected = np.concatenate([state[:2], PushTEnv.get_keypoints(shapes).ravel()]).astype(np.float32)
        np.testing.assert_array_equal(row, expected)


def test_a_step_of_gym_pusht_shows_the_eight_keypoints():
    env = PushTEnv(obs_type="environment_state_agent_pos")
    for seed in range(20):
        env.reset(seed=seed)
        seen = cast(dict[str, np.ndarray], env.step(np.array([256.0, 256.0]))[0])
        state = np.array([*env.agent.position, *env.block.position, env.block.angle])[None]
        expected = np.concatenate([seen["agent_pos"], seen["environment_state"]]).astype(np.float32)
        np.testing.assert_array_equal(pusht_observations(state, PushTLayout.KEYPOINTS8)[0], expected)


def test_the_nine_keypoints_are_the_replay_buffers(buffer):
    states, recorded = buffer
    shown = pusht_observations(states, PushTLayout.KEYPOINTS9)[:, 2:].reshape(recorded.shape)
    errors = np.linalg.norm(shown - recorded, axis=2)
    assert np.median(errors) < 1e-4
    assert (shown == recorded).all(axis=(1, 2)).mean() > 0.7  # to the bit
    assert errors.max() < 2.5  # frames whose pose was recorded a moment apart


def test_the_nine_keypoints_are_recovered_from_the_replay_buffer_alone(buffer):
    states, recorded = (array.astype(np.float64) for array in buffer)
    fit = fitted(states, recorded)
    np.testing.assert_allclose(fit, KEYPOINTS9, atol=1e-6)
    np.testing.assert_array_equal(recognised(fit), KEYPOINTS9)


def test_no_keypoint_is_beyond_the_blocks_reach():
    assert max(np.linalg.norm(points, axis=1).max() for points in (KEYPOINTS8, KEYPOINTS9)) <= PUSHT_REACH


def test_layouts_are_told_apart_by_their_columns():
    assert len({layout.dim for layout in PushTLayout}) == len(PushTLayout)


# Back to states.

POSITION = st.floats(0, PUSHT_SIZE)


@pytest.mark.parametrize("layout", SHOWS_BLOCK)
@given(state=st.tuples(POSITION, POSITION, POSITION, POSITION, st.floats(0, 2 * np.pi, exclude_max=True)))
def test_observations_give_back_the_state_they_show(layout, state):
    states = np.array([state])
    found = pusht_states(pusht_observations(states, layout), layout)
    np.testing.assert_allclose(found[:, :4], states[:, :4], atol=1e-4)
    assert 0 <= found[0, 4] <= 2 * np.pi
    assert abs(np.exp(1j * found[0, 4]) - np.exp(1j * state[4])) < 1e-6
    np.testing.assert_allclose(pusht_observations(found, layout), pusht_observations(states, layout), atol=1e-4)


def test_the_agent_alone_does_not_show_a_state():
    with pytest.raises(ValueError, match="does not show the block"):
        pusht_states(np.zeros((1, 2)), PushTLayout.AGENT)
