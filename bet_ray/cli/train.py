"""`bet-ray train`."""

from pathlib import Path
from typing import Annotated

import typer

from bet_ray.cli.console import (
    TENSORBOARD_HELP,
    WANDB_HELP,
    console,
    progress_bar,
    run_directory,
    track_shorthand,
)

EXAMPLES = "Examples: `bet-ray train pusht bins=64 window=10 train.epochs=20 --out runs/a`"


def train(
    task: Annotated[str, typer.Argument(help="Task: pusht, pointmass1 or pointmass2.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, for example bins=64 loss.gamma=2.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TASK-DATE-TIME.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; key=value wins over it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training in --out.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Train one policy on a task's demonstrations."""
    from bet import tasks
    from bet.config import flatten, load_yaml, make_config, parse_overrides
    from bet.training import Epoch, Training
    from bet_ray import training
    from bet_ray.tracking import Kind, epoch_numbers, tracking

    tasks.get(task)
    layers = [flatten(load_yaml(config))] if config else []
    resolved = make_config(task, *layers, parse_overrides([*track_shorthand(wandb, tensorboard), *(settings or [])]))
    run = run_directory(out, task, resume)
    episodes = tasks.get(task).load(resolved.data)
    training.begin(run, resolved, episodes, resume)
    what = resolved.model_dump(mode="json")
    with tracking(resolved.track, run, Kind.TRAIN, what) as tracker, progress_bar() as bar:
        line = bar.add_task("training", total=None)

        def show(state: Training, epoch: Epoch | None) -> None:
            total = state.steps_per_epoch * resolved.train.epochs
            bar.update(line, completed=state.steps_done, total=total)
            if epoch is not None:
                bar.update(line, description=f"epoch {epoch.epoch}, validation loss {epoch.val_loss:.4g}")
                tracker.log(epoch.epoch, epoch_numbers(epoch))

        policy, best = training.train(run, resolved, episodes, show)
        tracker.summary({"best_epoch": best.epoch, **epoch_numbers(best)})
    console.print(f"{len(episodes)} demonstrations, {len(episodes.observations):,} steps")
    console.print(
        f"best epoch {best.epoch} of {resolved.train.epochs}: validation loss {best.val_loss:.4g} "
        f"(focal {best.val_focal:.4g}, bin accuracy {best.val_accuracy:.0%})"
    )
    console.print(f"policy {policy.digest[:12]} in {run}")
    console.print(f"next: bet-ray eval {run} --episodes 200")
