"""The demonstrator of BlockPush is the original's, and succeeds in our simulator."""

from pathlib import Path

import numpy as np
import pytest

from bet import tasks
from bet.data.bet_release import BetRelease, load_release
from bet.oracles.blockpush import ORDERS, Demonstrator, Order, demonstrations


def test_given_the_recorded_observations_it_gives_the_recorded_actions(data_dir: Path) -> None:
    """In each episode for one of the four orders; to 0.01 mm: observations are float32 here."""
    recorded = load_release(data_dir / "blockpush", BetRelease.BLOCKPUSH)
    found = []
    for first, end in zip(recorded.episode_starts[:60], recorded.episode_ends[:60], strict=True):
        fits = []
        for order in ORDERS:
            demonstrator = Demonstrator(order)
            apart = 0.0
            for row in range(first, end):
                action = demonstrator.act(recorded.observations[row])
                apart = max(apart, float(np.abs(action - recorded.actions[row]).max()))
                if apart > 1e-5:
                    break
            else:
                fits.append(order)
        assert len(fits) == 1, first
        found += fits
    assert set(found) == set(ORDERS)


@pytest.fixture(scope="module")
def made():
    return demonstrations(range(40), seed=0)


def test_it_succeeds(made) -> None:
    episodes, succeeded = made
    assert succeeded >= 39
    assert 100 < episodes.lengths.mean() < 130
    tasks.get("blockpush").check(episodes, "state")


def test_however_they_are_shared_out_the_same_demonstrations_are_made(made) -> None:
    whole, _ = made
    parts = [demonstrations(numbers, seed=0)[0] for numbers in (range(7), range(7, 40))]
    np.testing.assert_array_equal(np.concatenate([part.observations for part in parts]), whole.observations)
    np.testing.assert_array_equal(np.concatenate([part.actions for part in parts]), whole.actions)


def test_another_seed_gives_others() -> None:
    first, second = (demonstrations(range(1), seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(first.observations[0], second.observations[0])


def test_there_are_four_orders() -> None:
    assert sorted(ORDERS) == sorted(
        Order(blocks, targets) for blocks in ((0, 1), (1, 0)) for targets in ((0, 1), (1, 0))
    )


def test_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="no episodes"):
        demonstrations(range(0), seed=0)
