"""Trunk x option: what each trains to on a task. `python -m benchmarks.trunks [--task pusht] [--epochs 4]`

Everything but trunk and option is the same: the demonstrations, their split, the seed, the size of the trunk. Losses
compare along a row where bins and gamma are equal; across columns the score does, the mean primary metric of rollouts.
An MLP's validation loss counts the last position of a window alone, which is the one it acts on.
"""

import argparse
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bet import tasks
from bet.config import Config, Split, Trunk, make_config, parse_overrides
from bet.rollout import rollout
from bet.training import Training

SIZE = ("model.layers=4", "model.heads=4", "model.width=72", "bins=24", "window=5", "loss.offset_scale=100")
RECIPE = ("train.batch_size=256", "train.lr=1e-3", "train.schedule=cosine", "train.warmup_steps=50", "train.ema=0.99")
OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"default": (), **{option: (option,) for option in ("offsets=false", "gamma=0", "bins=1", "window=1")}}
)


def trained(config: Config) -> Training:
    """A finished training."""
    training = Training(config, tasks.get(config.task).load(config.data))
    while not training.done:
        training.step()
    return training


def score(training: Training, episodes: int) -> float:
    """Mean primary metric of rollouts on `tune`."""
    policy = training.policy()
    recipe = tasks.simulated(policy.config.task).recipe(policy.config.eval, policy.config.data)
    return float(np.mean([result.primary for result in rollout(policy, recipe, Split.TUNE, range(episodes), 32)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--task", default="pusht")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=64, help="rollouts of each policy (default: 64)")
    parser.add_argument("settings", nargs="*", help="key=value over the recipe")
    given = parser.parse_args()
    console = Console(width=110, highlight=False)
    table = Table("trunk", "option", "val loss", "focal", "offset", "accuracy", "score", "s")
    for place, column in enumerate(table.columns):
        column.no_wrap = True
        column.justify = "left" if place < 2 else "right"
    with console.status("") as status:
        for trunk in Trunk:
            for name, option in OPTIONS.items():
                status.update(f"{trunk.value}, {name}")
                fixed: dict[str, Any] = {"train.epochs": given.epochs, "model.trunk": trunk.value}
                config = make_config(given.task, fixed, parse_overrides([*SIZE, *RECIPE, *given.settings, *option]))
                began = time.perf_counter()
                training = trained(config)
                seconds = time.perf_counter() - began
                last = training.history[-1]
                numbers = (last.val_loss, last.val_focal, last.val_offset)
                found = f"{score(training, given.episodes):.3f}"
                table.add_row(
                    trunk.value,
                    name,
                    *(f"{n:.4f}" for n in numbers),
                    f"{last.val_accuracy:.0%}",
                    found,
                    f"{seconds:.0f}",
                )
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
