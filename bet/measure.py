"""What episodes say: of a policy or a setting its primary metric, success and modes, of two policies the difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bet.metrics import SUCCESS, mode_coverage
from bet.stats import (
    Comparison,
    Interval,
    Statistic,
    clustered,
    counts_interval,
    mean_interval,
    paired_counts_difference,
    paired_mean_difference,
    paired_rate_test,
    rate_interval,
)
from bet.tasks import SimulatedTask


@dataclass(frozen=True)
class Measurement:
    """Intervals are for a number of episodes fixed in advance."""

    primary: Interval
    success: Interval
    episodes: int
    seeds: int
    """Training seeds the episodes come from; with several, the intervals speak of the setting, not of one policy."""
    mode_shares: Mapping[str, float]
    """Among successful episodes; empty where the task's modes are not named."""
    mode_coverage: float | None


def measure(
    task: SimulatedTask,
    primary: NDArray[np.float64],
    success: NDArray[np.bool_],
    routes: Sequence[str] | None,
    train_seeds: NDArray[np.int64],
    confidence: float = 0.95,
) -> Measurement:
    """Measure episodes given by their columns, each (n,); `routes` where the task's modes are named."""
    seeds = np.unique(train_seeds)
    if len(seeds) > 1:
        success_interval = mean_interval(success.astype(np.float64), train_seeds, confidence)
    else:
        success_interval = rate_interval(int(success.sum()), len(success), confidence=confidence)
    if not task.modes or routes is None:
        is_rate = task.protocol.primary == SUCCESS
        overall = success_interval if is_rate else mean_interval(primary, train_seeds, confidence)
        return Measurement(overall, success_interval, len(primary), len(seeds), {}, None)

    codes, score = _codes(task, success, routes), _score(task)

    def counted(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(codes[rows], minlength=1 + len(task.modes))

    counts = counted(np.ones(len(codes), dtype=bool))
    overall = counts_interval(counts, score, confidence)
    if len(seeds) > 1:
        by_seed = score(np.stack([counted(train_seeds == seed) for seed in seeds]).astype(np.float64))
        overall = clustered(by_seed, overall)
    taken = counts[1:] / max(counts[1:].sum(), 1)
    return Measurement(
        overall,
        success_interval,
        len(primary),
        len(seeds),
        dict(zip(task.modes, taken.tolist(), strict=True)),
        float(mode_coverage(counts[1:], list(task.modes.values()))),
    )


@dataclass(frozen=True)
class Difference:
    """The first policy minus the second, on the same episodes, their number fixed in advance."""

    primary: Comparison
    success: Comparison


def measure_difference(
    task: SimulatedTask,
    primary: tuple[NDArray[np.float64], NDArray[np.float64]],
    success: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    routes: tuple[Sequence[str], Sequence[str]] | None,
) -> Difference:
    """Compare two policies by the columns of the episodes both met, each (n,); `routes` where modes are named.

    Raises `ValueError` for columns of different lengths.
    """
    rates = paired_rate_test(*success)
    if not task.modes or routes is None:
        scores = rates if task.protocol.primary == SUCCESS else paired_mean_difference(*primary)
        return Difference(scores, rates)
    first, second = (_codes(task, won, taken) for won, taken in zip(success, routes, strict=True))
    return Difference(paired_counts_difference(first, second, 1 + len(task.modes), _score(task)), rates)


def _codes(task: SimulatedTask, success: NDArray[np.bool_], routes: Sequence[str]) -> NDArray[np.int64]:  # (n,)
    """0 for a failure, else 1 + the number of the route taken."""
    names = list(task.modes)
    return np.array([1 + names.index(route) if won else 0 for route, won in zip(routes, success, strict=True)], int)


def _score(task: SimulatedTask) -> Statistic:
    """Success rate x mode coverage of counts (..., 1 + R), failures first."""
    shares = list(task.modes.values())

    def score(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return counts[..., 1:].sum(-1) / counts.sum(-1) * mode_coverage(counts[..., 1:], shares)

    return score
