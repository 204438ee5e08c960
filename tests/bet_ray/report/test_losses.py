"""Whether the validation loss tells the primary metric: by rank, and only between losses that compare."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from bet_ray.report.figures import losses_figure
from bet_ray.report.losses import FEWEST_PAIRS, Group, Judgement, Losses, Verdict, losses
from bet_ray.report.records import Records, read_records
from bet_ray.trials import read_trials
from bet_ray.values import Estimate

from .conftest import NewSweep


def told(records: Records, new_sweep: NewSweep, numbers: Sequence[tuple[float, float]], **space: list) -> Losses:
    """Of trials with these losses and metrics, in the order of the settings."""
    sweep = new_sweep(space=space).sweep
    rung = records.trials[0].rungs[0]
    trials = [
        records.trials[0].model_copy(
            update={
                "setting": setting,
                "rungs": [rung.model_copy(update={"val_loss": loss, "primary": Estimate(worth, worth, worth)})],
            }
        )
        for setting, (loss, worth) in zip(sweep.enumerated(), numbers, strict=True)
    ]
    found = losses(replace(records, sweep=sweep, trials=trials))
    assert found is not None
    return found


def test_losses_compare_only_between_settings_that_share_what_they_sum_up(finished: Path, new_sweep: NewSweep) -> None:
    # Within each gamma the loss tells all; between them it would mislead.
    low = [(0.1 * k, 0.5 - 0.1 * k) for k in range(1, 5)]
    high = [(2 + 0.1 * k, 0.9 - 0.1 * k) for k in range(1, 5)]
    both = [pair for pairs in zip(low, high, strict=True) for pair in pairs]
    found = told(read_records(finished), new_sweep, both, window=[1, 2, 3, 4], gamma=[2, 0])
    assert [group.name for group in found.groups] == ["gamma=2", "gamma=0"]
    assert [group.tau for group in found.groups] == [1, 1]
    assert (found.tau, found.pairs) == (1, 12)
    assert found.verdict is Verdict.MUCH_ALIKE
    assert found.groups[1].best.primary.value == pytest.approx(0.8)
    assert len(list(losses_figure(found, "success").select_traces())) == 2


@pytest.mark.parametrize(
    ("worths", "verdict"),
    [
        ([6, 5, 4, 3, 2, 1], Verdict.MUCH_ALIKE),
        ([1, 2, 3, 4, 5, 6], Verdict.OPPOSITE),
        ([3, 5, 1, 6, 2, 4], Verdict.NOTHING),
        ([1, 1, 1, 1, 1, 1], Verdict.NOTHING),
    ],
)
def test_the_verdict_follows_the_order(
    finished: Path, new_sweep: NewSweep, worths: list[float], verdict: Verdict
) -> None:
    found = told(read_records(finished), new_sweep, list(enumerate(worths)), window=[1, 2, 3, 4, 5, 6])
    assert [group.name for group in found.groups] == [""]
    assert not found.repeated
    assert found.verdict is verdict


def test_a_few_pairs_say_nothing(finished: Path) -> None:
    found = losses(read_records(finished))  # four trials, each with losses of its own kind
    assert found is not None
    assert found.pairs < FEWEST_PAIRS
    assert found.verdict is Verdict.TOO_FEW
    assert losses(replace(read_records(finished), trials=[])) is None


def test_a_search_by_loss_has_a_dot_for_each_setting_once_it_is_over(new_sweep: NewSweep) -> None:
    small = new_sweep(objective="val_loss", space={"window": [1, 2, 3]})
    for setting in small.sweep.enumerated():
        small.train(setting)
    assert losses(read_records(small.run)) is None
    small.finish()
    found = losses(read_records(small.run))
    assert found is not None
    assert found.pairs == 3
    assert [rung.val_loss for rung in found.groups[0].rungs] == sorted(
        rung.val_loss for trial in read_trials(small.run, small.sweep.objective) for rung in trial.rungs
    )


@given(st.integers(3, 20).flatmap(lambda count: st.permutations(range(count))))
def test_tau_is_kendalls_where_nothing_is_tied(order: list[int]) -> None:
    rungs = [Judgement("", 1, loss, Estimate(worth, worth, worth)) for loss, worth in enumerate(order)]
    found = Losses((Group.of("", rungs),), ())
    expected, p = kendalltau(-np.arange(len(order)), order, alternative="greater", method="asymptotic")
    assert found.tau == pytest.approx(expected)
    assert found.p == pytest.approx(p)


def test_that_more_training_betters_both_is_no_agreement() -> None:
    worths = {(1, 0): 0.1, (2, 1): 0.2, (1, 2): 0.3, (2, 3): 0.4}  # by epoch and how low the loss is
    rungs = [Judgement("", epoch, -low, Estimate(worth, worth, worth)) for (epoch, low), worth in worths.items()]
    group = Group.of("", rungs)
    assert (group.pairs, group.agreement, group.tau) == (2, 2, 1)
    assert Group.of("", rungs[:2]).tau is None
