"""`bet-ray data download`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from bet_ray.cli.console import board, console, errors

EXAMPLES = "Examples: `bet-ray data download` · `bet-ray data download pusht` · `... lerobot/pusht --out data`"


def download(
    name: Annotated[str | None, typer.Argument(help="Data set. Without: a list of them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Data folder. Default: BET_DATA_DIR, else data.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Download again and replace what is there.")] = False,
) -> None:
    """Fetch published demonstrations: checked, resumable, opened once before they are used."""
    from bet import tasks
    from bet.data import download as downloads

    if name is None:
        console.print(_list())
        console.print("next: bet-ray data download NAME")
        return
    source = downloads.source(name)
    root = out or tasks.data_root()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        lines = {remote.path: bar.add_task(remote.path, total=None, start=False) for remote in source.files}

        def show(path: str, done: int, total: int | None) -> None:
            if not bar.tasks[lines[path]].started:
                bar.reset(lines[path], total=total, completed=done)  # the speed is of what comes, not of what was there
            bar.update(lines[path], completed=done, total=total)

        found = downloads.download(source, root, force=force, progress=show)
    state = "" if found.fresh else "there already, unchanged since its download: "
    console.print(f"{state}{source.summary}, in {found.path}")
    console.print(f"licence: {source.licence} · {source.homepage}")
    for remote in source.files:
        origin = "as published" if remote.sha256 else f"recorded in {root / downloads.DOWNLOADS_JSON}"
        console.print(f"sha256 {found.digests[remote.url]}  {remote.path} ({origin})")
    for task, place in source.tasks.items():
        if task in tasks.TASKS:  # others are here to be converted
            console.print(f"next: bet-ray data info {found.path / place}")


def _list() -> Table:
    from bet.data.download import SOURCES

    table = board()
    for column in ("name", "what", "tasks", "licence"):
        table.add_column(column, no_wrap=column == "name")
    for source in SOURCES.values():
        table.add_row(source.name, source.summary, ", ".join(source.tasks), source.licence)
    return table
