"""PushT demonstrations seen through another layout than the stored one."""

from dataclasses import replace

import numpy as np
import pytest

from bet.data.episodes import DataError
from bet.data.pusht import EXACT, in_layout, layout_of, states_of
from bet.layouts import PushTLayout, pusht_observations
from tests.bet.data.samples import pusht, random_states, same, some

SHOWS_BLOCK = [layout for layout in PushTLayout if layout is not PushTLayout.AGENT]


@pytest.mark.parametrize("layout", PushTLayout)
def test_a_layout_is_told_by_its_columns(layout: PushTLayout) -> None:
    assert layout_of(pusht(layout)) is layout


def test_columns_of_no_layout_are_refused_with_those_known() -> None:
    with pytest.raises(DataError, match=r"have 7 columns, as no layout of pusht has: state \(6\), agent \(2\)"):
        layout_of(some("pusht", 7, 2))


@pytest.mark.parametrize("stored", SHOWS_BLOCK)
@pytest.mark.parametrize("asked", PushTLayout)
def test_a_layout_that_shows_the_block_gives_every_other(stored: PushTLayout, asked: PushTLayout) -> None:
    seen = in_layout(pusht(stored), asked)
    expected = pusht(asked)
    np.testing.assert_allclose(seen.observations, expected.observations, atol=1e-4)
    np.testing.assert_array_equal(seen.actions, expected.actions)
    np.testing.assert_array_equal(seen.episode_ends, expected.episode_ends)


@pytest.mark.parametrize("stored", PushTLayout)
def test_the_stored_layout_and_the_agent_are_had_to_the_bit(stored: PushTLayout) -> None:
    assert in_layout(pusht(stored), stored).digest == pusht(stored).digest
    assert same(in_layout(pusht(stored), PushTLayout.AGENT), pusht(PushTLayout.AGENT))


@pytest.mark.parametrize("layout", SHOWS_BLOCK)
def test_the_agent_alone_gives_no_other_layout(layout: PushTLayout) -> None:
    episodes = replace(pusht(PushTLayout.AGENT), source="there")
    with pytest.raises(DataError, match=f"there: offers layout 'agent' only.*so '{layout.value}' cannot be had"):
        in_layout(episodes, layout)
    with pytest.raises(DataError, match="there: shows the agent only"):
        states_of(episodes)


@pytest.mark.parametrize("layout", SHOWS_BLOCK)
def test_states_are_found_to_the_rounding_of_the_observations(layout: PushTLayout) -> None:
    found, states = states_of(pusht(layout)), random_states(11)
    np.testing.assert_allclose(found[:, :4], states[:, :4], atol=1e-4)
    np.testing.assert_allclose(np.exp(1j * found[:, 4]), np.exp(1j * states[:, 4]), atol=1e-6)


@pytest.mark.parametrize("layout", [PushTLayout.KEYPOINTS8, PushTLayout.KEYPOINTS9])
@pytest.mark.parametrize(("shift", "refused"), [(EXACT / 10, False), (EXACT * 10, True)])
def test_keypoints_of_no_rigid_block_are_refused_with_the_row(layout: PushTLayout, shift: float, refused: bool) -> None:
    states = random_states(6)
    states[:, 2:4] /= 8  # near the origin, where float32 resolves the shift
    observations = pusht_observations(states, layout)
    observations[4, 7] += np.float32(shift)
    episodes = replace(pusht(layout, [6]), observations=observations, source="there")
    if not refused:
        assert len(states_of(episodes)) == 6
        return
    with pytest.raises(DataError, match=rf"there: observations row 4 is .* off any pose .*'{layout.value}', 0\.001"):
        states_of(episodes)


def test_an_angle_that_is_not_on_the_circle_is_refused() -> None:
    observations = pusht(PushTLayout.STATE).observations.copy()
    observations[3, 4:] = 0.9, 0.9
    with pytest.raises(DataError, match="row 3"):
        states_of(replace(pusht(PushTLayout.STATE), observations=observations))
