"""What episodes say: of a policy or a setting its primary metric, success and modes, of two policies the difference."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from bet.metrics import NO_ROUTE, ROUTE, SUCCESS, mode_coverage, sequence_entropies
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
from bet.trajectory import Trajectory


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
    rates: Mapping[str, Interval]
    """`SimulatedTask.rates`."""
    times: Mapping[str, tuple[float, float, float]]
    """Of `SimulatedTask.events` that happened: the step, its 10th percentile, median and 90th."""
    begun: Mapping[str, float]
    """What episodes began with, as shares of those that began anything; empty where the task has no such column."""
    entropies: Mapping[str, float]
    """In bits, of what was done (`bet.metrics.sequence_entropies`); empty where no column says so."""

    @property
    def mode_entropy(self) -> float | None:
        """Of `mode_shares`, in nats."""
        return float(entropy(list(self.mode_shares.values()))) if any(self.mode_shares.values()) else None


def measure(
    task: SimulatedTask,
    primary: NDArray[np.float64],
    success: NDArray[np.bool_],
    columns: Mapping[str, Sequence[Any]],
    train_seeds: NDArray[np.int64],
    confidence: float = 0.95,
) -> Measurement:
    """Measure episodes given by their columns, each (n,); of the task's own ones those of `judged_by`.

    Those are None where an episode ended in an error: it has a share in the rates, as one in which nothing happened.
    """
    seeds = np.unique(train_seeds)

    def numbers(column: str) -> NDArray[np.int64]:
        return np.array([value or 0 for value in columns[column]], np.int64)

    def rate(won: NDArray[np.bool_]) -> Interval:
        if len(seeds) > 1:
            return mean_interval(won.astype(np.float64), train_seeds, confidence)
        return rate_interval(int(won.sum()), len(won), confidence=confidence)

    succeeded = rate(success)
    rates = {name: rate(numbers(one.column) >= one.count) for name, one in task.rates.items()}
    steps = ((event, numbers(column)) for event, column in task.events.items())
    happened = {event: at[at > 0] for event, at in steps}
    times = {event: tuple(np.quantile(at, (0.1, 0.5, 0.9)).tolist()) for event, at in happened.items() if at.size}
    first = Counter(what for what in columns[task.first] if what not in (None, NO_ROUTE)) if task.first else Counter()
    begun = {what: count / first.total() for what, count in sorted(first.items())}
    done = [sequence for sequence in columns[task.sequence] if sequence is not None] if task.sequence else []
    entropies = sequence_entropies(done) if done else {}
    counts, shares, coverage = np.zeros((0, 1), np.int64), {}, None
    if task.modes:
        codes = _codes(task, success, columns[ROUTE])
        counts = np.zeros((len(seeds), 1 + len(task.modes)), np.int64)
        np.add.at(counts, (np.searchsorted(seeds, train_seeds), codes), 1)
        taken = counts.sum(axis=0)[1:]
        shares = dict(zip(task.modes, (taken / max(taken.sum(), 1)).tolist(), strict=True))
        coverage = float(mode_coverage(taken, list(task.modes.values())))
    if task.by_modes:
        score = _score(task)
        overall = counts_interval(counts.sum(axis=0), score, confidence)
        if len(seeds) > 1:
            overall = clustered(score(counts.astype(np.float64)), overall)
    else:
        overall = succeeded if task.protocol.primary == SUCCESS else mean_interval(primary, train_seeds, confidence)
    return Measurement(overall, succeeded, len(primary), len(seeds), shares, coverage, rates, times, begun, entropies)


def measure_modes(
    task: SimulatedTask, success: NDArray[np.bool_], routes: Sequence[str], train_seeds: NDArray[np.int64]
) -> tuple[Interval, Interval]:
    """Coverage and entropy (nats) of the modes that successes take; columns (n,) of episodes, one success at least.

    A training seed without any success has no part in them.
    """
    codes, train_seeds = _codes(task, success, routes)[success] - 1, train_seeds[success]
    seeds, shares = np.unique(train_seeds), list(task.modes.values())
    counts = np.zeros((len(seeds), len(shares)), np.int64)
    np.add.at(counts, (np.searchsorted(seeds, train_seeds), codes), 1)

    def interval(statistic: Statistic, bounds: tuple[int, int]) -> Interval:
        pooled = counts_interval(counts.sum(axis=0), statistic, bounds=bounds)
        return clustered(statistic(counts.astype(np.float64)), pooled, bounds) if len(seeds) > 1 else pooled

    most = int(np.ceil(np.log(len(shares))))
    return interval(lambda taken: mode_coverage(taken, shares), (0, 1)), interval(
        lambda taken: entropy(taken, axis=-1), (0, most)
    )


def measure_trajectories(task: SimulatedTask, trajectories: Sequence[Trajectory]) -> Measurement:
    """Measure episodes of one origin by their steps."""
    outcomes = [vars(task.outcome(trajectory)) for trajectory in trajectories]
    return measure(
        task,
        np.array([task.episode_primary(trajectory) for trajectory in trajectories]),
        np.array([trajectory.success for trajectory in trajectories]),
        {name: [outcome[name] for outcome in outcomes] for name in judged_by(task)},
        np.zeros(len(trajectories), np.int64),
    )


def judged_by(task: SimulatedTask) -> list[str]:
    """The task's own columns that measuring needs."""
    columns = ROUTE if task.modes else None, *(rate.column for rate in task.rates.values()), *task.events.values()
    return list(dict.fromkeys(column for column in (*columns, task.first, task.sequence) if column))


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
    if not task.by_modes or routes is None:
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
