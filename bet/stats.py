"""How sure are we? Intervals and paired tests for success rates and scores bounded in [0, 1].

| question | function | method |
|---|---|---|
| a success rate | `rate_interval` | Wilson (shown) or Clopper-Pearson (guaranteed) |
| a mean score of one policy | `mean_interval` | Gaffke's bootstrap with pseudo-observations at both bounds |
| a mean score of a setting with several training seeds | `mean_interval(clusters=)` | the above and Student's t |
| any other statistic of such a setting | `clustered` | the same, from one number per seed |
| success x mode coverage, any function of outcome shares | `counts_interval` | bootstrap, corrected for bias |
| two policies on the same episodes, success | `paired_rate_test` | exact McNemar, Tango's score interval |
| two policies on the same episodes, score | `paired_mean_difference` | permutation test, interval as for means |
| the same, a function of outcome shares | `paired_counts_difference` | permutation test, interval as for counts |
| many of these at once | `holm`, `simultaneous_confidence` | Holm, Bonferroni |

Every interval here is for a number of episodes fixed in advance: looking, then deciding whether to go on, voids it
(`bet.sequential` has those that allow it).
Monte Carlo draws come from the `seed` alone, so the same rows give the same interval, bit for bit. Of 10,000 draws
ten lie in each tail at confidence 0.998: enough for 25 simultaneous intervals, not for hundreds.

However uniform a sample, its interval has a width: twenty scores of 0 say little about a 1-in-20 event.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, nan, sqrt
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

SEED: Final = 0
DRAWS: Final = 10_000
CHUNK: Final = 4_000_000  # random numbers held at once: 32 MB


class Method(StrEnum):
    """Where an interval comes from, as reports print it."""

    WILSON = "wilson"
    CLOPPER_PEARSON = "clopper-pearson"
    GAFFKE = "gaffke"
    CLUSTERED = "clustered"
    BOOTSTRAP = "bootstrap"
    TANGO = "tango"
    BETTING = "betting"


RateMethod = Literal[Method.WILSON, Method.CLOPPER_PEARSON]

Statistic = Callable[[NDArray[np.float64]], ArrayLike]
"""Of counts (..., K), not always whole -> (...), in [0, 1] unless other bounds are given."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the range the data leave open. `format(interval, ".3f")` formats all three numbers."""

    estimate: float  # nan without data
    low: float
    high: float
    confidence: float  # of covering the true value, in (0, 1)
    n: int  # episodes, or pairs of them
    method: Method

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.estimate:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)


@dataclass(frozen=True)
class Comparison:
    """The first policy minus the second on the same episodes, and the p-value of "no difference" (two-sided)."""

    difference: Interval  # in [-1, 1]
    p_value: float


# One sample


def rate_interval(
    successes: int,
    n: int,
    method: RateMethod = Method.WILSON,
    confidence: float = 0.95,
) -> Interval:
    """Interval for a success rate after `successes` of `n` episodes; without episodes, nan and [0, 1].

    Wilson (1927) covers at the stated confidence on average over rates, with the narrower interval; Clopper and Pearson
    (1934) at least at it for every rate. Brown, Cai and DasGupta (2001), Statistical Science 16, compare them.

    Raises `ValueError` for counts that are not 0 <= successes <= n, or another method.
    """
    check_confidence(confidence)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n: {successes} of {n}")
    names = {Method.WILSON: "wilson", Method.CLOPPER_PEARSON: "beta"}
    if method not in names:
        raise ValueError(f"a rate has no {method} interval (choose from {', '.join(names)})")
    if n == 0:
        return Interval(nan, 0.0, 1.0, confidence, 0, method)
    limits = np.asarray(proportion_confint(successes, n, 1 - confidence, names[method]), dtype=np.float64)  # (2,)
    return _hull(successes / n, limits, (0, 1), confidence, n, method)


def mean_interval(
    values: ArrayLike,  # (n,) in [0, 1]
    clusters: ArrayLike | None = None,  # (n,) any labels, the training seed of each episode
    confidence: float = 0.95,
    seed: int = SEED,
) -> Interval:
    """Interval for the mean of a score bounded in [0, 1]; without values, nan and [0, 1].

    Without clusters it speaks of one policy. Gaffke's bounds: each limit is a quantile of the Bayesian bootstrap of
    the sample joined by one pseudo-observation at that bound (0 for the low limit, 1 for the high one). They have no
    degenerate case: on zeros and ones they *are* Clopper-Pearson, on a constant c they are [c a, 1 - (1 - c) a] with
    a = (alpha / 2)^(1/n), and for many episodes they join the ordinary bootstrap. That they cover for every
    distribution and n is proven in part, and no exception is known: Gaffke (2005), Mathematical Methods of Statistics
    14; Learned-Miller and Thomas (2019), arXiv 1905.06208. The BCa bootstrap, at n = 20 and a score that is rarely
    above 0, covers 84% in place of 95%.

    With two clusters or more it speaks of the setting, as `clustered` tells: each seed counts alike.

    Raises `ValueError` for values that are not finite, outside [0, 1], or of another length than the clusters.
    """
    check_confidence(confidence)
    return _bounded_mean(checked_scores(values, "values"), clusters, (0, 1), confidence, seed)


def clustered(
    estimates: ArrayLike,  # (G,) the statistic of each cluster's own episodes, G >= 2
    pooled: Interval,  # of all their episodes, taken as if from one policy
    bounds: tuple[int, int] = (0, 1),
) -> Interval:
    """Interval for a setting: the expected statistic of a policy trained with a new seed, from G seeds of it.

    The estimate is the mean over clusters, each counting alike. The interval is Student's t over the clusters
    (Ibragimov and Mueller 2010, J. Business & Economic Statistics 28: valid for any number of clusters of any
    variances, at 92% confidence and above), and at least as far to either side as `pooled` reaches from its own
    estimate: seeds that happen to agree do not make it narrower than the episodes allow. Two seeds give a wide
    interval: they know little.

    Resampling clusters, then episodes within them, is *not* used: with three to five seeds it covers at 80-90%, and
    where a few seeds succeed and most do not at 60-80%; this interval covers at 92-95%, and 77-90% there.

    Raises `ValueError` for fewer than two clusters.
    """
    means = np.asarray(estimates, dtype=np.float64)
    if means.ndim != 1 or len(means) < 2:
        raise ValueError(f"a setting needs the estimates of at least two clusters, got shape {means.shape}")
    estimate = float(means.mean())
    margin = float(stats.t.ppf((1 + pooled.confidence) / 2, len(means) - 1) * stats.sem(means))
    low = estimate - max(margin, pooled.estimate - pooled.low)
    high = estimate + max(margin, pooled.high - pooled.estimate)
    return _hull(estimate, [low, high], bounds, pooled.confidence, pooled.n, Method.CLUSTERED)


def counts_interval(
    counts: ArrayLike,  # (K,) episodes per outcome code
    statistic: Statistic,
    confidence: float = 0.95,
    seed: int = SEED,
    bounds: tuple[int, int] = (0, 1),  # of the statistic
) -> Interval:
    """Interval for a function of outcome shares, such as success rate x mode coverage; without episodes nan, bounds.

    Multinomial resamples: the same as resampling the episodes' codes, at a cost that does not grow with n. The
    interval is the hull of bias-corrected percentiles (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    chapter 14.3, without acceleration) and of the basic bootstrap (Davison and Hinkley 1997, Bootstrap Methods and
    their Application, chapter 5.2). The second matters where the truth is a kink at the statistic's maximum, as when
    a policy takes every route exactly as often as demonstrated and coverage is made of absolute values: every sample
    falls short of it, every resample shorter still. There the interval covers at 87-96%, percentiles alone at 80-90%;
    elsewhere at about 95%.

    A resample never shows an outcome that no episode had, so the interval also takes in the statistic with a share 1
    - (alpha / 2)^(1/n), what Clopper-Pearson allows to have been missed, moved to each unseen outcome, and spread
    over all of them.

    `statistic` must depend on the shares alone (the same for counts and twice the counts), not on n.

    Raises `ValueError` for counts that are not whole numbers >= 0, or a statistic of another shape or out of bounds.
    """
    check_confidence(confidence)
    totals = np.asarray(counts, dtype=np.float64)  # (K,)
    if totals.ndim != 1 or (totals < 0).any() or (totals != np.rint(totals)).any():
        raise ValueError(f"counts must be whole numbers >= 0, one per outcome: {counts}")
    n = int(totals.sum())
    if n == 0:
        return Interval(nan, float(bounds[0]), float(bounds[1]), confidence, 0, Method.BOOTSTRAP)

    def evaluate(rows: NDArray[np.float64]) -> NDArray[np.float64]:  # (m, K) -> (m,)
        found = np.asarray(statistic(rows), dtype=np.float64)
        if found.shape != rows.shape[:-1] or not ((found > bounds[0] - 1e-9) & (found < bounds[1] + 1e-9)).all():
            raise ValueError(f"the statistic must map {rows.shape} counts to {rows.shape[:-1]} numbers in {bounds}")
        return found

    estimate = float(evaluate(totals[None])[0])
    draws = evaluate(np.random.default_rng(seed).multinomial(n, totals / n, size=DRAWS).astype(np.float64))  # (DRAWS,)
    ties = np.isclose(draws, estimate, rtol=0, atol=1e-12)
    below = np.mean((draws < estimate) & ~ties) + np.mean(ties) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS))
    tail = (1 - confidence) / 2
    corrected = np.quantile(draws, stats.norm.cdf(2 * bias + stats.norm.ppf([tail, 1 - tail])))  # (2,)
    mirrored = 2 * estimate - np.quantile(draws, [tail, 1 - tail])  # (2,)

    missed = 1 - tail ** (1 / n)
    unseen = np.eye(len(totals))[totals == 0]  # (U, K)
    unseen = np.vstack([unseen, unseen.mean(axis=0)]) if len(unseen) else unseen  # each alone, and all alike
    shifted = evaluate((1 - missed) * totals + missed * n * unseen)  # (U + 1,)
    return _hull(estimate, [*corrected, *mirrored, *shifted], bounds, confidence, n, Method.BOOTSTRAP)


# Two policies, the same episodes


def paired_rate_test(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Comparison:
    """Compare success `(n,)`, 0 or 1, of two policies on the same n episodes.

    The p-value is McNemar's, exact (binomial on the episodes where just one succeeds); the interval for the difference
    of rates inverts Tango's score test (1998, Statistics in Medicine 17, 891-908), as Fagerland, Lydersen and Laake
    recommend (2014, Statistics in Medicine 33, 2850-2875). The exact test is the more cautious: its p-value may exceed
    alpha when the interval just leaves out 0. The test decides.

    Raises `ValueError` for anything but 0 and 1, or lengths that differ.
    """
    check_confidence(confidence)
    a, b = checked_scores(first, "first"), checked_scores(second, "second")
    for name, values in (("first", a), ("second", b)):
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"{name}: a success is 0 or 1 (for scores use paired_mean_difference)")
    n = check_pairs(a, b)
    if n == 0:
        return Comparison(Interval(nan, -1.0, 1.0, confidence, 0, Method.TANGO), 1.0)
    only_a, only_b = int(np.sum(a > b)), int(np.sum(a < b))
    p_value = float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    limits = _tango_limits(only_a, only_b, n, confidence)
    return Comparison(_hull((only_a - only_b) / n, limits, (-1, 1), confidence, n, Method.TANGO), p_value)


def paired_mean_difference(
    first: ArrayLike,  # (n,) in [0, 1]
    second: ArrayLike,  # (n,) in [0, 1], the same episodes
    clusters: ArrayLike | None = None,  # (n,) the training seed both policies share
    confidence: float = 0.95,
    seed: int = SEED,
) -> Comparison:
    """Compare scores of two policies, or of two settings with the same training seeds, on the same n episodes.

    The interval is `mean_interval`'s, for differences bounded in [-1, 1]. The p-value is the larger of a
    permutation test that swaps the policies within episodes and, with clusters, Student's t over the cluster means.

    Raises `ValueError` as `mean_interval` does.
    """
    check_confidence(confidence)
    a, b = checked_scores(first, "first"), checked_scores(second, "second")
    check_pairs(a, b)
    difference = _bounded_mean(a - b, clusters, (-1, 1), confidence, seed)
    if not np.any(a != b):
        return Comparison(difference, 1.0)
    p_value = _swap_p_value(a - b, seed)
    if clusters is not None:
        means = _cluster_means(a - b, clusters)
        if len(means) > 1 and np.ptp(means) > 0:
            seeds = stats.ttest_1samp(means, 0.0)
            p_value = max(p_value, float(seeds.pvalue))  # pyright: ignore[reportAttributeAccessIssue]
    return Comparison(difference, p_value)


def paired_counts_difference(
    first: ArrayLike,  # (n,) outcome codes in 0..K-1
    second: ArrayLike,  # (n,) the same episodes
    outcomes: int,  # K
    statistic: Statistic,
    confidence: float = 0.95,
    seed: int = SEED,
) -> Comparison:
    """Compare a function of outcome shares, such as success rate x mode coverage, of two policies on the same episodes.

    The interval is `counts_interval`'s, over the K x K outcomes of a pair. The p-value is of a permutation test that
    swaps the policies within episodes: small where they do not behave alike and the statistic shows it.

    Raises `ValueError` as `counts_interval` does, for codes out of range, or lengths that differ.
    """
    a, b = np.asarray(first), np.asarray(second)
    check_pairs(a, b)
    if len(a) and not (min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) < outcomes):
        raise ValueError(f"outcome codes must lie in 0..{outcomes - 1}")
    together = np.bincount(a.astype(int) * outcomes + b.astype(int), minlength=outcomes**2)  # (K * K,)

    def gap(counts: NDArray[np.float64]) -> NDArray[np.float64]:  # (..., K * K) -> (...) in [-1, 1]
        pairs = counts.reshape(*counts.shape[:-1], outcomes, outcomes)
        return np.asarray(statistic(pairs.sum(axis=-1))) - np.asarray(statistic(pairs.sum(axis=-2)))

    difference = counts_interval(together, gap, confidence, seed, (-1, 1))
    pairs = together.reshape(outcomes, outcomes)
    if (pairs == pairs.T).all():
        return Comparison(difference, 1.0)
    rng = np.random.default_rng(seed)
    upper = np.triu(pairs + pairs.T, 1)  # (K, K) pairs of unlike outcomes, whichever policy had which
    kept = rng.binomial(upper, 0.5, size=(DRAWS - 1, outcomes, outcomes))
    swapped = kept + (upper - kept).swapaxes(1, 2) + np.diag(np.diag(pairs))  # (DRAWS - 1, K, K)
    gaps = gap(swapped.reshape(-1, outcomes**2).astype(np.float64))
    at_least = np.sum(np.abs(gaps) >= abs(difference.estimate) - 1e-12)
    return Comparison(difference, float((1 + at_least) / DRAWS))


# Many at once


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:  # (k,) -> (k,)
    """p-values adjusted for a family of k tests, in the order given: those <= alpha are found, at family error alpha.

    Holm (1979), Scandinavian Journal of Statistics 6. Raises `ValueError` for p-values outside [0, 1].
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1]: {p_values}")
    return np.asarray(multipletests(raw, method="holm")[1]) if raw.size else raw


def simultaneous_confidence(k: int, confidence: float = 0.95) -> float:
    """The confidence each of k intervals needs for all to cover at once (Bonferroni): 1 - alpha / k."""
    check_confidence(confidence)
    if k < 1:
        raise ValueError(f"k counts intervals and must be at least 1: {k}")
    return 1 - (1 - confidence) / k


# What is given


def checked_scores(values: ArrayLike, name: str, bounds: tuple[int, int] = (0, 1)) -> NDArray[np.float64]:  # (n,)
    """One number per episode. Raises `ValueError` with the first row that is not finite or out of bounds."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"{name}: expected one number per episode, not shape {scores.shape}")
    bad = ~((scores >= bounds[0]) & (scores <= bounds[1]))  # also true for NaN
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name}: row {row} is {scores[row]}, outside [{bounds[0]}, {bounds[1]}]")
    return scores


def check_pairs(a: NDArray[np.float64], b: NDArray[np.float64]) -> int:
    """How many pairs there are. Raises `ValueError` where one side has more."""
    if len(a) != len(b):
        raise ValueError(f"paired episodes differ in number: {len(a)} and {len(b)}")
    return len(a)


def check_confidence(confidence: float) -> None:
    """Raises `ValueError` for anything but a number between 0 and 1."""
    if not (isfinite(confidence) and 0 < confidence < 1):
        raise ValueError(f"confidence must lie between 0 and 1: {confidence}")


# Inside


def _bounded_mean(
    values: NDArray[np.float64], clusters: ArrayLike | None, bounds: tuple[int, int], confidence: float, seed: int
) -> Interval:
    n = len(values)
    means = np.empty(0) if clusters is None else _cluster_means(values, clusters)  # (G,)
    if n == 0:
        return Interval(nan, float(bounds[0]), float(bounds[1]), confidence, 0, Method.GAFFKE)
    limits = _gaffke_limits(values, bounds, confidence, seed)
    pooled = _hull(float(values.mean()), limits, bounds, confidence, n, Method.GAFFKE)
    return clustered(means, pooled, bounds) if len(means) > 1 else pooled


def _gaffke_limits(
    values: NDArray[np.float64], bounds: tuple[int, int], confidence: float, seed: int
) -> NDArray[np.float64]:  # (2,)
    # Flat Dirichlet weights are exponentials over their sum, and a value seen m times has the sum of m exponentials, a
    # gamma: scores with few distinct values need few random numbers.
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique((values - bounds[0]) / (bounds[1] - bounds[0]), return_counts=True)  # (D,) in [0, 1]
    shape = np.append(counts, 1)  # (D + 1,) the last is the pseudo-observation
    lows, highs = np.empty(DRAWS), np.empty(DRAWS)
    rows = max(CHUNK // len(shape), 1)
    for start in range(0, DRAWS, rows):
        chunk = slice(start, min(start + rows, DRAWS))
        weights = rng.standard_gamma(shape, size=(chunk.stop - start, len(shape)))
        total = weights.sum(axis=1)
        lows[chunk] = (weights[:, :-1] * distinct).sum(axis=1) / total  # not `@`: BLAS sums by thread
        highs[chunk] = lows[chunk] + weights[:, -1] / total
    tail = (1 - confidence) / 2
    limits = np.array([np.quantile(lows, tail), np.quantile(highs, 1 - tail)])
    return bounds[0] + (bounds[1] - bounds[0]) * limits


def _swap_p_value(differences: NDArray[np.float64], seed: int) -> float:
    moved = differences[differences != 0]  # swapping equal scores changes nothing
    if len(moved) == 1:
        return 1.0  # the other way round it is as far from zero; scipy wants two

    def total(signs: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return signs.sum(axis=axis)

    result = stats.permutation_test(
        (moved,),
        total,
        permutation_type="samples",
        n_resamples=DRAWS - 1,
        batch=max(CHUNK // len(moved), 1),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _tango_limits(only_a: int, only_b: int, n: int, confidence: float) -> list[float]:
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2

    def excess(delta: float) -> float:  # (the score statistic)^2 - z^2, times its variance: < 0 inside the interval
        linear = (2 * n - only_a + only_b) * delta - only_a - only_b
        root = sqrt(max(linear**2 + 8 * n * only_b * delta * (1 - delta), 0.0))
        share_b = (root - linear) / (4 * n)  # the likeliest share of "only b" if the difference is delta
        return (only_a - only_b - n * delta) ** 2 - z2 * n * (2 * share_b + delta * (1 - delta))

    estimate, step = (only_a - only_b) / n, 1e-9  # a step aside: without discordant episodes 0 is a root too
    brackets = [(-1.0, estimate - step), (estimate + step, 1.0)]
    ends = [-1.0, 1.0]  # where the estimate is +-1 itself, so is the limit
    return [
        optimize.root_scalar(excess, bracket=bracket, method="brentq").root if bracket[0] < bracket[1] else end
        for bracket, end in zip(brackets, ends, strict=True)
    ]


def _hull(
    estimate: float, limits: Iterable[float], bounds: tuple[int, int], confidence: float, n: int, method: Method
) -> Interval:
    candidates = np.clip([estimate, *limits], *bounds)
    return Interval(estimate, float(candidates.min()), float(candidates.max()), confidence, n, method)


def _cluster_means(values: NDArray[np.float64], clusters: ArrayLike) -> NDArray[np.float64]:  # (n,) -> (G,)
    labels: NDArray[Any] = np.asarray(clusters)
    if labels.shape != values.shape:
        raise ValueError(f"clusters: {labels.shape} labels for {values.shape} values")
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.bincount(index, weights=values) / counts
