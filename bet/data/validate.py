"""Checks of demonstrations, beyond what `Episodes` refuses: all that is wrong or odd, not only the first."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from bet.config import make_config
from bet.data.episodes import Episodes, FaultyEpisodesError
from bet.data.summary import columns, duplicates, routes_taken
from bet.metrics import NO_ROUTE
from bet.tasks import Task
from bet.wording import counted

NAMED = 2  # columns of one constant value; the others are counted


class Severity(StrEnum):
    ERROR = "error"
    """Training fails, or learns from numbers that are not the demonstrations'."""
    WARNING = "warning"
    """Legal, but worth a look."""


@dataclass(frozen=True)
class Problem:
    """One line about demonstrations."""

    severity: Severity
    text: str


def opened(load: Callable[[], Episodes]) -> tuple[Episodes | None, list[Problem]]:
    """Demonstrations, and what loading them warned of; or None, and every reason why `Episodes` refuses them.

    Raises any other `DataError`: there is nothing to check.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            episodes, faults = load(), ()
        except FaultyEpisodesError as error:
            episodes, faults = None, error.faults
    # Our loaders warn of numbers that the file does not hold, such as missing chunks; libraries have their own classes.
    told = [str(warning.message) for warning in caught if warning.category is UserWarning]
    return episodes, [Problem(Severity.ERROR, text) for text in (*told, *faults)]


def problems(episodes: Episodes, task: Task, layout: str) -> list[Problem]:
    """Everything wrong or odd about demonstrations of a task seen through a layout, errors first.

    Raises `DataError` when their dimensions are not the task's.
    """
    task.check(episodes, layout)
    view, (observation, action) = task.view(layout), task.boxes(layout)
    sides = (
        ("observations", episodes.observations, view.columns, observation),
        ("actions", episodes.actions, view.action_columns, action),
    )
    errors = list(_too_few(episodes, task))
    odd = [*_short(episodes), *_repeated(episodes), *_astray(episodes, task, layout)]
    for what, values, names, space in sides:
        odd += _constant(what, values, names)
        odd += _outside(what, values, names, space, episodes)
    return [Problem(Severity.ERROR, text) for text in errors] + [Problem(Severity.WARNING, text) for text in odd]


def _too_few(episodes: Episodes, task: Task) -> Iterator[str]:
    config = make_config(task.name)
    if len(episodes) == 1:
        yield "one episode: training needs two at least, one of them to validate"
        return
    train, _ = episodes.split(*config.split)
    distinct, bins = len(np.unique(train.actions, axis=0)), config.codebook.bins
    if distinct < bins:
        there = f"{counted(distinct, 'distinct action')} in the training episodes"
        yield f"{there}, but the preset has {counted(bins, 'bin')} (set bins=)"


def _short(episodes: Episodes) -> Iterator[str]:
    for number in np.flatnonzero(episodes.lengths == 1):
        yield f"episode {number} has one step"


def _repeated(episodes: Episodes) -> Iterator[str]:
    for group in duplicates(episodes):
        yield f"episodes {', '.join(map(str, group))} are the same"


def _astray(episodes: Episodes, task: Task, layout: str) -> Iterator[str]:
    astray = [number for number, route in enumerate(routes_taken(episodes, task, layout)) if route == NO_ROUTE]
    if astray:
        some = f"{len(astray):,} of {counted(len(episodes), 'episode')}"
        yield f"{some} follow none of the routes (first: episode {astray[0]})"


def _constant(what: str, values: NDArray[np.float32], names: Sequence[str]) -> Iterator[str]:
    constant: dict[float, list[str]] = {}
    for column in columns(values, names):
        if column.constant:
            constant.setdefault(column.low, []).append(column.name)
    for value, alike in constant.items():
        more = f" and {counted(len(alike) - NAMED, 'other column')}" if len(alike) > NAMED else ""
        told = ", ".join(map(repr, alike[:NAMED])) + more
        yield f"{what}: {told} {'is' if len(alike) == 1 else 'are'} {value:g} in every step"


def _outside(
    what: str, values: NDArray[np.float32], names: Sequence[str], space: Box, episodes: Episodes
) -> Iterator[str]:
    for dimension, name in enumerate(names):
        low, high, column = space.low[dimension], space.high[dimension], values[:, dimension]
        rows = np.flatnonzero((column < low) | (column > high))
        if len(rows):
            episode = int(episodes.episode_ends.searchsorted(rows[0], "right"))
            step = rows[0] - episodes.episode_starts[episode]
            yield (
                f"{what}: {name!r} leaves {low:g}..{high:g} in {len(rows):,} of {counted(len(values), 'step')}, "
                f"first in episode {episode}, step {step} ({column[rows[0]]:g})"
            )
