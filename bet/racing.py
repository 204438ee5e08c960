"""Which of many contenders is best? A race: all meet the same episodes, and the hopeless are dropped as soon as may be.

A contender is a policy, or a setting whose score in an episode is the mean over the policies of its training seeds.
Episodes are run in rounds. At the end of each, a look: the leader, which has the best mean so far, is compared with
each of the others that are left, on the episodes that both met, by one-sided betting (`bet.sequential`). Whoever is
lower beyond doubt is dropped and gets no more episodes, until one is left, until those left are as good as tied, or
until the budget is spent.

What is guaranteed. Let b be a contender with the highest true mean, among K. With probability 1 - alpha at least, at
all looks at once:

- b is never dropped, so a winner is the best, and
- where those left are tied, the leader's true mean is at most `margin` below b's; where the race ends undecided, at
  most `Standing.within`.

Both come from one event, so alpha is not shared between them. Let d = mean(A - b) for a rival A. All that a look says
of A and b, the leader being A, is "mean(A - b) > m": with m = 0 to drop b, with m = -margin to call them tied. That is
false only if m >= d, and then the wealth against m is at most that against d, at every episode; so if anything false
is ever said of A and b, the wealth against the true difference d has reached the bar of (K - 1) / alpha: probability
alpha / (K - 1) at most (Ville), and there are K - 1 rivals. It does not matter how the leader is chosen, when the looks
are, or whether `margin` was chosen after seeing scores.

Episodes must be a fair sample in the order of their index, and what is said is of the mean over all such episodes. For
settings it is said of the policies trained, not of new training seeds.

Racing by bounds is Maron and Moore's (1994, NIPS 6, Hoeffding races); with e-processes nothing is lost by looking
often. To ask all pairs, in place of the leader and each, costs K times as much and saved about 2% of the episodes in
simulation.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import log, log1p

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bet.sequential import Side, log_evidence
from bet.stats import check_confidence, checked_scores


class Verdict(StrEnum):
    """How a race stands."""

    RACING = "racing"
    """Those left want the episodes of another look."""
    WINNER = "winner"
    """One is left."""
    TIED = "tied"
    """None of those left is better than the leader by more than the margin."""
    UNDECIDED = "undecided"
    """The budget is spent, and several are left that the episodes do not tell apart."""


@dataclass(frozen=True)
class Dropped:
    """A contender out of the race."""

    contender: int
    episodes: int
    """After so many."""
    leader: int
    """Who is better."""


@dataclass(frozen=True)
class Standing:
    """What the episodes so far say. Contenders are named by their index."""

    verdict: Verdict
    left: tuple[int, ...]
    """Those still in, the best mean first: the leader."""
    dropped: tuple[Dropped, ...]
    """In the order of their going."""
    episodes: int
    """What each of those left has been judged by."""
    next_look: int | None
    """Episodes that each of those left needs now, None when the race is over."""
    within: float
    """At most so much is the leader below the best: 0, the margin, or the least that is known; 1 while racing."""


def race(
    scores: Sequence[ArrayLike],  # K of (n_i,) in [0, 1], all of episodes 0, 1, 2, ...
    looks: Sequence[int],  # episodes, increasing (`bet.sequential.looks`); the last is the budget of each contender
    alpha: float = 0.05,
    margin: float = 0.05,
) -> Standing:
    """The race from its start, as far as the rows of those left reach.

    It is a function of the rows alone, so a race goes on from recorded rows as if nothing had stopped it. Rows beyond
    the look that a contender was last judged at change nothing; where one of those left has not all rows of the next
    look yet, that look is still to come. A lone contender wins without an episode. With a margin of 0 none are tied.

    Raises `ValueError` for no contenders, scores that are not finite or out of bounds (contender and row named), looks
    that do not increase, or an alpha or a margin that makes no sense.
    """
    rows = [checked_scores(values, f"contender {place}") for place, values in enumerate(scores)]
    if not rows:
        raise ValueError("a race needs contenders")
    if not looks or looks[0] < 1 or any(a >= b for a, b in pairwise(looks)):
        raise ValueError(f"looks must increase, from one episode at least: {list(looks)}")
    check_confidence(1 - alpha)
    if not 0 <= margin < 1:
        raise ValueError(f"the margin must lie in [0, 1): {margin}")
    level = alpha / max(len(rows) - 1, 1)  # of each pair

    left, dropped, episodes = list(range(len(rows))), list[Dropped](), 0
    ahead: dict[int, NDArray[np.float64]] = {}  # of the others, the leader (look,)

    def standing(verdict: Verdict, next_look: int | None, within: float) -> Standing:
        return Standing(verdict, tuple(left), tuple(dropped), episodes, next_look, within)

    if len(left) == 1:
        return standing(Verdict.WINNER, None, 0.0)
    for look in looks:
        if any(len(rows[place]) < look for place in left):
            return standing(Verdict.RACING, look, 1.0)
        episodes = look
        leader, *others = sorted(left, key=lambda place: -float(rows[place][:look].mean()))
        ahead = {place: rows[leader][:look] - rows[place][:look] for place in others}
        lost = [place for place in others if is_higher(ahead[place], 0.0, level)]
        left = [leader, *(place for place in others if place not in lost)]
        dropped += [Dropped(place, look, leader) for place in sorted(lost)]
        if len(left) == 1:
            return standing(Verdict.WINNER, None, 0.0)
        if all(is_higher(ahead[place], -margin, level) for place in left[1:]):
            return standing(Verdict.TIED, None, margin)
    thousandths = bisect_left(
        range(1000), True, key=lambda most: all(is_higher(ahead[place], -most / 1000, level) for place in left[1:])
    )
    return standing(Verdict.UNDECIDED, None, thousandths / 1000)


def is_higher(differences: NDArray[np.float64], mean: float, level: float) -> bool:
    """Whether differences (n,) in [-1, 1] have, at any of the n, refuted that theirs is `mean` or less."""
    bar = -log(level)
    # Most have not, and that is cheap to see. log(1 + y) <= y - k y^2 for y <= top, so whatever the share c in [0, 1],
    # the sum of log(1 + c gain) is at most max(0, sum), and at most sum^2 / (4 k sum of squares).
    gains, top = (differences - mean) / (1 + mean), (1 - mean) / (1 + mean)
    k = (top - log1p(top)) / top**2
    total = gains.cumsum()  # (n,)
    if not ((total >= bar) & (total**2 >= 4 * k * bar * (gains**2).cumsum())).any():
        return False
    return bool(log_evidence(differences, mean, side=Side.HIGHER).max() >= bar)
