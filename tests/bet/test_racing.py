"""Racing: what a standing must be whatever the scores, and how often it errs, by simulation (fixed seeds)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bet.racing import Standing, Verdict, race
from bet.sequential import Side, log_evidence, looks

ALPHA = 0.05
LOOKS = [10, 15, 22, 33, 50, 75, 112]

Rows = NDArray[np.float64]  # (K, n)

quick = settings(max_examples=25)


def drive(rows: Rows, schedule: Sequence[int], alpha: float = ALPHA, margin: float = 0.05) -> list[Standing]:
    """A race as it is run: each standing, from before the first episode to the verdict."""
    seen = [row[:0] for row in rows]
    found = [race(seen, schedule, alpha, margin)]
    while (n := found[-1].next_look) is not None:
        for place in found[-1].left:
            seen[place] = rows[place, :n]
        found.append(race(seen, schedule, alpha, margin))
    return found


@st.composite
def fields(draw: st.DrawFn) -> Rows:
    """Contenders of all sorts, with different means."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    means = draw(st.lists(st.floats(0.02, 0.98), min_size=1, max_size=6))
    noise = draw(st.sampled_from([0.05, 0.3, 1.0]))
    shared = rng.random(LOOKS[-1])
    own = rng.random((len(means), LOOKS[-1]))
    return np.clip(np.array(means)[:, None] + noise * (shared + own - 1), 0, 1)


# What a standing is


@quick
@given(fields())
def test_replayed_from_the_start_a_race_stands_where_going_on_brought_it(rows: Rows) -> None:
    assert race(list(rows), LOOKS) == drive(rows, LOOKS)[-1]


@quick
@given(fields(), st.data())
def test_the_order_of_contenders_only_renames_them(rows: Rows, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows))))  # the new place i is the old order[i]
    found, expected = race(list(rows[order]), LOOKS), race(list(rows), LOOKS)
    assert tuple(order[place] for place in found.left) == expected.left
    renamed = {replace(one, contender=order[one.contender], leader=order[one.leader]) for one in found.dropped}
    assert renamed == set(expected.dropped)
    assert replace(found, left=(), dropped=()) == replace(expected, left=(), dropped=())


@quick
@given(fields())
def test_more_episodes_bring_nobody_back(rows: Rows) -> None:
    standings = drive(rows, LOOKS)
    for before, after in pairwise(standings):
        assert set(after.left) <= set(before.left)
        assert after.dropped[: len(before.dropped)] == before.dropped
    for one in standings:
        gone = [dropped.contender for dropped in one.dropped]
        assert sorted([*one.left, *gone]) == list(range(len(rows)))
        assert one.left
        means = [rows[place, : one.episodes].mean() for place in one.left] if one.episodes else [0.0]
        assert max(means) == means[0]
        assert (one.verdict is Verdict.RACING) == (one.next_look is not None)


@quick
@given(fields())
def test_a_round_that_was_interrupted_changes_nothing(rows: Rows) -> None:
    standing = next((one for one in drive(rows, LOOKS) if one.episodes >= LOOKS[1]), None)
    if standing is None or standing.next_look is None:
        return
    torn = [row[: standing.next_look] for row in rows]
    torn[standing.left[-1]] = rows[standing.left[-1], : standing.next_look - 1]
    assert race(torn, LOOKS) == standing


@given(fields(), st.floats(0.01, 0.5), st.floats(0.01, 0.3))
def test_what_is_said_at_a_look_is_what_the_evidence_of_its_pairs_says(rows: Rows, alpha: float, margin: float) -> None:
    leader, *others = sorted(range(len(rows)), key=lambda place: -rows[place].mean())

    def strongest(place: int, mean: float) -> float:
        return log_evidence(rows[leader] - rows[place], mean, side=Side.HIGHER).max()

    bar = log((len(rows) - 1) / alpha) if others else 0.0
    left = [place for place in others if strongest(place, 0.0) < bar]
    tied = all(strongest(place, -margin) >= bar for place in left)
    standing = race(list(rows), LOOKS[-1:], alpha, margin)
    assert standing.left == (leader, *left)
    expected = Verdict.WINNER if not left else Verdict.TIED if tied else Verdict.UNDECIDED
    assert standing.verdict is expected


@quick
@given(st.integers(2, 8), st.integers(0, 1000))
def test_identical_contenders_never_drop_each_other(k: int, seed: int) -> None:
    row = np.random.default_rng(seed).random(LOOKS[-1])
    for rows in ([row] * k, [np.zeros(len(row))] * k, [np.ones(len(row))] * k):
        assert race(rows, LOOKS).dropped == ()


def test_a_contender_far_behind_is_dropped_at_the_first_look_and_the_last_one_wins() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.random(400) < rate for rate in (0.1, 0.9, 0.6)]).astype(float)
    standing = race(list(rows), looks(400), margin=0)
    first, second = standing.dropped
    assert (first.contender, first.episodes, first.leader) == (0, 50, 1)
    assert (second.contender, second.leader) == (2, 1)
    assert (standing.verdict, standing.left, standing.within) == (Verdict.WINNER, (1,), 0)
    assert standing.episodes == second.episodes > 50


def test_those_alike_on_every_episode_are_tied_and_noisy_ones_stay_undecided() -> None:
    rng = np.random.default_rng(0)
    shared = rng.uniform(0.2, 0.8, 600)
    alike = [shared + rng.uniform(-0.02, 0.02, 600) for _ in range(3)]
    tied = race(alike, looks(600))
    assert tied.verdict is Verdict.TIED
    assert (len(tied.left), tied.within) == (3, 0.05)
    assert tied.episodes < 600
    noisy = (np.random.default_rng(0).random((3, 600)) < 0.5).astype(float)
    undecided = race(list(noisy), looks(600))
    assert (undecided.verdict, undecided.episodes, undecided.next_look) == (Verdict.UNDECIDED, 600, None)
    assert 0.05 < undecided.within < race(list(noisy), looks(60)).within < 0.5


def test_a_leader_that_is_good_enough_need_not_be_shown_to_be_better() -> None:
    rng = np.random.default_rng(1)
    rows = list((rng.random((2, 2000)) < [[0.6], [0.5]]).astype(float))
    tied, won = race(rows, looks(2000)), race(rows, looks(2000), margin=0)
    assert (tied.verdict, won.verdict) == (Verdict.TIED, Verdict.WINNER)
    assert tied.episodes < won.episodes
    assert tied.left == (0, 1)


def test_what_an_undecided_race_leaves_open_is_the_least_margin_that_makes_a_tie() -> None:
    rows = list((np.random.default_rng(0).random((4, 300)) < 0.5).astype(float))
    within = race(rows, [300]).within
    assert race(rows, [300], margin=within).verdict is Verdict.TIED
    assert race(rows, [300], margin=within - 0.001).verdict is Verdict.UNDECIDED


def test_with_no_margin_none_are_tied() -> None:
    row = np.random.default_rng(0).random(200)
    standing = race([row, row], looks(200), margin=0)
    assert (standing.verdict, standing.left) == (Verdict.UNDECIDED, (0, 1))


def test_a_lone_contender_wins_without_an_episode() -> None:
    assert race([[]], [50]) == Standing(Verdict.WINNER, (0,), (), 0, None, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: race([], [50]), "needs contenders"),
        (lambda: race([[0.5], [0.5, 1.5]], [50]), "contender 1: row 1 is 1.5"),
        (lambda: race([[float("nan")], []], [50]), "contender 0: row 0 is nan"),
        (lambda: race([[], []], []), "looks must increase"),
        (lambda: race([[], []], [0, 50]), "looks must increase"),
        (lambda: race([[], []], [50, 50]), "looks must increase.*50, 50"),
        (lambda: race([[], []], [50], alpha=5), "between 0 and 1"),
        (lambda: race([[], []], [50], margin=-0.1), "margin must lie in"),
        (lambda: race([[], []], [50], margin=1), "margin must lie in"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# How often it errs


@dataclass(frozen=True)
class Field:
    """Successes with these rates, or scores Beta-distributed with these means; `shared` of them follow the start."""

    means: Rows  # (K,)
    shared: float = 0.0
    graded: bool = False

    def draw(self, rng: np.random.Generator, n: int) -> Rows:  # (K, n)
        common = np.where(rng.random(n) < self.shared, rng.random(n), np.nan)
        uniform = rng.random((len(self.means), n))
        uniform = np.where(np.isnan(common), uniform, common)
        if self.graded:  # the quantile of Beta((mean / (1 - mean)), 1)
            return uniform ** (1 / self.means[:, None] - 1)
        return (uniform < self.means[:, None]).astype(np.float64)


def best_of(k: int, best: float, others: float) -> Rows:
    return np.array([best] + [others] * (k - 1))


FIELDS = {
    "two alike": Field(best_of(2, 0.5, 0.5)),
    "two alike, correlated": Field(best_of(2, 0.5, 0.5), shared=0.8),
    "two, one a little better": Field(best_of(2, 0.53, 0.47)),
    "two, just beyond the margin": Field(best_of(2, 0.57, 0.51)),
    "two near 0": Field(best_of(2, 0.02, 0.02)),
    "two near 1": Field(best_of(2, 0.99, 0.98)),
    "two graded": Field(best_of(2, 0.3, 0.3), shared=0.5, graded=True),
    "forty alike": Field(best_of(40, 0.5, 0.5), shared=0.5),
    "forty, one better": Field(best_of(40, 0.36, 0.3), shared=0.5),
    "forty near 0": Field(best_of(40, 0.02, 0.01)),
    "forty graded": Field(best_of(40, 0.36, 0.3), shared=0.5, graded=True),
}


def errors(field: Field, runs: int, n: int, alpha: float = ALPHA, margin: float = 0.05) -> dict[str, float]:
    """In which share of the races contender 0, a best one, was dropped, and what the race ended with was not so."""
    rng = np.random.default_rng(0)
    dropped = wrong = 0
    for _ in range(runs):
        standing = race(list(field.draw(rng, n)), looks(n, 20), alpha, margin)
        dropped += 0 not in standing.left
        wrong += field.means[0] - field.means[standing.left[0]] > standing.within
    return {"the best was dropped": dropped / runs, "the leader is worse than said": wrong / runs}


@pytest.mark.parametrize("name", FIELDS)
def test_the_best_is_dropped_and_the_leader_overrated_no_more_often_than_stated(name: str) -> None:
    field = FIELDS[name]
    runs, n = (400, 400) if len(field.means) == 2 else (40, 200)
    assert {what: share for what, share in errors(field, runs, n).items() if share > ALPHA} == {}


@pytest.mark.parametrize("name", ["two alike", "forty alike"])
def test_a_race_that_is_allowed_more_errors_makes_them(name: str) -> None:
    """So the tests above could have failed: a level of alpha for each pair, not for the race, is not enough."""
    field = FIELDS[name]
    careless = min(ALPHA * 4 * (len(field.means) - 1), 0.99)
    assert errors(field, 40, 100, alpha=careless)["the best was dropped"] > ALPHA


@pytest.mark.parametrize("graded", [False, True], ids=["successes", "graded"])
def test_a_tie_is_wrong_no_more_often_than_stated(graded: bool) -> None:
    """The better one leads by more than the margin, so a tie led by the other is wrong."""
    field = Field(best_of(2, 0.71, 0.5), graded=graded)
    found = errors(field, 500, 60, margin=0.2)
    assert found["the leader is worse than said"] <= ALPHA
    ties = [race(list(field.draw(np.random.default_rng(seed), 400)), looks(400, 20), margin=0.2) for seed in range(50)]
    assert any(one.verdict is Verdict.TIED for one in ties)
