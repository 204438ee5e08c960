import numpy as np
import pytest

from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_observations

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
