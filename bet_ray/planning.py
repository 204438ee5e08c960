"""What recorded episodes tell about how many more are needed, and how fast they run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bet.config import Split
from bet_ray.comparison import Rivals, compare_episodes
from bet_ray.evaluation import Evaluation, run_of
from bet_ray.manifest import EVALUATIONS, MANIFEST, RunError, read_manifest


@dataclass(frozen=True)
class Known:
    """What one or two runs hold."""

    episodes: int
    rate: float
    """Success rate of the first."""
    discordant: float | None
    """Share of episodes in which just one of two policies succeeds; None of one run."""
    metric: str | None
    """Name of the primary metric where it is a mean of scores other than success."""
    deviation: float
    """Standard deviation of the difference of two scores in an episode; of one run, as if the other's had nothing to do
    with them."""
    per_second: float | None
    """Episodes per second of the last evaluation, where the run's manifest has one."""


def known(runs: Sequence[Path], split: Split = Split.REPORT) -> Known:
    """What the recorded episodes of one run, or those that two runs share, tell. Raises `RunError` without any."""
    one = Evaluation.of(runs[0], run_of(runs[0]), split)
    task = one.task
    if len(runs) == 1:
        table = one.recorded()
        gaps, discordant = np.sqrt(2) * table.column("primary").to_numpy(), None
    else:
        table, other = Rivals.of(runs[0], runs[1], split=split).recorded()
        gaps = table.column("primary").to_numpy() - other.column("primary").to_numpy()
        discordant = compare_episodes(task, table, other).discordant if len(table) else None
    if not len(table):
        what = "no episodes of its policy" if len(runs) == 1 else f"no episodes that {runs[1]} holds too"
        raise RunError(f"{runs[0]}: holds {what} on {split.value}; run `bet-ray eval` first, or give no run and --rate")
    return Known(
        episodes=len(table),
        rate=float(np.mean(table.column("success").to_numpy(zero_copy_only=False))),
        discordant=discordant,
        metric=task.protocol.primary if task.scored else None,
        deviation=float(gaps.std()),
        per_second=_rate_of(run_of(runs[0])),
    )


def _rate_of(run: Path) -> float | None:
    if not (run / MANIFEST).exists():
        return None
    evaluations = read_manifest(run).get(EVALUATIONS, [])
    return evaluations[-1]["episodes_per_second"] if evaluations else None
