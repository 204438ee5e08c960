"""What all commands print with."""

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from bet.errors import UsageError
from bet_ray.storage import is_location, local, named

if TYPE_CHECKING:
    from bet.config import Split

WANDB_HELP = "Weights & Biases, offline below the run directory: short for track.wandb=offline."
TENSORBOARD_HELP = "TensorBoard event files: short for track.tensorboard=true."
SLOW = 2.0  # seconds without a progress bar
PIPE_WIDTH = 110  # columns of a table where there is no terminal to ask


class _Console(Console):
    """Speaks of runs by their locations."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(named(each) if isinstance(each, str) else each for each in objects), **how)


console = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = _Console(stderr=True, highlight=False, soft_wrap=True)


class Interrupted(Exception):
    """Ctrl-C; the message says what is kept and how to go on."""


def located(word: str) -> str:
    """A word of a command, with the working copy in place of the location of a run, also in --option=LOCATION."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{local(value)}" if is_location(value) else word


@contextmanager
def resumable(kept: str, *missing: str) -> Iterator[None]:
    """Makes Ctrl-C `Interrupted`, with the command that continues: the one typed and what it lacks for that."""
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["bet-ray", *sys.argv[1:], *missing])
        raise Interrupted(f"interrupted: {kept}; continue with: {command}") from None


class _Rate(ProgressColumn):
    """Units per second since the start, not counting what was there before."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields.get("before", 0)
        rate = done / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.1f}/s" if rate else "  -  ")


@contextmanager
def progress_bar(delay: float = 0.0) -> Iterator[Progress]:
    """A bar with count, rate and time left, on stderr; silent where that is not a terminal, or for `delay` seconds."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
    appear = Timer(delay, bar.start)
    appear.start()
    try:
        yield bar
    finally:
        appear.cancel()
        appear.join()
        bar.stop()


def board(title: str | None = None, title_style: str | None = None) -> Table:
    """A table as all commands print them: a rule below the heads, nothing else."""
    return Table(
        title=title,
        title_justify="left",
        title_style=title_style,
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def track_shorthand(wandb: bool, tensorboard: bool) -> list[str]:
    """What the flags --wandb and --tensorboard are short for."""
    return [*(["track.wandb=offline"] if wandb else []), *(["track.tensorboard=true"] if tensorboard else [])]


def split_named(name: str) -> "Split":
    """What --split says. Raises `ConfigError` with a did-you-mean."""
    from bet.config import ConfigError, Split, did_you_mean

    if name not in list(Split):
        raise ConfigError(f"--split: no split {name!r}{did_you_mean(name, list(Split))}")
    return Split(name)


def run_directory(out: Path | None, name: str, resume: bool) -> Path:
    """Where a run goes: --out, else runs/NAME-DATE-TIME. Raises `UsageError` for a resume that does not say of what."""
    if out is None and resume:
        raise UsageError("--resume needs --out, the run directory to continue")
    name = re.sub("[:/]", "-", name)  # of a gymnasium id
    return out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def to_resume(run: Path, out: Path | None, resume: bool) -> tuple[str, ...]:
    """What a command with --out and --resume lacks to continue its run."""
    return (*(() if out else ("--out", str(run))), *(() if resume else ("--resume",)))
