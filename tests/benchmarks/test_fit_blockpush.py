"""What compares BlockPush with the original finds nothing between BlockPush and itself."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fit_blockpush import Habits, fit_effector, open_loop, replayed, starts
from bet.data.episodes import Episodes
from bet.envs import blockpush
from bet.envs.blockpush import BlockPushVectorEnv
from bet.oracles.blockpush import demonstrations

NUMBERS = range(16)


@pytest.fixture(scope="module")
def made() -> Episodes:
    return demonstrations(NUMBERS, seed=3)[0]


def test_replayed_open_loop_its_demonstrations_succeed(made: Episodes) -> None:
    assert open_loop(made, NUMBERS) == 1


def test_from_its_states_it_comes_where_it_came(made: Episodes) -> None:
    """Nearly: blocks begin with the mean velocity of the step before."""
    env = BlockPushVectorEnv(50, max_steps=21)
    for steps, block in ((1, 1e-4), (5, 5e-4)):
        rows = starts(made, NUMBERS, steps)
        assert len(rows) > 100
        errors = replayed(env, made, rows, steps)
        assert len(errors.block) == len(errors.yaw) >= len(rows)
        assert np.median(errors.effector) < 1e-4
        assert np.median(errors.block) < block


def test_the_fit_finds_how_the_effector_follows(made: Episodes) -> None:
    share, offset = fit_effector(made, NUMBERS)
    assert share == pytest.approx(0.09, abs=0.003)
    assert offset == pytest.approx(blockpush.OFFSET, abs=1e-4)


def test_habits_count_steps_pushes_and_turns(made: Episodes) -> None:
    habits = Habits.of(made)
    assert habits.lengths.tolist() == made.lengths.tolist()
    assert 1 <= habits.pushes < 3
    assert all(times * steps < made.lengths.mean() / 2 for times, steps in habits.turns.values())


def test_demonstrations_of_somebody_else_have_no_habits(made: Episodes) -> None:
    other = replace(made, actions=made.actions[::-1])
    with pytest.raises(ValueError, match="episode 0 is not the demonstrator's"):
        Habits.of(other)
