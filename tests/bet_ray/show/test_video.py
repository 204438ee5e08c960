"""The video shows the demonstrated states, each beside its colour, for as long as the longest demonstration."""

import numpy as np
import pytest

from bet import tasks
from bet.data.episodes import DataError, Episodes
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet_ray.show.video import frame_count, frames
from bet_ray.video import LINE

TASK = tasks.get("pointmass2")
EPISODES = demonstrations(PointMassVersion.TWO, 20, seed=0)
SHORT, LONG = int(np.argmin(EPISODES.lengths)), int(np.argmax(EPISODES.lengths))
COLOURS = {SHORT: "#ff0000", LONG: "#0000ff"}


def picture_of(episode: int, step: int) -> np.ndarray:
    env = TASK.make_env(1)
    row = EPISODES.episode_starts[episode] + step
    env.reset(options={"states": EPISODES.observations[row : row + 1]})
    return env.render()[0]


def test_there_are_as_many_frames_as_the_longest_has_steps():
    made = list(frames(EPISODES, TASK, "state", (SHORT, LONG), COLOURS))
    assert len(made) == frame_count(EPISODES, (SHORT, LONG)) == EPISODES.lengths.max()
    assert len({frame.shape for frame in made}) == 1


def test_each_tile_is_the_simulators_picture_under_a_label_in_its_colour():
    frame = list(frames(EPISODES, TASK, "state", (SHORT, LONG), COLOURS))[3]
    height, width, _ = picture_of(SHORT, 3).shape
    np.testing.assert_array_equal(frame[LINE:, :width], picture_of(SHORT, 3))
    np.testing.assert_array_equal(frame[LINE:, -width:], picture_of(LONG, 3))
    np.testing.assert_array_equal(frame[5, 5], (255, 0, 0))
    np.testing.assert_array_equal(frame[5, -width + 5], (0, 0, 255))
    assert frame.shape == (height + LINE, 2 * width + 8, 3)


def test_a_demonstration_that_is_over_stays_and_fades():
    made = list(frames(EPISODES, TASK, "state", (SHORT, LONG), COLOURS))
    last = int(EPISODES.lengths[SHORT]) - 1
    tile = picture_of(SHORT, last)
    width = tile.shape[1]
    np.testing.assert_array_equal(made[last][LINE:, :width], tile)
    assert made[-1][LINE:, :width].mean() > tile.mean()
    np.testing.assert_array_equal(made[-1][LINE:, :width], made[last + 1][LINE:, :width])


def test_sides_are_even_and_five_tiles_make_two_rows():
    chosen = (0, 1, 2, 3, 4)
    frame = next(frames(EPISODES, TASK, "state", chosen, dict.fromkeys(chosen, "#000000")))
    height, width, _ = picture_of(0, 0).shape
    assert frame.shape == (2 * (height + LINE) + 8, 3 * width + 16, 3)
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0


def test_a_state_that_the_simulator_refuses_is_named():
    observations = EPISODES.observations.copy()
    observations[2] = 99
    broken = Episodes(observations, EPISODES.actions, EPISODES.episode_ends, "pointmass2", "d.parquet")
    with pytest.raises(DataError, match=r"d.parquet: step 2 cannot be drawn: .* not within"):
        list(frames(broken, TASK, "state", (0,), {0: "#000000"}))
