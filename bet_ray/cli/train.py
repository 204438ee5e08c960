"""`bet-ray train`."""

from pathlib import Path
from typing import Annotated

import typer

from bet_ray.cli.console import console, default_run, progress_bar

EXAMPLES = "Examples: `bet-ray train pusht bins=64 window=10 train.epochs=20 --out runs/a`"


def train(
    task: Annotated[str, typer.Argument(help="Task: pusht, pointmass1 or pointmass2.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, for example bins=64 loss.gamma=2.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TASK-DATE-TIME.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; key=value wins over it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training in --out.")] = False,
) -> None:
    """Train one policy on a task's demonstrations."""
    from bet import tasks
    from bet.config import ConfigError, flatten, load_yaml, make_config, parse_overrides
    from bet.training import Epoch, Training
    from bet_ray import training
    from bet_ray.manifest import write_manifest

    tasks.get(task)
    layers = [flatten(load_yaml(config))] if config else []
    resolved = make_config(task, *layers, parse_overrides(settings or []))
    run = out or default_run(task)
    if run.exists() and any(run.iterdir()) and not resume:
        raise ConfigError(f"{run}: not empty; continue it with --resume or choose another --out")
    episodes = tasks.get(task).load(resolved.data)
    write_manifest(run, "train", task, {"config": resolved.model_dump(mode="json"), "dataset_digest": episodes.digest})
    with progress_bar() as bar:
        line = bar.add_task("training", total=None)

        def show(state: Training, epoch: Epoch | None) -> None:
            total = state.steps_per_epoch * resolved.train.epochs
            bar.update(line, completed=state.steps_done, total=total)
            if epoch is not None:
                bar.update(line, description=f"epoch {epoch.epoch}, validation loss {epoch.val_loss:.4g}")

        policy, best = training.train(run, resolved, episodes, show)
    console.print(f"{len(episodes)} demonstrations, {len(episodes.observations):,} steps")
    console.print(
        f"best epoch {best.epoch} of {resolved.train.epochs}: validation loss {best.val_loss:.4g} "
        f"(focal {best.val_focal:.4g}, bin accuracy {best.val_accuracy:.0%})"
    )
    console.print(f"policy {policy.digest[:12]} in {run}")
    console.print(f"next: bet-ray eval {run} --episodes 200")
