"""`bet-ray sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from bet_ray.cli.console import (
    TENSORBOARD_HELP,
    WANDB_HELP,
    console,
    resumable,
    run_directory,
    to_resume,
    track_shorthand,
)
from bet_ray.cli.leaderboard import live_leaderboard, print_result

EXAMPLES = (
    "Examples: `bet-ray sweep sweeps/pusht_small.yaml --out runs/s` · `... search=random trials=4` · `... --resume`"
)


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Changes as key=value: eval.episodes=32, train.epochs=5.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/FILE-DATE-TIME.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Settings to try, in place of the file's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted sweep in --out.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Search settings, judge each by simulation, measure the winner on fresh episodes, write a report."""
    from bet_ray.report import write_report
    from bet_ray.sweep import load_sweep
    from bet_ray.tuning import run_sweep

    changes = [*track_shorthand(wandb, tensorboard), *(settings or []), *([f"trials={trials}"] if trials else [])]
    asked = load_sweep(file, changes)
    run = run_directory(out, file.stem, resume)
    kept = f"{run} keeps its trainings up to their last checkpoints, and every finished episode"
    with resumable(kept, *to_resume(run, out, resume)), live_leaderboard(asked) as news:
        result = run_sweep(asked, run, resume=resume, on_trials=news)
    print_result(asked, result)
    console.print(f"report: {write_report(run)}")
