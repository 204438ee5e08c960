"""When may we stop? Evidence and intervals that hold however often one looks, and whatever makes one stop.

The method is betting (Waudby-Smith and Ramdas 2024, JRSS-B 86, 1-27, arXiv 2010.09686). To test whether scores x have
mean m, start with 1 and stake a part of it on every episode at odds that are fair if they do: the factor 1 + c (x - m)
/ (m - low) bets that the mean is higher, 1 - c (x - m) / (high - m) that it is lower, with a share c in [0, 1] of what
could be lost. If the mean is m, no way of betting makes money on average, so having 1 / alpha at *any* time has
probability alpha at most (Ville 1939). The wealth is an e-value; its inverse is a p-value, at every n at once.

Here the wealth is the average over both sides and over every share c alike: Cover's universal portfolio, which needs
no forecast and comes close to the best constant bet in hindsight (Orabona and Jun 2024, IEEE Transactions on
Information Theory 70, arXiv 2110.14099). It is a function of *which* values were seen, not of their order. On paired
successes, differences of -1, 0 and 1 with mean 0, only discordant pairs change it, and it is the likelihood ratio of a
uniform prior on the share that the first policy wins against a fair coin: 2^m B(1 + k, 1 + m - k) for k of m.

The means that the evidence does not refute are an interval (the wealth is convex in m), and these intervals cover the
mean at all n at once with the stated confidence: a confidence sequence.

Who only asks whether the mean is *higher* stakes all on that side and has twice the wealth. Such wealth falls as m
rises, so it is evidence against every smaller mean at least as strong.

Whoever uses this must look at episodes in the order of their index: the first n of an index set are a fair sample, the
first n that *finished* favour short episodes. They may come from one policy or a pair of policies; what is said is of
these policies, not of the settings they were trained with.

No package is used: confseq 0.0.11, of the authors, has no wheel and wants Boost and a compiler.
"""

from enum import StrEnum
from math import exp, log, nan
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from bet.stats import Comparison, Interval, Method, check_confidence, check_pairs, checked_scores

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
SHARES: Final = (1 + _NODES) / 2  # (L,) of what could be lost, in (0, 1): the uniform average over c by Gauss-Legendre,
PRIORS: Final = _WEIGHTS / 2  # (L,) exact up to 127 episodes, and beyond them still an average of fair bets
EDGE: Final = 1e-9  # how near to a bound a mean is tried
BLOCK: Final = 16  # factors multiplied before a logarithm is taken: with gains up to 1 / EDGE, far from overflow


class Side(StrEnum):
    """What is bet on."""

    BOTH = "both"
    HIGHER = "higher"


def log_evidence(
    values: ArrayLike,  # (n,) in index order
    mean: float = 0.0,
    bounds: tuple[int, int] = (-1, 1),
    side: Side = Side.BOTH,
) -> NDArray[np.float64]:  # (n,)
    """Logarithms of the e-values against "the mean is `mean`", after the first 1, 2, ..., n values.

    Bets on `Side.HIGHER` are against "it is `mean` or lower". If it is, the largest of them all exceeds log(1 / alpha)
    with probability alpha at most.

    Raises `ValueError` for values that are not finite or out of bounds, or a mean that is not inside them.
    """
    scores = checked_scores(values, "values", bounds)
    low, high = bounds
    if not low < mean < high:
        raise ValueError(f"the mean must lie inside {bounds}: {mean}")
    gains = _gains((scores - low) / (high - low), (mean - low) / (high - low), side)  # (n, S)
    return _average(np.log1p(gains[..., None] * SHARES).cumsum(axis=0))


def anytime_interval(
    values: ArrayLike,  # (n,) in index order
    bounds: tuple[int, int] = (0, 1),
    confidence: float = 0.95,
) -> Interval:
    """Interval for the mean of bounded scores or successes, at every n at once; without values, nan and the bounds.

    These are the means against which the last of `log_evidence` is less than log(1 / alpha).

    Raises `ValueError` as `log_evidence` does.
    """
    check_confidence(confidence)
    scores = checked_scores(values, "values", bounds)
    low, high = bounds
    if not len(scores):
        return Interval(nan, float(low), float(high), confidence, 0, Method.BETTING)
    shares = (scores - low) / (high - low)  # (n,) in [0, 1]
    # No bet against the average of what was seen wins anything, so its own evidence is never above 0.
    middle = float(np.clip(shares.mean(), EDGE, 1 - EDGE))

    def excess(mean: float) -> float:
        gains = np.pad(_gains(shares, mean, Side.BOTH), ((0, -len(shares) % BLOCK), (0, 0)))
        factors = 1 + gains.reshape(-1, BLOCK, 2, 1) * SHARES  # (n / BLOCK, BLOCK, 2, L)
        return float(_average(np.log(factors.prod(axis=1)).sum(axis=0))) + log(1 - confidence)

    def limit(edge: float, bound: int) -> float:
        if excess(edge) <= 0:
            return bound
        root = optimize.root_scalar(excess, bracket=(edge, middle), method="brentq", xtol=1e-7).root
        return low + (high - low) * root

    return Interval(
        float(scores.mean()), limit(EDGE, low), limit(1 - EDGE, high), confidence, len(scores), Method.BETTING
    )


def anytime_comparison(
    first: ArrayLike,  # (n,) in [0, 1], in index order
    second: ArrayLike,  # (n,) in [0, 1], the same episodes
    confidence: float = 0.95,
) -> Comparison:
    """Compare successes or scores of two policies on the same episodes, at every n at once.

    The p-value comes from the strongest evidence among the first 1, 2, ..., n pairs: that it is ever at most alpha has
    probability alpha at most where there is no difference, so one may stop at the first that is, and how often one
    looked changes nothing. The interval is that of all n; rarely it holds 0 again after such a p-value.

    Raises `ValueError` for scores that are not finite or outside [0, 1], or lengths that differ.
    """
    a, b = checked_scores(first, "first"), checked_scores(second, "second")
    check_pairs(a, b)
    evidence = log_evidence(a - b)
    return Comparison(anytime_interval(a - b, (-1, 1), confidence), exp(-evidence.max(initial=0.0)))


def looks(most: int, first: int = 50, growth: float = 1.5) -> list[int]:
    """Numbers of episodes to look after: `first`, each `growth` times the one before, and `most` at last.

    Raises `ValueError` for fewer than one episode, or looks that do not grow.
    """
    if min(most, first) < 1 or growth <= 1:
        raise ValueError(f"looks need episodes and must grow: most {most}, first {first}, growth {growth}")
    found, at = [], first
    while at < most:
        found.append(at)
        at = max(int(at * growth), at + 1)
    return [*found, most]


def _gains(shares: NDArray[np.float64], mean: float, side: Side) -> NDArray[np.float64]:  # (n, S): 2 sides, or 1
    """What values (n,) in [0, 1] make of 1 that is all staked on a higher mean, and on a lower one, less that 1."""
    higher = shares / mean
    sides = [higher] if side is Side.HIGHER else [higher, (1 - shares) / (1 - mean)]
    return np.stack(sides, axis=1) - 1


def _average(log_wealth: NDArray[np.float64]) -> NDArray[np.float64]:
    """The wealth of all bets (..., S, L) as one, (...)."""
    top = log_wealth.max(axis=(-2, -1))  # (...)
    weights = PRIORS / log_wealth.shape[-2]  # (L,)
    return top + np.log((np.exp(log_wealth - top[..., None, None]) * weights).sum(axis=(-2, -1)))
