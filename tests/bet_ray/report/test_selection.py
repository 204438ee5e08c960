"""The best of a search: who is tied with it, what a race decides, and what the page says of both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from benchmarks.racing import Recorded
from bet.data.episodes import Episodes
from bet.data.store import save_episodes
from bet.oracles import blockpush
from bet.racing import Verdict
from bet_ray.report.compute import answer, leaderboard
from bet_ray.report.records import read_records
from bet_ray.report.render import render
from bet_ray.selection import read_race
from bet_ray.sweep import Race, parse_sweep
from bet_ray.trials import TrialRecord, read_trials

from ..pages import Page
from .conftest import NewSweep, SmallSweep

BLOCKPUSH = {
    "task": "blockpush",
    "base": {"data.train_fraction": 0.7, "model": {"layers": 1, "width": 16}, "train.epochs": 1},
    "space": {"bins": [1, 2], "gamma": [0, 2]},
}


def trials_of(small: SmallSweep) -> list[TrialRecord]:
    for setting in small.sweep.enumerated():
        small.train(setting)
    small.finish()
    return read_trials(small.run, small.sweep.objective)


def test_a_setting_that_is_clearly_worse_is_not_tied_and_finalists_are_measured_at_once(new_sweep: NewSweep) -> None:
    """The fate of a policy of one epoch is its learning rate's, whichever does better after so short a training."""
    small = new_sweep(
        space={"train.lr": [3e-3, 1e-9], "bins": [1, 3]},
        base={"train.epochs": 1},
        eval={"episodes": 100, "winner_episodes": 60, "finalists": 4},
    )
    trials = trials_of(small)
    best, worst = (trial.rungs[0].primary for trial in (trials[0], trials[-1]))
    assert best is not None
    assert worst is not None
    assert best[1] > worst[2] + 0.1
    assert trials[0].tied
    assert trials[-1].tied is False
    finalists = [trial for trial in trials if trial.report]
    assert finalists == [trial for trial in trials if trial.tied]
    assert all(trial.report.confidence == 1 - 0.05 / len(finalists) for trial in finalists if trial.report)
    records = read_records(small.run)
    board, found = leaderboard(records), answer(records)
    assert found.measured is not None
    assert found.measured.primary.confidence == finalists[0].report.confidence  # type: ignore[union-attr]
    assert board.rows[0].shrinkage == pytest.approx(trials[0].rungs[0].objective - found.measured.primary.estimate)
    assert board.finalists == len(finalists)


def test_the_race_sees_episodes_that_the_search_has_not_and_is_told(pushed_race: SmallSweep) -> None:
    trials, race = read_trials(pushed_race.run, pushed_race.sweep.objective), read_race(pushed_race.run)
    assert race is not None
    assert race.verdict in (Verdict.TIED, Verdict.UNDECIDED)  # after one epoch nobody pushes anything anywhere
    assert all(trial.race and trial.race.episodes == race.rounds[-1][0] for trial in trials)
    assert race.episodes == race.alike == race.rounds[-1][0] * len(trials)
    raced = race.rounds[-1][0]
    with pytest.raises(SystemExit, match=rf"have {raced} episodes in common .* --each --split tune"):
        Recorded.of(pushed_race.run)  # the benchmark that resamples a sweep wants more of them
    words = Page(render(read_records(pushed_race.run))).words
    assert f"Race of 4 settings: {str(race).partition(': ')[2]}" in words
    assert f"chosen in the race: {raced} episodes" in words


def test_a_hopeless_setting_leaves_the_race_early_and_one_that_is_better_than_all_ends_it(
    climbing: Callable[..., SmallSweep],
) -> None:
    small = climbing(race={"first": 5, "episodes": 80, "margin": 0.01})
    able, hopeless = trials_of(small)
    race = read_race(small.run)
    assert race is not None
    assert race.verdict is Verdict.WINNER
    assert race.rounds[-1][0] < 80
    assert [left for _, left in race.rounds] == [2] * (len(race.rounds) - 1) + [1]
    assert able.race is not None
    assert hopeless.race is not None
    assert (able.race.beaten_by, hopeless.race.beaten_by) == (None, able.trial)
    assert (able.tied, hopeless.tied) == (True, False)
    assert able.report is not None
    assert hopeless.report is None


def test_a_race_ends_when_its_budget_does_and_starts_only_where_there_is_one_for_a_round(
    climbing: Callable[..., SmallSweep], caplog: pytest.LogCaptureFixture
) -> None:
    small = climbing(race={"first": 2, "episodes": 80, "margin": 0.01, "budget": 5})
    trials = trials_of(small)
    race = read_race(small.run)
    assert race is not None
    assert (race.verdict, race.rounds, race.episodes) == (Verdict.UNDECIDED, [(2, 2)], 4)
    assert all(trial.tied for trial in trials)
    small = climbing(race={"first": 2, "budget": 3})
    small.finish()
    assert read_race(small.run) is None
    assert "eval.race.budget: 3 episodes are fewer than one round's 4" in caplog.text


def test_a_lone_contender_needs_no_race(new_sweep: NewSweep) -> None:
    small = new_sweep(task="pointmass1", space={"bins": [2]}, eval={"episodes": 4, "winner_episodes": 4})
    (trial,) = trials_of(small)
    assert trial.tied
    raced = small.sweep.model_copy(update={"eval": small.sweep.eval.model_copy(update={"race": Race()})})
    small = SmallSweep(small.run, raced, small.episodes)
    small.finish()
    assert read_race(small.run) is None


@pytest.fixture
def climbing(tmp_path: Path) -> Callable[..., SmallSweep]:
    """A sweep over two learning rates, of which one learns to rock a car up a hill and one learns nothing."""
    env, observations, actions, ends = gymnasium.make("MountainCarContinuous-v0"), [], [], []
    for seed in range(40):
        seen, _ = env.reset(seed=seed)
        over = False
        while not over:
            push = np.array([0.7 * (np.sign(seen[1]) or 1.0)], np.float32)  # any harder, and it wins too dearly
            observations.append(seen)
            actions.append(push)
            seen, _, terminated, truncated, _ = env.step(push)
            over = terminated or truncated
        ends.append(len(actions))
    episodes = Episodes(np.array(observations), np.array(actions), np.array(ends), task="MountainCarContinuous-v0")
    path = tmp_path / "demonstrations.parquet"
    save_episodes(episodes, path)

    def begin(**how: Any) -> SmallSweep:
        tree = {
            "question": "Does it learn?",
            "task": episodes.task,
            "base": {"data.path": str(path), "train.epochs": 1, "bins": 2},
            "space": {"train.lr": [3e-3, 1e-9]},
            "search": "grid",
            "eval": {"episodes": 2, "winner_episodes": 4, **how},
        }
        small = SmallSweep(tmp_path / "run", parse_sweep(tree, "test"), episodes)
        small.begin()
        return small

    return begin


@pytest.fixture
def pushed_race(new_sweep: NewSweep, tmp_path: Path) -> SmallSweep:
    episodes, _ = blockpush.demonstrations(range(3), seed=0)
    save_episodes(episodes, tmp_path / "demonstrations.parquet")
    base = BLOCKPUSH["base"] | {"data.path": str(tmp_path / "demonstrations.parquet")}
    race = {"first": 4, "episodes": 10, "margin": 0.5}
    small = new_sweep(**BLOCKPUSH | {"base": base}, eval={"episodes": 2, "winner_episodes": 2, "race": race})
    small = SmallSweep(small.run, small.sweep, episodes)
    trials_of(small)
    return small
