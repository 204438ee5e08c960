"""The demonstrator of the kitchen does its tasks in our simulator, with the noise that a policy meets."""

from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from bet import tasks
from bet.envs.kitchen import ELEMENTS, POSITIONS, KitchenVectorEnv, at_goals
from bet.oracles.kitchen import MAX_STEPS, ORDERS, Demonstrator, demonstrations, drawn
from bet.oracles.kitchen_ways import HANDLES


def seen(demonstrator: Demonstrator, seed: int) -> NDArray[np.float32]:
    """What is observed (T, 60) while a demonstrator acts, until it has finished."""
    env = KitchenVectorEnv(1, MAX_STEPS)
    observation, _ = env.reset(seed=[seed])
    observations = [observation[0]]
    while not demonstrator.finished:
        observation, *_ = env.step(demonstrator.act(observation[0])[None])
        observations.append(observation[0])
    return np.stack(observations)


def done(observations: NDArray[np.float32]) -> Mapping[str, int]:
    """The steps after which things first are where they are to be, in that order."""
    there = at_goals(observations)  # (T, 7)
    firsts = {name: int(there[:, column].argmax()) for column, name in enumerate(ELEMENTS) if there[:, column].any()}
    return dict(sorted(firsts.items(), key=lambda one: one[1]))


@pytest.mark.parametrize("task", HANDLES)
def test_each_task_alone_is_done_and_nothing_else(task: str) -> None:
    """And it still is when the gripper has gone away, within 90 of an episode's 280 steps."""
    observations = seen(Demonstrator((task,), np.random.default_rng(2)), seed=3)
    assert list(done(observations)) == [task]
    assert list(done(observations[-1:])) == [task]
    assert len(observations) < 90


def test_an_order_is_kept() -> None:
    order = ("kettle", "microwave")
    assert tuple(done(seen(Demonstrator(order, np.random.default_rng(0)), seed=1))) == order


@pytest.mark.slow
def test_it_succeeds() -> None:
    episodes, succeeded = demonstrations(range(8), seed=0)
    assert succeeded >= 7
    assert 150 < episodes.lengths.mean() < 260
    tasks.get("kitchen").check(episodes, "state")
    assert not episodes.observations[:, POSITIONS:].any()
    assert np.abs(episodes.actions).max() <= 1


@pytest.mark.slow
def test_however_they_are_shared_out_the_same_demonstrations_are_made() -> None:
    """One that follows another begins as one that is made alone."""
    numbers = range(3, 5)
    whole, succeeded = demonstrations(numbers, seed=0)
    parts = [demonstrations(range(number, number + 1), seed=0) for number in numbers]
    np.testing.assert_array_equal(np.concatenate([part.observations for part, _ in parts]), whole.observations)
    np.testing.assert_array_equal(np.concatenate([part.actions for part, _ in parts]), whole.actions)
    assert sum(count for _, count in parts) == succeeded


def test_every_order_of_four_of_its_tasks_is_drawn() -> None:
    assert set(ORDERS) == set(permutations(HANDLES, 4))
    assert {drawn(0, number)[1].order for number in range(2000)} == set(ORDERS)


def test_demonstrations_differ_in_more_than_their_noise() -> None:
    """Two of one order and of the same sensors' noise."""
    first, second = (seen(Demonstrator(("light switch",), np.random.default_rng(seed)), 0) for seed in (0, 1))
    shortest = min(len(first), len(second))
    assert np.abs(first[:shortest, :7] - second[:shortest, :7]).max() > 0.05


def test_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        demonstrations(range(0), seed=0)
