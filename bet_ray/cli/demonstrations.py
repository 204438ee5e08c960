"""Demonstrations as the commands of `bet-ray data` take them: by a task's name, or from a file or folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bet.data.episodes import Episodes

Demonstrations = Annotated[
    str, typer.Argument(help="A task's name, for the task's own demonstrations, or a file or folder.")
]


def load(demonstrations: str, observation: str | None) -> "Episodes":
    """Through a layout; None: the one of the file, or the task's first.

    Raises `ConfigError` for what is neither a task nor there, and `DataError`.
    """
    from bet import tasks
    from bet.config import ConfigError, DataConfig, did_you_mean, is_gymnasium_id
    from bet.data import formats

    path = Path(demonstrations)
    if demonstrations in tasks.TASKS or (is_gymnasium_id(demonstrations) and not path.exists() and not path.suffix):
        task = tasks.get(demonstrations)
        return task.load(DataConfig(observation=observation or task.layouts[0]))
    if not path.exists():
        hint = did_you_mean(demonstrations, tasks.TASKS)
        raise ConfigError(f"{demonstrations}: neither a task nor a file or folder{hint}")
    return formats.load(path, observation)


def format_of(episodes: "Episodes") -> str:
    """What they were read from."""
    from bet.data.formats import detect

    path = Path(episodes.source)
    return detect(path).value if path.exists() else "made on the spot"
