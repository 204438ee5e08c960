"""`bet-ray data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bet.wording import counted
from bet_ray.cli import convert, download
from bet_ray.cli.console import SLOW, board, console, progress_bar
from bet_ray.cli.demonstrations import Demonstrations, format_of, load

if TYPE_CHECKING:
    from bet.config import Config
    from bet.data.episodes import Episodes
    from bet.data.summary import Column
    from bet.tasks import Task

app = typer.Typer(help="Make, fetch and look at demonstrations.", no_args_is_help=True)
app.command(epilog=convert.EXAMPLES)(convert.convert)
app.command(epilog=download.EXAMPLES)(download.download)

Observation = Annotated[
    str | None, typer.Option(help="Observation layout, as in data.observation. Default: the one they are stored in.")
]


@app.command("list", epilog="Example: `bet-ray data list`")
def list_() -> None:
    """Where each task's demonstrations are looked for, what is there, and how to get them."""
    from bet import tasks
    from bet.config import make_config
    from bet.data.episodes import DataError

    table = board()
    for column in ("task", "looked for in", "episodes", "steps", "made by", "licence", "to get them"):
        number = column in ("episodes", "steps")
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for task in tasks.TASKS.values():
        if task.origin is None:
            continue
        path = task.origin.path
        try:
            episodes = task.load(make_config(task.name).data) if path is None or path.exists() else None
            counts = (f"{len(episodes):,}", f"{len(episodes.observations):,}") if episodes else ("absent", "")
        except DataError:
            counts = ("damaged", "")
        table.add_row(
            task.name,
            escape(str(path)) if path else "made on the spot",
            *counts,
            task.origin.source,
            task.origin.licence or "none needed",
            f"bet-ray data {task.origin.command}",
        )
    console.print(table)
    console.print(f"{tasks.DATA_DIR} is where they are looked for, now {escape(str(tasks.data_root()))}.")


@app.command(epilog="Examples: `bet-ray data info pusht` · `bet-ray data info my.parquet`")
def info(demonstrations: Demonstrations, observation: Observation = None) -> None:
    """Say what demonstrations hold."""
    from bet.data.summary import summarize
    from bet.metrics import route_name

    episodes = load(demonstrations, observation)
    task, config = _about(episodes, observation)
    layout = config.data.observation
    task.check(episodes, layout)
    found = summarize(episodes, task, config)
    shortest, mean, longest = found.lengths
    console.print(f"[bold]{task.name}[/]: {task.summary}")
    console.print(
        f"{counted(found.episodes, 'demonstration')}, {counted(found.steps, 'step')}, digest {episodes.digest[:12]}"
    )
    console.print(f"from {escape(episodes.source)} ({format_of(episodes)}), observation layout {layout}")
    console.print(
        f"lengths {shortest} to {longest}, mean {mean:.1f}; {counted(found.windows, 'window')} of {found.window}"
    )
    console.print(
        f"{counted(found.distinct_actions, 'distinct action')}; the preset has {counted(config.codebook.bins, 'bin')}"
    )
    same = "; ".join(" = ".join(map(str, group)) for group in found.duplicates)
    console.print(f"equal episodes: {same or 'none'}")
    for route, taken in found.routes.items():
        share, published = taken / found.episodes, task.modes[route]
        console.print(
            f"route: {route_name(route)}, {counted(taken, 'episode')}, {share:.3f} (published {published:.3f})"
        )
    for title, columns in (("observations", found.observations), ("actions", found.actions)):
        console.print(_ranges(title, columns))


@app.command(epilog="Examples: `bet-ray data validate pusht` · `bet-ray data validate my.parquet && bet-ray train ...`")
def validate(
    demonstrations: Demonstrations,
    observation: Observation = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings as well.")] = False,
) -> None:
    """Check demonstrations and print all that is wrong or odd.

    Exit code 0 when training can go ahead (there may be warnings), 1 when there are errors, 2 when nothing can be
    opened.
    """
    from bet.data.validate import Severity, opened, problems

    episodes, found = opened(lambda: load(demonstrations, observation))
    if episodes is not None:
        task, config = _about(episodes, observation)
        found += problems(episodes, task, config.data.observation)
    for problem in found:
        colour = "red" if problem.severity is Severity.ERROR else "yellow"
        console.print(f"[{colour}]{problem.severity.value}:[/] {escape(problem.text)}")
    errors = sum(problem.severity is Severity.ERROR for problem in found)
    what = f"{_size(episodes)}: " if episodes else ""
    console.print(f"{what}{counted(errors, 'error')}, {counted(len(found) - errors, 'warning')}")
    if errors or (strict and found):
        raise typer.Exit(1)


@app.command(epilog="Example: `bet-ray data show pusht --episodes 0,5,17 --out show/`")
def show(
    demonstrations: Demonstrations,
    observation: Observation = None,
    episodes: Annotated[
        str | None, typer.Option(help="Episodes to look at closely, for example 0,5,17. Default: six, evenly spread.")
    ] = None,
    bins: Annotated[int | None, typer.Option(min=1, help="Bins of the codebook. Default: the preset's.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the video.")] = Path("show"),
) -> None:
    """Write a page with a video: what the demonstrations look like, and how bins would cut their actions."""
    from bet_ray import show as pages

    wanted = None if episodes is None else _numbers(episodes)
    loaded = load(demonstrations, observation)
    task, config = _about(loaded, observation, bins)
    with progress_bar(SLOW) as bar:
        line = bar.add_task("frames", total=None)
        shown = pages.show(
            loaded,
            task,
            config,
            out,
            wanted=wanted,
            named=demonstrations,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    console.print(f"page: {shown.page}")
    console.print(f"video: {shown.video}" if shown.video else f"no video: {shown.no_video}")


@app.command(epilog="Examples: `bet-ray data generate blockpush --episodes 500` · `bet-ray data generate pointmass2`")
def generate(
    task: Annotated[str, typer.Argument(help="blockpush, kitchen, pointmass1 or pointmass2.")],
    episodes: Annotated[
        int,
        typer.Option(
            min=2,
            help="How many; published: 1,000 of blockpush, 566 (by people) of the kitchen, 20,000 of a point mass.",
        ),
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of first states, orders, routes and noise.")] = 0,
    noise: Annotated[
        float | None, typer.Option(min=0, help="Point masses: standard deviation of the noise on each point. [0.1]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Simulated ones: how many make them at once; the same ones. [one per CPU]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file. Default: data/TASK.parquet.")] = None,
) -> None:
    """Let a scripted demonstrator make a data set."""
    from bet.config import ConfigError, did_you_mean
    from bet.data.store import save_episodes
    from bet.envs.pointmass import PointMassVersion
    from bet.oracles.simulated import MAKERS

    known = [*MAKERS, *PointMassVersion]
    if task not in known:
        raise ConfigError(f"no demonstrator for {task!r}{did_you_mean(task, known)}")
    other, given = ("--noise", noise) if task in MAKERS else ("--workers", workers)
    if given is not None:
        raise ConfigError(f"{other} does not go with {task}")
    path = out or Path("data") / f"{task}.parquet"
    if path.exists():
        raise ConfigError(f"{path}: is there already; remove it, or choose another --out")
    with progress_bar(SLOW) as bar:
        line = bar.add_task("demonstrations", total=episodes)

        def show(done: int) -> None:
            bar.update(line, completed=done)

        if task in MAKERS:
            from bet_ray.generation import simulated_demonstrations

            made, succeeded = simulated_demonstrations(task, episodes, seed, workers, show)
        else:
            from bet.oracles.pointmass import demonstrations

            made = demonstrations(PointMassVersion(task), episodes, seed, 0.1 if noise is None else noise, show)
            succeeded = len(made)
        save_episodes(made, path)
    failed = f", {counted(len(made) - succeeded, 'of them fails', 'of them fail')}" if succeeded < len(made) else ""
    console.print(f"{_size(made)}{failed}, digest {made.digest[:12]} in {path}")
    console.print(f"next: bet-ray train {task} data.path={path}")


def _about(episodes: "Episodes", observation: str | None, bins: int | None = None) -> "tuple[Task, Config]":
    """The task of demonstrations, and its settings with what the command line says."""
    from bet import tasks
    from bet.config import make_config

    task = tasks.get(episodes.task)
    settings: dict[str, str | int] = {"data.observation": observation or task.layout_of(episodes)}
    if bins is not None:
        settings["codebook.bins"] = bins
    return task, make_config(task.name, settings)


def _numbers(text: str) -> list[int]:
    from bet.config import ConfigError

    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--episodes: expected numbers with commas between them, got {text!r}") from None


def _size(episodes: "Episodes") -> str:
    return f"{counted(len(episodes), 'demonstration')}, {counted(len(episodes.observations), 'step')}"


def _ranges(title: str, columns: "tuple[Column, ...]") -> Table:
    table = board(title, "bold")
    table.add_column("column")
    for name in ("min", "mean", "max", "std"):
        table.add_column(name, justify="right")
    table.add_column("")
    for column in columns:
        numbers = (f"{number:.4g}" for number in (column.low, column.mean, column.high, column.std))
        table.add_row(column.name, *numbers, "constant" if column.constant else "")
    return table
