"""What settings cost and what they are worth, computed from a run that the real records and ledger left."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet_ray.report.cost_figures import costs_figure, fronts_figure
from bet_ray.report.costs import Front, Offer, Price, costs, front, fronts
from bet_ray.report.records import read_records
from bet_ray.trials import Status
from bet_ray.values import Estimate

from .conftest import EPISODE_SECONDS, REPORT_EPISODES, TRAIN_SECONDS, TUNE_EPISODES

SLOTS = 32


def test_an_episodes_seconds_are_shared_among_the_slots_and_equal_policies_share_their_episodes(finished: Path) -> None:
    records = read_records(finished)
    found = costs(records)
    alone = TUNE_EPISODES * EPISODE_SECONDS / SLOTS
    bins = {trial.trial: trial.setting["codebook.bins"] for trial in records.trials}
    for cost in found.settings:
        assert cost.training == TRAIN_SECONDS
        assert cost.rollouts == pytest.approx(alone / 2 if bins[cost.trial] == 1 else alone)
    assert found.rollouts == pytest.approx(3 * alone)
    assert found.measuring == pytest.approx(REPORT_EPISODES * EPISODE_SECONDS / SLOTS)
    assert [cost.total for cost in found.settings] == sorted((cost.total for cost in found.settings), reverse=True)


def test_what_went_to_settings_that_were_stopped_is_a_share_of_the_search(finished: Path) -> None:
    records = read_records(finished)
    first, *others = records.trials
    stopped = replace(records, trials=[first.model_copy(update={"status": Status.STOPPED}), *others])
    found = costs(stopped)
    mine = next(cost.total for cost in found.settings if cost.trial == first.trial)
    assert found.share(Status.STOPPED) == pytest.approx(mine / (found.training + found.rollouts))
    assert costs(records).share(Status.STOPPED) == 0
    costs_figure(found.settings)


def test_a_trial_that_was_killed_counts_as_stopped_once_the_search_is_over(finished: Path) -> None:
    records = read_records(finished)
    killed = [trial.model_copy(update={"status": Status.RUNNING}) for trial in records.trials]
    assert costs(replace(records, trials=killed)).share(Status.STOPPED) == pytest.approx(1)
    assert costs(replace(records, trials=killed, search_over=False)).share(Status.STOPPED) == 0


def test_acting_has_a_front_where_its_cost_was_recorded(finished: Path) -> None:
    records = read_records(finished)
    (training,) = fronts(records)
    assert training.price is Price.TRAINING
    assert len(training.offers) == 4
    timed = [
        trial.model_copy(update={"act_seconds": 0.001 * place}) for place, trial in enumerate(records.trials, start=1)
    ]
    both = fronts(replace(records, trials=timed))
    assert [found.price for found in both] == [Price.TRAINING, Price.ACTING]
    assert len(both[1].front) == 1  # the best acts fastest
    assert both[1].front[0].winner
    assert both[1].winner == both[1].cheapest_tied == both[1].front[0]
    fronts_figure(both, "success")


offers = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20), st.booleans()), min_size=1, max_size=12).map(
    lambda drawn: sorted(
        (
            Offer(str(k), cost, Estimate(worth, worth - 2, worth + 2), winner=False, tied=tied)
            for k, (cost, worth, tied) in enumerate(drawn)
        ),
        key=lambda offer: (offer.seconds, -offer.primary.value),
    )
)


@given(offers)
def test_an_offer_is_on_the_front_unless_another_is_worth_as_much_for_no_more(some: list[Offer]) -> None:
    found = front(some)
    for offer in some:
        beaten = any(
            other.seconds <= offer.seconds
            and other.primary.value >= offer.primary.value
            and (other.seconds, other.primary.value) != (offer.seconds, offer.primary.value)
            for other in some
        )
        here = [(each.seconds, each.primary.value) for each in found]
        assert ((offer.seconds, offer.primary.value) in here) is not beaten
    cheap = Front(Price.TRAINING, tuple(some), found).cheapest_tied
    tied = [offer for offer in some if offer.tied]
    assert (cheap in tied and cheap.seconds == min(offer.seconds for offer in tied)) if cheap else not tied
