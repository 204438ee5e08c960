"""What a set of episodes says about a policy or a setting: its primary metric, success and modes, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bet.metrics import SUCCESS, mode_coverage
from bet.stats import Interval, clustered, counts_interval, mean_interval, rate_interval
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

    names, shares = list(task.modes), np.array(list(task.modes.values()))
    codes = np.array([1 + names.index(route) if won else 0 for route, won in zip(routes, success, strict=True)], int)

    def score(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Success rate x mode coverage of counts (..., 1 + R), failures first."""
        return counts[..., 1:].sum(-1) / counts.sum(-1) * mode_coverage(counts[..., 1:], shares)

    def counted(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(codes[rows], minlength=1 + len(names))

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
        dict(zip(names, taken.tolist(), strict=True)),
        float(mode_coverage(counts[1:], shares)),
    )
