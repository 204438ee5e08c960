"""Two policies on the same episodes: which is better, how sure is that, and which episodes show it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bet.config import Split
from bet.errors import UsageError
from bet.measure import measure_difference
from bet.metrics import ROUTE, SUCCESS
from bet.protocol import Protocol
from bet.sequential import anytime_comparison, anytime_interval, looks
from bet.stats import Comparison, Interval
from bet.tasks import SimulatedTask
from bet_ray.evaluation import (
    NO_CHANGES,
    USUAL,
    Evaluation,
    LazyPool,
    PoolShape,
    Progress,
    evaluate_all,
    measurement,
    run_of,
)

ALPHA = 0.05
FURTHEST = 10  # episodes to name whose scores differ most


class ComparisonError(UsageError):
    """Two policies do not meet the same episodes; the message says what differs."""


class Better(StrEnum):
    """What a comparison says."""

    FIRST = "A"
    SECOND = "B"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class MetricComparison:
    """One metric of both policies."""

    name: str
    first: Interval
    second: Interval
    paired: Comparison


@dataclass(frozen=True)
class PolicyComparison:
    """Policy A, the first, and policy B on episodes 0..n-1."""

    episodes: int
    metrics: tuple[MetricComparison, ...]
    """The first decides."""
    only_first: tuple[int, ...]
    """Episodes in which A succeeds and B fails."""
    only_second: tuple[int, ...]
    furthest: tuple[tuple[int, float], ...]
    """Episodes whose scores differ most, with A's score minus B's; none where an episode has no score but success."""

    @property
    def better(self) -> Better:
        """Which has the better first metric, where both the test and the interval leave no doubt."""
        decisive = self.metrics[0].paired
        if decisive.p_value > ALPHA or 0 in decisive.difference:
            return Better.UNDECIDED
        return Better.FIRST if decisive.difference.estimate > 0 else Better.SECOND

    @property
    def discordant(self) -> float:
        """The share of episodes in which just one of the two succeeds."""
        return (len(self.only_first) + len(self.only_second)) / max(self.episodes, 1)


def compare_episodes(task: SimulatedTask, first: pa.Table, second: pa.Table, anytime: bool = False) -> PolicyComparison:
    """Compare rows of `episodes_schema`, each of one policy, by index.

    `anytime` gives tests and intervals that hold if what was seen decided how many episodes there are; success x mode
    coverage, which is no mean of episodes, then has none and is left out.

    Raises `ComparisonError` for rows that are not of the same episodes.
    """
    for name in ("index", "protocol_digest", "split", "numerics"):
        if not first.column(name).equals(second.column(name)):
            raise ComparisonError(f"not the same episodes: the two tables differ in {name}")
    success = _both(first, second, "success")
    primary = _both(first, second, "primary")
    names = [task.protocol.primary, SUCCESS] if task.scored else [SUCCESS]
    if anytime:
        columns = {SUCCESS: success, task.protocol.primary: primary}
        metrics = tuple(
            MetricComparison(name, anytime_interval(a), anytime_interval(b), anytime_comparison(a, b))
            for name in names
            for a, b in [columns[name]]
        )
    else:
        metrics = _fixed(task, first, second)
    indices = first.column("index").to_numpy()
    gaps = primary[0] - primary[1]
    order = np.argsort(-np.abs(gaps), kind="stable")[: FURTHEST if task.scored else 0]
    return PolicyComparison(
        len(indices),
        metrics,
        tuple(indices[success[0] > success[1]].tolist()),
        tuple(indices[success[0] < success[1]].tolist()),
        tuple((int(indices[i]), float(gaps[i])) for i in order if gaps[i]),
    )


def _fixed(task: SimulatedTask, first: pa.Table, second: pa.Table) -> tuple[MetricComparison, ...]:
    """The primary metric, and success where that is another, for a number of episodes fixed in advance."""
    routes = (first.column(ROUTE).to_pylist(), second.column(ROUTE).to_pylist()) if task.by_modes else None
    a, b = measurement(task, first), measurement(task, second)
    success = _both(first, second, "success")
    difference = measure_difference(task, _both(first, second, "primary"), (success[0] > 0, success[1] > 0), routes)
    overall = MetricComparison(task.protocol.primary, a.primary, b.primary, difference.primary)
    rates = MetricComparison(SUCCESS, a.success, b.success, difference.success)
    return (rates,) if task.protocol.primary == SUCCESS else (overall, rates)


def _both(first: pa.Table, second: pa.Table, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A column of both tables as numbers, each (n,)."""
    a, b = (table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for table in (first, second))
    return a, b


@dataclass(frozen=True, eq=False)
class Rivals:
    """Two policies that meet the same episodes, each recorded in its own run."""

    first: Evaluation
    second: Evaluation

    @classmethod
    def of(
        cls, first: Path, second: Path, settings: Mapping[str, Any] = NO_CHANGES, split: Split | None = None
    ) -> "Rivals":
        """Two run or policy directories, evaluated with dotted `eval.*` settings over those of their training.

        The split is that of the first where none is given. Raises `ComparisonError` where they could meet no episode in
        common; besides as `Evaluation.of`.
        """
        a = Evaluation.of(first, run_of(first), split, settings)
        b = Evaluation.of(second, run_of(second), a.job.split, settings)
        if a.task.name != b.task.name:
            raise ComparisonError(f"{first} is a policy for {a.task.name} and {second} for {b.task.name}")
        _check_protocols((first, second), a.recipe.protocol, b.recipe.protocol)
        return cls(a, b)

    @property
    def both(self) -> tuple[Evaluation, Evaluation]:
        return self.first, self.second

    @property
    def task(self) -> SimulatedTask:
        return self.first.task

    @property
    def same(self) -> bool:
        """Whether they are one policy, and so share every row."""
        return self.first.policy.digest == self.second.policy.digest

    def recorded(self) -> list[pa.Table]:
        """The rows that each one's run holds already, of the episodes that both do."""
        tables = [one.recorded() for one in self.both]
        shared = np.intersect1d(*(table.column("index").to_numpy() for table in tables))
        return [table.filter(np.isin(table.column("index").to_numpy(), shared)) for table in tables]

    def compare(
        self,
        episodes: int,
        *,
        until_decided: bool = False,
        shape: PoolShape = USUAL,
        progress: Progress | None = None,
    ) -> PolicyComparison:
        """Compare episodes 0..episodes-1; those that the runs hold are not run again, the others are recorded there.

        `until_decided` runs both policies in rounds and stops at the first that decides, after `episodes` at most. It
        looks at episodes in the order of their index, so the answer is the same whatever was recorded before. Raises as
        `evaluate_all` does.
        """
        rounds = looks(episodes) if until_decided else [episodes]
        with LazyPool(shape) as pool:
            for n in rounds:
                tables = evaluate_all(self.both, n, pool, progress=progress).tables
                found = compare_episodes(self.task, *tables, anytime=until_decided)
                if n == rounds[-1] or found.better is not Better.UNDECIDED:
                    return found
        raise AssertionError("there is at least one round")


def _check_protocols(paths: tuple[Path, Path], first: Protocol, second: Protocol) -> None:
    """Raises `ComparisonError` for protocols that differ, with the first thing that does."""
    mine, yours = first.model_dump(mode="json"), second.model_dump(mode="json")
    for name, value in mine.items():
        if value != yours[name]:
            raise ComparisonError(
                f"{paths[0]} and {paths[1]} are evaluated differently: {name} {value} and {yours[name]}; "
                "give settings that hold for both (eval.window=..., eval.hold_bins=..., eval.bins=..., eval.start=...)"
            )
