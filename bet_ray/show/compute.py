"""What the page of demonstrations shows, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bet.codebook import encode
from bet.config import Config, ConfigError
from bet.data.episodes import DataError, Episodes
from bet.data.summary import Summary, paths_of, routes_taken, summarize
from bet.data.validate import Problem, problems
from bet.normalizer import Normalizer
from bet.tasks import Task
from bet.training import fit_actions
from bet.views import Body, View

DRAWN = 60  # episodes whose paths are drawn, beside the chosen ones
CHOSEN = 6  # episodes where nobody chooses
MOST_CHOSEN = 16  # a video of more would be too small to see anything
CELLS = 64  # of a histogram, in each direction


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often a number lies where."""

    name: str
    edges: NDArray[np.float64]  # (n + 1,)
    counts: NDArray[np.int64]  # (n,)


@dataclass(frozen=True, eq=False)
class Density:
    """How often a pair of numbers lies where."""

    x_edges: NDArray[np.float64]  # (n + 1,)
    y_edges: NDArray[np.float64]  # (m + 1,)
    counts: NDArray[np.int64]  # (m, n)


@dataclass(frozen=True, eq=False)
class Bins:
    """The codebook that a training with these settings starts from."""

    centers: NDArray[np.float32]  # (bins, act_dim) in the action's unit
    shares: NDArray[np.float64]  # (bins,) of the training actions
    median: float
    """Distance of a training action from its centre, in the action's unit."""
    far: float
    """The distance that 95% of the training actions keep within."""


@dataclass(frozen=True, eq=False)
class Track:
    """A body's way through one episode."""

    episode: int
    points: NDArray[np.float64]  # (P, 2)
    angles: NDArray[np.float64] | None  # (P,) radians


@dataclass(frozen=True, eq=False)
class Tracks:
    """One body."""

    body: Body
    chosen: tuple[Track, ...]
    others: tuple[Track, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """One column of the observation over the steps of the chosen episodes."""

    name: str
    values: tuple[NDArray[np.float32], ...]  # each (T,)


@dataclass(frozen=True, eq=False)
class Findings:
    """All of the page but the video."""

    task: Task
    view: View
    config: Config
    episodes: Episodes
    chosen: tuple[int, ...]
    summary: Summary
    problems: tuple[Problem, ...]
    labels: dict[int, str]
    """The route of each episode that is drawn; empty where the task names none."""
    density: Density | None
    """Of the actions, where they have two dimensions."""
    actions: tuple[Histogram, ...]
    lengths: Histogram
    bins: Bins | None
    no_bins: str
    """Why there are none; empty where there are."""
    tracks: tuple[Tracks, ...]
    traces: tuple[Trace, ...]
    """Empty where the paths show every column."""


def find(episodes: Episodes, task: Task, config: Config, chosen: Sequence[int]) -> Findings:
    """Look demonstrations over; `config` says how a training would see them.

    Raises `DataError` when they are not the task's, `ConfigError` for a chosen episode that is not there.
    """
    layout = config.data.observation
    task.check(episodes, layout)
    view = task.view(layout)
    drawn = np.union1d(_spread(len(episodes), DRAWN), chosen)
    bins, no_bins = None, ""
    try:
        bins = bins_of(episodes, config)
    except DataError as error:
        no_bins = str(error)
    routes = routes_taken(episodes.select(drawn), task, layout)
    return Findings(
        task=task,
        view=view,
        config=config,
        episodes=episodes,
        chosen=tuple(chosen),
        summary=summarize(episodes, task, config),
        problems=tuple(problems(episodes, task, layout)),
        labels=dict(zip(drawn.tolist(), routes, strict=False)),
        density=density(episodes.actions) if episodes.actions.shape[1] == 2 else None,
        actions=tuple(
            Histogram(name, *_histogram(values, CELLS))
            for name, values in zip(view.action_columns, episodes.actions.T, strict=True)
        ),
        lengths=Histogram("length", *_histogram(episodes.lengths, whole_edges(episodes.lengths, CELLS // 2))),
        bins=bins,
        no_bins=no_bins,
        tracks=tracks(episodes, view, drawn.tolist(), chosen),
        traces=traces(episodes, view, chosen),
    )


def chosen_episodes(wanted: Sequence[int] | None, episodes: Episodes) -> tuple[int, ...]:
    """The episodes to look at closely: those wanted, else some from beginning to end.

    Raises `ConfigError` for one that is not there, or too many.
    """
    if wanted is None:
        return tuple(_spread(len(episodes), CHOSEN).tolist())
    if len(wanted) > MOST_CHOSEN:
        raise ConfigError(f"--episodes: {len(wanted)} are too many for one video; choose up to {MOST_CHOSEN}")
    for number in wanted:
        if not 0 <= number < len(episodes):
            raise ConfigError(f"--episodes: no episode {number}; there are 0 to {len(episodes) - 1}")
    return tuple(dict.fromkeys(wanted))


def bins_of(episodes: Episodes, config: Config) -> Bins:
    """The bins as training makes them. Raises `DataError` when there are too few episodes or distinct actions."""
    train, _ = episodes.split(*config.split)
    return bins_over(train.actions, *fit_actions(config, episodes, train))


def bins_over(actions: NDArray[np.float32], normalizer: Normalizer, centers: Tensor) -> Bins:
    """How centres (bins, act_dim), normalised, lie among actions (N, act_dim)."""
    numbers, _ = encode(torch.from_numpy(normalizer.normalize(actions)), centers)
    raw = normalizer.denormalize(centers.numpy())  # (bins, act_dim)
    distances = np.linalg.norm(actions - raw[numbers.numpy()], axis=1)  # (N,)
    counts = np.bincount(numbers.numpy(), minlength=len(raw))
    median, far = np.quantile(distances, (0.5, 0.95))
    return Bins(raw, counts / counts.sum(), float(median), float(far))


def density(actions: NDArray[np.float32]) -> Density:
    """Of actions (N, 2), in square cells."""
    values = actions.astype(np.float64)
    low, span = values.min(axis=0), np.ptp(values, axis=0)  # (2,)
    side = float(span.max()) / CELLS or 1.0
    edges = [start + side * np.arange(int(reach / side) + 2) for start, reach in zip(low, span, strict=True)]
    counts, x_edges, y_edges = np.histogram2d(values[:, 0], values[:, 1], bins=edges)
    return Density(x_edges, y_edges, counts.T.astype(np.int64))


def tracks(episodes: Episodes, view: View, drawn: Sequence[int], chosen: Sequence[int]) -> tuple[Tracks, ...]:
    """The ways of every body through the episodes."""
    paths = paths_of(episodes.select(np.array(drawn)), view)
    scenes = {number: view.scene(path) for number, path in zip(drawn, paths, strict=True)}  # each (P, scene_dim)

    def track(body: Body, number: int) -> Track:
        scene = scenes[number]
        angles = None if body.angle is None else scene[:, body.angle]
        return Track(number, scene[:, body.position], angles)

    return tuple(
        Tracks(
            body,
            tuple(track(body, number) for number in chosen),
            tuple(track(body, number) for number in drawn if number not in chosen),
        )
        for body in view.bodies
    )


def traces(episodes: Episodes, view: View, chosen: Sequence[int]) -> tuple[Trace, ...]:
    """Every column that changes, unless there are only a body's two."""
    if len(view.columns) == 2 and view.bodies:
        return ()
    starts, ends, values = episodes.episode_starts, episodes.episode_ends, episodes.observations
    return tuple(
        Trace(name, tuple(values[starts[number] : ends[number], column] for number in chosen))
        for column, name in enumerate(view.columns)
        if values[:, column].min() < values[:, column].max()
    )


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of 0..count - 1, evenly spread: a file may be in order of routes."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))


def _histogram(values: NDArray, cells: int | NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    counts, edges = np.histogram(values.astype(np.float64), bins=cells)
    return edges, counts


def whole_edges(values: NDArray[np.int64], cells: int) -> NDArray[np.float64]:
    """Edges of up to about `cells` cells of whole numbers, each as wide as the others."""
    width = -(-int(values.max() - values.min() + 1) // cells)
    return np.arange(values.min(), values.max() + width + 1, width) - 0.5
