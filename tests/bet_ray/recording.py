"""Putting episodes on record as an evaluation does, without Ray around it."""

from collections.abc import Sequence
from pathlib import Path

from bet import tasks
from bet.config import Split
from bet.policy import Policy
from bet.rollout import EpisodeResult, rollout
from bet_ray.evaluation import recipe_of
from bet_ray.ledger import Ledger
from bet_ray.results import EXECUTION, EpisodeSource, episodes_table, trajectories_table


def roll_out(policy: Policy, episodes: int) -> list[EpisodeResult]:
    """The first `report` episodes, by index."""
    results = rollout(policy, recipe_of(policy), Split.REPORT, range(episodes), slots=4)
    return sorted(results, key=lambda one: one.index)


def record(run: Path, policy: Policy, results: Sequence[EpisodeResult], kept: Sequence[EpisodeResult] = ()) -> None:
    """Puts results of `roll_out` on disk, and the steps of some of them."""
    task = tasks.simulated(policy.config.task)
    source = EpisodeSource.of(policy, recipe_of(policy).protocol, Split.REPORT)
    steps = trajectories_table(task, source, kept, policy.bin_centers)
    Ledger(run, task).append(episodes_table(task, source, results), EXECUTION.empty_table(), steps)
