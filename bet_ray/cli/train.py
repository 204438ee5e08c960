"""`bet-ray train`."""

from pathlib import Path
from typing import Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import (
    TENSORBOARD_HELP,
    WANDB_HELP,
    console,
    errors,
    progress_bar,
    resumable,
    run_directory,
    to_resume,
    track_shorthand,
)

EXAMPLES = (
    "Examples: `bet-ray train pusht bins=64 window=10 train.epochs=20 --out runs/a` · `... --num-workers 4` · "
    "`... --resume` · `bet-ray train task.env=my_pkg:MyEnv-v0 data.path=demos.parquet`"
)


def train(
    task: Annotated[
        str, typer.Argument(help="A task of ours, such as pusht, or a gymnasium id: [task.env=]my_pkg:MyEnv-v0.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, for example bins=64 loss.gamma=2.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TASK-DATE-TIME.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; key=value wins over it.")] = None,
    num_workers: Annotated[
        str, typer.Option(help="Ray Train workers that share every batch: 2, or 2-4 as there is room. 1: no Ray.")
    ] = "1",
    use_gpu: Annotated[bool, typer.Option("--use-gpu", help="Train on CUDA, a device for each worker.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training in --out.")] = False,
    keep_epochs: Annotated[
        bool, typer.Option("--keep-epochs", help="Keep the policy of every epoch, for `bet-ray eval RUN --each`.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Train one policy on a task's demonstrations."""
    from bet import tasks
    from bet.config import ConfigError, flatten, load_yaml, make_config, parse_overrides, task_named
    from bet.policy import Policy
    from bet.training import Epoch
    from bet_ray import training
    from bet_ray.tracking import Kind, epoch_numbers, tracking

    task = task_named(task)
    found = tasks.get(task)
    workers = training.WorkerCount.parse(num_workers)
    layers = [flatten(load_yaml(config))] if config else []
    device = {"train.device": "cuda"} if use_gpu else {}
    overrides = parse_overrides([*track_shorthand(wandb, tensorboard), *(settings or [])])
    resolved = make_config(task, *layers, device, overrides)
    if use_gpu and not resolved.train.device.startswith("cuda"):
        raise ConfigError(f"--use-gpu does not go with train.device={resolved.train.device}")
    run = run_directory(out, task, resume)
    episodes = found.load(resolved.data)
    training.begin(run, resolved, episodes, resume)
    console.print(
        f"{counted(len(episodes), 'demonstration')}, {counted(len(episodes.observations), 'step')}, into {run}"
    )
    kept = f"{run} keeps the training up to its last checkpoint"
    what = resolved.model_dump(mode="json")
    with (
        resumable(kept, *to_resume(run, out, resume)),
        tracking(resolved.track, run, Kind.TRAIN, what) as tracker,
        progress_bar() as bar,
    ):
        line = bar.add_task("training", total=resolved.train.epochs)

        def show(done: float, epoch: Epoch | None) -> None:
            bar.update(line, completed=done)
            if epoch is None:
                return
            tracker.log(epoch.epoch, epoch_numbers(epoch))
            losses = f"training loss {epoch.train_loss:.4g}, validation loss {epoch.val_loss:.4g}"
            if errors.is_terminal:
                bar.update(line, description=f"epoch {epoch.epoch}: {losses}")
            else:
                errors.print(f"epoch {epoch.epoch} of {resolved.train.epochs}: {losses}")

        if workers.most == 1:
            best = training.train(run, resolved, episodes, show, keep_epochs=keep_epochs)
        else:
            from bet_ray.distributed import train_on_workers

            best = train_on_workers(run, resolved, episodes, workers, use_gpu, show, keep_epochs=keep_epochs)
        tracker.summary({"best_epoch": best.epoch, **epoch_numbers(best)})
    console.print(
        f"best epoch {best.epoch} of {resolved.train.epochs}: validation loss {best.val_loss:.4g} "
        f"(focal {best.val_focal:.4g}, bin accuracy {best.val_accuracy:.0%})"
    )
    console.print(f"policy {Policy.load(run).digest[:12]} in {run}")
    if isinstance(found, tasks.SimulatedTask):
        console.print(f"next: bet-ray eval {run} --episodes 200")
