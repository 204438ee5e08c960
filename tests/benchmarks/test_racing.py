"""The simulated sweeps that racing is measured with are what they are said to be."""

import numpy as np
import pytest

from benchmarks.racing import SCENARIOS, Recorded, Scenario, Sweep, measure
from bet.racing import Verdict


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: f"{one.name}, graded {one.graded}")
def test_settings_score_their_true_means_and_find_the_same_episodes_easy(scenario: Scenario) -> None:
    sweep = scenario.sweep(np.random.default_rng(0), 20, 20_000, shared=0.5)
    assert sweep.scores.mean(axis=1) == pytest.approx(sweep.means, abs=0.015)
    assert ((sweep.scores >= 0) & (sweep.scores <= 1)).all()
    a, b = np.argsort(sweep.means)[-2:]
    assert 0.2 < np.corrcoef(sweep.scores[a], sweep.scores[b])[0, 1] < 0.8


def test_where_every_episode_says_the_same_all_designs_choose_the_best() -> None:
    means = np.array([0.1, 0.9, 0.3, 0.5])
    sweep = Sweep(means, np.repeat(means[:, None], 100, axis=1))
    end, spent = sweep.race([50, 100], alpha=0.05, margin=0)
    assert (end.verdict, end.left, spent) == (Verdict.WINNER, (1,), 200)
    assert (sweep.uniform() == 1).all()
    assert sweep.halving(80) == 1
    found = measure("certain", [sweep] * 5, [50, 100], alpha=0.05, margin=0.05)
    assert (found.raced.estimate, found.reliable) == (200, 4)
    assert (found.right.estimate, found.dropped.estimate, found.halving_right.estimate) == (1, 0, 1)


def test_a_recorded_sweep_is_drawn_from_again_and_its_own_means_are_the_truth() -> None:
    table = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.5, 1.0]])
    sweep = Recorded("two settings", table).sweep(np.random.default_rng(0), 2, 1000, 0.0)
    assert sweep.means.tolist() == [0.5, 0.625]
    assert sweep.scores.mean(axis=1) == pytest.approx(sweep.means, abs=0.05)
    assert {tuple(pair) for pair in sweep.scores.T} == {tuple(pair) for pair in table.T}  # episodes stay paired
