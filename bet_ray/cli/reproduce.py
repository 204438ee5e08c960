"""`bet-ray reproduce`."""

import json
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted, duration
from bet_ray.cli.console import board, console, errors, progress_bar, resumable, run_directory, to_resume
from bet_ray.cli.leaderboard import live_leaderboard

if TYPE_CHECKING:
    from bet_ray.reproduce import Planned, Reproduced

EXAMPLES = (
    "Examples: `bet-ray reproduce --list` · `bet-ray reproduce blockpush-bins --budget 2h --out runs/bins` · "
    "`... --resume` · `bet-ray reproduce pusht-main train.epochs=10 seeds_per_trial=1 eval.winner_episodes=300`"
)

LONG = 2 * 3600.0  # seconds


def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="[EXPERIMENT]", help="One of --list.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes as key=value; train.epochs, seeds_per_trial and eval.winner_episodes pin its size."
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the experiments, and run none.")] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time it may take, 90s, 30m or 2h: scales epochs, episodes and seeds. Default: as published."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/EXPERIMENT-DATE-TIME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out as it was planned; a sweep of the same, too.")
    ] = False,
) -> None:
    """Run a published experiment, whole or in a given time, and print ours beside what was published."""
    from bet.errors import UsageError
    from bet_ray.budget import parse_budget
    from bet_ray.experiments import EXPERIMENTS, experiment_named

    if listed:
        _print_list()
        return
    if name is None:
        raise UsageError(f"which experiment? --list shows all {len(EXPERIMENTS)}")
    experiment = experiment_named(name)
    seconds = parse_budget(budget) if budget else None

    from bet_ray.report import write_report
    from bet_ray.reproduce import measure_all, prepare, search_over
    from bet_ray.results import REPRODUCTION_PARQUET
    from bet_ray.session import session
    from bet_ray.tuning import run_sweep

    run = run_directory(out, name, resume)
    kept = f"{run} keeps its trainings up to their last checkpoints, and every finished episode"
    with resumable(kept, *to_resume(run, out, resume)), ExitStack() as ray:
        if not search_over(run):
            ray.enter_context(session())
        with progress_bar() as bar:
            line = bar.add_task("measuring this machine: settings", total=None)
            planned = prepare(
                experiment,
                run,
                changes=settings or [],
                budget=seconds,
                resume=resume,
                probing=lambda done, count: bar.update(line, completed=done, total=count),
            )
        size = f"{counted(planned.sweep.trial_count, 'setting')}, {_size(planned)}"
        console.print(f"{name}: {size} · {planned.label}")
        if planned.seconds is not None:
            console.print(f"expected to take {duration(planned.seconds)} here, into {run}")
            if seconds is None and planned.seconds > LONG:
                errors.print("--budget 2h makes of it what fits into two hours")
        else:
            console.print(f"goes on as it was planned, in {run}")
        if not search_over(run):
            with live_leaderboard(planned.sweep) as news:
                run_sweep(planned.sweep, run, resume=resume, on_trials=news)
        with progress_bar() as bar:
            line = bar.add_task("report episodes", total=None)
            found = measure_all(
                planned, run, lambda done, total, before: bar.update(line, completed=done, total=total, before=before)
            )
    print_reproduced(planned, found)
    console.print(f"again: {_command(planned)}", soft_wrap=True)
    console.print(f"report: {write_report(run)} · table: {run / REPRODUCTION_PARQUET}", soft_wrap=True)


def print_reproduced(planned: "Planned", found: "Sequence[Reproduced]") -> None:
    """A row for each setting: ours with intervals beside what was published, then whose numbers those are."""
    from bet import tasks
    from bet_ray.published import By

    task, experiment = tasks.simulated(planned.sweep.task), planned.experiment
    table = board(experiment.question)
    for head in ("setting", "metric", "ours", *By):
        table.add_column(str(head), justify="left" if head in ("setting", "metric") else "right", overflow="fold")
    sources: dict[By, dict[str, None]] = {by: {} for by in By}
    for row in found:
        cited = experiment.cited(planned.sweep, row.trial.setting)
        numbers = row.metrics(task)
        shown = [name for name in numbers if name not in task.rates or task.rates[name].published]
        columns = []
        for by in By:
            beside = [cited.get((by, name)) for name in shown]
            sources[by] |= dict.fromkeys(one.source for one in beside if one)
            columns.append("\n".join("" if one is None else f"{one.value:.2f}" for one in beside))
        ours = "\n".join(f"{numbers[name]:.2f}" for name in shown) or f"[red]{row.trial.error or 'no result'}[/]"
        table.add_row(experiment.told(planned.sweep, row.trial.setting), "\n".join(shown), ours, *columns)
        table.add_section()
    console.print(table)
    console.print(f"[bold]{planned.label}[/]")
    console.print(
        f"ours: {_size(planned)}, {counted(planned.demonstrations, 'demonstration')}; report episodes after the last "
        f"epoch, each interval at 95%, of {'one training' if planned.sweep.seeds_per_trial == 1 else 'the setting'}"
    )
    for by, named in sources.items():
        if named:
            console.print(f"{by}: {'; '.join(named)}", markup=False)
    console.print(f"published: {experiment.note}", markup=False)


def _size(planned: "Planned") -> str:
    sweep = planned.sweep
    amounts = (
        (sweep.config({}).train.epochs, "epoch"),
        (sweep.seeds_per_trial, "seed"),
        (sweep.eval.winner_episodes, "episode"),
    )
    return ", ".join(counted(number, what) for number, what in amounts)


def _command(planned: "Planned") -> str:
    """What runs the same again, on any machine: its size and its recipe spelled out."""
    sweep = planned.sweep
    settings = {
        "seeds_per_trial": sweep.seeds_per_trial,
        "eval.winner_episodes": sweep.eval.winner_episodes,
        "eval.episodes": sweep.eval.episodes,
        **sweep.base,
    }
    words = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items())
    return shlex.join(["bet-ray", "reproduce", planned.experiment.name, *words])


def _print_list() -> None:
    from bet_ray.experiments import EXPERIMENTS

    table = board()
    for head in ("experiment", "settings", "as published", "question"):
        table.add_column(head, overflow="fold")
    for one in EXPERIMENTS.values():
        table.add_row(one.name, str(one.published.trial_count), str(one.published_size), one.question)
    console.print(table)
    needs: dict[str, str] = {one.task: one.setup.needs for one in EXPERIMENTS.values()}
    for task, what in needs.items():
        console.print(f"{task} needs: {what}", soft_wrap=True)
