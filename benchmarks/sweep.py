"""What a trial costs beside its training, and what Ray Train would take to start one: `python -m benchmarks.sweep`.

A sweep of small trainings, one trial at a time, in one session: the time from the end of a trial to the beginning of
the next (Tune, the study, a warm process), and all of a trial that is not training (demonstrations, codebook, policy,
a few episodes, records). Beside it, in the same session, `TorchTrainer.fit` of a loop that does nothing.
"""

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.table import Table

from bet.data.store import save_episodes
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet_ray.cli.console import console
from bet_ray.session import session
from bet_ray.sweep import parse_sweep
from bet_ray.trials import TrialRecord
from bet_ray.tuning import run_sweep


def swept(folder: Path, trials: int) -> list[TrialRecord]:
    """The trials of a sweep, in the order they began."""
    save_episodes(demonstrations(PointMassVersion.TWO, 200, seed=0), folder / "demonstrations.parquet")
    tree = {
        "question": "What does a trial cost beside its training?",
        "task": "pointmass2",
        "base": {"data.path": str(folder / "demonstrations.parquet"), "train": {"epochs": 1, "lr": 3e-3}},
        "space": {"bins": list(range(2, 2 + trials))},
        "search": "grid",
        "eval": {"episodes": 8, "winner_episodes": 8, "finalists": 1},
        "resources": {"trials_at_once": 1},
    }
    found = run_sweep(parse_sweep(tree, "benchmark"), folder / "run").trials
    return sorted(found, key=lambda trial: trial.began.timestamp() if trial.began else 0.0)


def gaps(trials: list[TrialRecord]) -> list[float]:
    """Seconds from the end of each trial to the beginning of the next."""
    return [
        (after.began - before.ended).total_seconds()
        for before, after in pairwise(trials)
        if before.ended and after.began
    ]


def beside_training(trials: list[TrialRecord]) -> list[float]:
    """Seconds between the beginning and the end of each trial in which it did not train; the first one warms up."""
    return [
        (trial.ended - trial.began).total_seconds() - trial.train_seconds
        for trial in trials[1:]
        if trial.began and trial.ended
    ]


def fits(folder: Path, count: int) -> list[float]:
    """Seconds that each empty `TorchTrainer.fit` takes."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    seconds = []
    for number in range(count):
        began = time.perf_counter()
        TorchTrainer(
            lambda: None,
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name=f"fit{number}", storage_path=str(folder)),
        ).fit()
        seconds.append(time.perf_counter() - began)
    return seconds


def main(
    trials: Annotated[int, typer.Option(min=3, help="Trials of the sweep.")] = 12,
    repeats: Annotated[int, typer.Option(min=1, help="Empty fits of Ray Train.")] = 3,
) -> None:
    with tempfile.TemporaryDirectory() as text, session():
        folder = Path(text)
        records = swept(folder, trials)
        empty = fits(folder, repeats)
    table = Table("seconds", "median", "least", "most", box=None)
    for name, values in (
        ("from one trial to the next", gaps(records)),
        ("of a trial beside its training", beside_training(records)),
        ("empty TorchTrainer.fit", empty),
    ):
        table.add_row(name, *(f"{value:.2f}" for value in (median(values), min(values), max(values))))
    console.print(table)
    start = median(gaps(records))
    console.print(f"an empty fit takes {median(empty) / start:.0f} times what it takes to start a trial")


if __name__ == "__main__":
    typer.run(main)
