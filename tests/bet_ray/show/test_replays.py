"""Replays are shown picture by picture, the bin chosen in each; what was done with the bins adds up."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import ImageColor

from bet import tasks
from bet.config import Split
from bet.policy import Policy
from bet.rollout import NOT_FINITE, failed
from bet.trajectory import Trajectory
from bet_ray.evaluation import recipe_of
from bet_ray.page.style import BLUE, VERMILION
from bet_ray.replay import Replay, replay
from bet_ray.show.replays import bin_colour, bin_uses, frames
from bet_ray.video import LINE, STRIP

TASK = tasks.get("pointmass2")
TOP = 2 * LINE + STRIP


@pytest.fixture(scope="module")
def policy(trained: Path) -> Policy:
    return Policy.load(trained)


@pytest.fixture(scope="module")
def replays(policy: Policy) -> list[Replay]:
    """A short one and a long one."""
    found = [replay(policy, recipe_of(policy), Split.REPORT, index) for index in range(8)]
    found.sort(key=lambda one: one.result.length)
    assert found[0].result.length < found[-1].result.length
    return [found[0], found[-1]]


def bins_of(one: Replay) -> list[int]:
    assert one.result.trajectory is not None
    return one.result.trajectory.bins.tolist()


def rgb(colour: str) -> list[int]:
    return list(ImageColor.getrgb(colour))


def test_there_is_a_picture_of_every_state(replays: list[Replay]) -> None:
    for one in replays:
        assert one.result.trajectory is not None
        states = one.result.trajectory.observations.astype(np.float64)
        assert len(one.film) == len(states) == len(list(frames([one], TASK)))
        env = TASK.make_env(len(states))
        env.reset(options={"states": states})
        for place, picture in enumerate(env.render()):
            assert_array_equal(one.film[place], picture)


def test_the_block_beside_the_bin_has_its_colour_at_every_step_and_is_another_at_the_end(replays: list[Replay]) -> None:
    one = replays[-1]
    bins = bins_of(one)
    assert len(set(bins)) > 1
    made = list(frames([one], TASK))
    for step, number in enumerate(bins):
        assert made[step][LINE + 5, 5].tolist() == rgb(bin_colour(number))
    assert made[-1][LINE + 5, 5].tolist() not in [rgb(bin_colour(number)) for number in bins]
    ends = rgb(BLUE if one.result.success else VERMILION)
    assert {tuple(frame[5, 5]) for frame in made} == {tuple(ends)}


def test_the_strip_grows_a_part_a_step(replays: list[Replay]) -> None:
    one = replays[0]
    bins = bins_of(one)
    middles = ((np.arange(len(bins)) + 0.5) * one.film[0].shape[1] / len(bins)).astype(int)
    for step, frame in enumerate(frames([one], TASK)):
        seen = frame[2 * LINE, middles].tolist()
        done = min(step + 1, len(bins))
        assert seen[:done] == [rgb(bin_colour(number)) for number in bins[:done]]
        assert all(colour not in map(rgb, map(bin_colour, bins)) for colour in seen[done:])


def test_episodes_side_by_side_last_as_long_as_the_longest_and_what_is_over_fades(replays: list[Replay]) -> None:
    short, long = replays
    made = list(frames(replays, TASK))
    height, width, _ = short.film[0].shape
    assert len(made) == len(long.film)
    assert {frame.shape for frame in made} == {(TOP + height, 2 * width + 8, 3)}
    last = len(short.film) - 1
    assert_array_equal(made[last][TOP:, :width], short.film[last])
    assert made[-1][TOP:, :width].mean() > short.film[last].mean()
    for place, frame in enumerate(made):
        assert_array_equal(frame[TOP:, -width:], long.film[place])


def test_other_bins_give_other_frames_and_equal_ones_equal_frames(replays: list[Replay]) -> None:
    one = replays[0]
    trajectory = one.result.trajectory
    assert trajectory is not None
    bins = trajectory.bins.copy()
    bins[2] += 1
    other = replace(one, result=replace(one.result, trajectory=replace(trajectory, bins=bins)))
    same = [np.array_equal(a, b) for a, b in zip(frames([one], TASK), frames([other], TASK), strict=True)]
    assert same == [True, True] + [False] * (len(bins) - 1)


def test_an_episode_that_ended_in_an_error_is_shown_without_bins(policy: Policy, replays: list[Replay]) -> None:
    one = replays[0]
    error = failed(recipe_of(policy).protocol, Split.REPORT, 3, NOT_FINITE, one.result.length)
    assert len(list(frames([replace(one, result=error)], TASK))) == len(one.film)


def test_the_colours_of_hundreds_of_bins_are_all_different() -> None:
    assert len({bin_colour(number) for number in range(256)}) == 256


@given(bins=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_what_was_done_with_the_bins_adds_up(bins: list[int]) -> None:
    steps = len(bins)
    centers = np.array([(0, 0), (3, 0), (0, 4), (3, 4)], np.float32)
    path = Trajectory(
        np.zeros((steps + 1, 2), np.float32), np.zeros((steps, 2), np.float32), np.zeros(steps), {}, np.array(bins)
    )
    uses = bin_uses(path, centers)
    assert [use.steps for use in uses] == sorted((use.steps for use in uses), reverse=True)
    assert {use.number: use.steps for use in uses} == {number: bins.count(number) for number in bins}
    assert sum(use.visits for use in uses) == 1 + sum(a != b for a, b in pairwise(bins))
    for use in uses:
        runs = "".join("x" if number == use.number else " " for number in bins).split()
        assert (use.visits, use.longest) == (len(runs), max(map(len, runs)))
        assert_array_equal(use.center, centers[use.number])
        assert_array_equal(use.offsets, np.full(use.steps, (0, 3, 4, 5)[use.number]))
