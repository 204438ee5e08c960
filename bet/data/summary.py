"""What demonstrations hold, in numbers that a person can check."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bet.config import Config
from bet.data.episodes import Episodes
from bet.data.windows import windows_of
from bet.metrics import NO_ROUTE
from bet.tasks import SimulatedTask, Task
from bet.trajectory import Trajectory
from bet.views import Meaning, View


@dataclass(frozen=True)
class Column:
    """One dimension of the observations or actions, over all steps."""

    name: str
    low: float
    mean: float
    high: float
    std: float

    @property
    def constant(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class Summary:
    """What there is."""

    episodes: int
    steps: int
    lengths: tuple[int, float, int]
    """Shortest, mean and longest episode, in steps."""
    window: int
    windows: int
    """Windows of that many steps, training and validation together."""
    observations: tuple[Column, ...]
    actions: tuple[Column, ...]
    distinct_actions: int
    duplicates: tuple[tuple[int, ...], ...]
    routes: Mapping[str, int]
    """Episodes by route, in the order of the task's modes; empty where it names none."""


def summarize(episodes: Episodes, task: Task, config: Config) -> Summary:
    """Numbers of checked demonstrations; the settings give layout and window."""
    view, lengths = task.view(config.data.observation), episodes.lengths
    taken = routes_taken(episodes, task, config.data.observation)
    return Summary(
        episodes=len(episodes),
        steps=len(episodes.observations),
        lengths=(int(lengths.min()), float(lengths.mean()), int(lengths.max())),
        window=config.model.window,
        windows=len(windows_of(episodes, config.model.window, config.data.drop_last_window)),
        observations=columns(episodes.observations, view.columns),
        actions=columns(episodes.actions, view.action_columns),
        distinct_actions=len(np.unique(episodes.actions, axis=0)),
        duplicates=duplicates(episodes),
        routes={route: taken.count(route) for route in task.modes},
    )


def columns(values: NDArray[np.float32], names: Sequence[str]) -> tuple[Column, ...]:
    """Statistics of each column of values (N, dim), in float64."""
    exact = values.astype(np.float64)
    numbers = zip(exact.min(axis=0), exact.mean(axis=0), exact.max(axis=0), exact.std(axis=0), strict=True)
    return tuple(Column(name, *map(float, row)) for name, row in zip(names, numbers, strict=True))


def duplicates(episodes: Episodes) -> tuple[tuple[int, ...], ...]:
    """Groups of episodes that are equal in every observation and action, each in rising order."""
    groups: dict[bytes, list[int]] = {}
    for number, (start, end) in enumerate(zip(episodes.episode_starts, episodes.episode_ends, strict=True)):
        content = hashlib.sha256(episodes.observations[start:end].tobytes())
        content.update(episodes.actions[start:end].tobytes())
        groups.setdefault(content.digest(), []).append(number)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def routes_taken(episodes: Episodes, task: Task, layout: str) -> list[str]:
    """The mode that each demonstration follows, as if it were a rollout that succeeded. [] for a task without modes."""
    if not isinstance(task, SimulatedTask) or not task.modes:
        return []
    routes = []
    for path, start in zip(paths_of(episodes, task.view(layout)), episodes.episode_starts, strict=True):
        steps = len(path) - 1
        if not steps:
            routes.append(NO_ROUTE)
            continue
        actions = episodes.actions[start : start + steps]
        success = {"success": (np.arange(steps) == steps - 1).astype(np.float64)}  # at the end
        walk = Trajectory(path, actions, np.zeros(steps), success, np.zeros(steps, np.int64))
        routes.append(getattr(task.outcome(walk), "route", NO_ROUTE))
    return routes


def paths_of(episodes: Episodes, view: View) -> list[NDArray[np.float32]]:
    """The observations of each episode, (T, obs_dim); (T + 1, obs_dim) where the last action tells the one after it."""
    found = []
    for start, end in zip(episodes.episode_starts, episodes.episode_ends, strict=True):
        path = episodes.observations[start:end]
        if view.meaning is Meaning.STEP:
            path = np.concatenate([path, path[-1:] + episodes.actions[end - 1 : end]])
        found.append(path)
    return found
