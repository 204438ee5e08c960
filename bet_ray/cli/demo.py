"""`bet-ray demo`: the main job on an embedded default, in a few minutes on two cores."""

from pathlib import Path
from typing import Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import console, resumable, run_directory, to_resume
from bet_ray.cli.leaderboard import live_leaderboard, print_result

EXAMPLES = "Example: `bet-ray demo --out runs/demo`"


def demo(
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/demo-DATE-TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted demo in --out.")] = False,
) -> None:
    """Demonstrate point mass 2 three ways, sweep bins x window x gamma, measure the winner, write a report."""
    from bet.data.store import save_episodes
    from bet.envs.pointmass import PointMassVersion
    from bet.oracles.pointmass import demonstrations
    from bet_ray.demo import DEMONSTRATIONS, demo_sweep, facts
    from bet_ray.report import write_report
    from bet_ray.tuning import run_sweep

    run = run_directory(out, "demo", resume)
    data = run.with_name(f"{run.name}-demonstrations.parquet")
    save_episodes(demonstrations(PointMassVersion.TWO, DEMONSTRATIONS, seed=0), data)
    console.print(f"{counted(DEMONSTRATIONS, 'demonstration')} in {data}")
    sweep = demo_sweep(data)
    with resumable(f"{run} keeps what is done", *to_resume(run, out, resume)), live_leaderboard(sweep) as news:
        result = run_sweep(sweep, run, resume=resume, on_trials=news)
    print_result(sweep, result)
    console.print("\nThree things to notice")
    for fact in facts(sweep, result):
        console.print(f"  · {fact}")
    console.print(f"\nepisodes, trials and history as parquet: {run}")
    console.print(f"report: {write_report(run)}")
