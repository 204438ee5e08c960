"""The number of slots and actors that is measured to be best changes how long results take, and none of them."""

from pathlib import Path

import pytest

from bet.rollout import rollout
from bet_ray.autotune import Cost, Tuned, autotune, chosen
from bet_ray.evaluation import Evaluation, PoolShape


def cost(slots: int, step: float) -> Cost:
    return Cost(slots, simulation=step / 2, inference=step / 2, rest=0.0, reset=0.0, length=100.0)


def test_what_finishes_first_is_not_always_what_is_fastest() -> None:
    """Many slots make more steps per second, and a longer tail."""
    few, many = cost(32, 0.003), cost(256, 0.020)
    assert many.rate > few.rate
    assert few.expected(64) < many.expected(64)
    assert few.expected(10_000) > many.expected(10_000)


def test_a_reset_counts_as_often_as_it_falls_due() -> None:
    quick = Cost(10, simulation=0.001, inference=0.001, rest=0.0, reset=0.02, length=50.0)
    assert quick.step == pytest.approx(0.002 + 10 * 0.02 / 50)


def test_a_choice_keeps_the_patience_of_the_pool() -> None:
    best = cost(64, 0.004)
    assert chosen(Tuned([best], 3, best, 100), PoolShape(1, 8, patience=7.0)) == PoolShape(3, 64, 7.0)


@pytest.mark.slow
def test_measuring_chooses_among_whole_batches_and_leaves_episodes_as_they_are(trained: Path) -> None:
    one = Evaluation.of(trained, None)
    before = [result.total_reward for result in rollout(one.policy, one.recipe, one.job.split, range(20), 20)]
    found = autotune(one, episodes=200, actors=2)
    batch = one.recipe.protocol.batch_size
    assert [cost.slots for cost in found.costs] == [batch, 2 * batch, 100]
    assert found.best in found.costs
    assert found.actors == 2
    assert all(cost.rate > 0 and 1 <= cost.length <= 50 for cost in found.costs)
    assert [result.total_reward for result in rollout(one.policy, one.recipe, one.job.split, range(20), 20)] == before
    assert autotune(one, episodes=1, actors=8).actors == 1
