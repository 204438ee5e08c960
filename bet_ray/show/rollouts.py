"""The page of an evaluation: where its episodes went, how long they took, what they were worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bet import tasks
from bet.config import Split
from bet.measure import Measurement
from bet.metrics import FAILED, SUCCESS, route_name
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import rollout
from bet.tasks import SimulatedTask
from bet.views import Body, Meaning, View
from bet_ray.evaluation import measurement
from bet_ray.manifest import write_text
from bet_ray.page import render_page
from bet_ray.page.plane import lines, maps
from bet_ray.page.style import BLUE, INK, VERMILION, plain, route_colour, styled
from bet_ray.results import EpisodeSource
from bet_ray.saved import saved_trajectories
from bet_ray.show.compute import Histogram, whole_edges
from bet_ray.show.figures import bars

PAGE = "rollouts.html"
TEMPLATE = Path(__file__).with_name("rollouts.html.jinja")
DRAWN = 60  # paths: enough to see shares, few enough to see paths
CELLS = 30  # of a histogram
SCORES = np.linspace(0, 1, CELLS + 1)  # where every primary metric lies
SOLVED = "success"  # the label of a success where routes are not named


@dataclass(frozen=True, eq=False)
class Rollouts:
    """What the page shows, in numbers."""

    task: SimulatedTask
    view: View
    measured: Measurement
    labels: NDArray[np.str_]  # (E,) each episode's route where it succeeded and the task names routes, else its end
    lengths: NDArray[np.int64]  # (E,)
    primary: NDArray[np.float64]  # (E,)
    drawn: dict[int, NDArray[np.float64]]
    """Scenes (P, scene_dim) of the first episodes, in their order; none where the task has no plane."""

    @property
    def names(self) -> list[str]:
        """The labels in the order they are drawn: failures lie below."""
        there = set(self.labels.tolist())
        return [name for name in (FAILED, *self.task.modes, SOLVED) if name in there]

    def colour(self, name: str) -> str:
        ends = {FAILED: INK if self.task.modes else VERMILION, SOLVED: BLUE}
        return ends[name] if name in ends else route_colour(name, list(self.task.modes))


def show_rollouts(policy: Policy, recipe: Recipe, split: Split, table: pa.Table, run: Path, command: str) -> Path:
    """Write `rollouts.html` into a run; `table` are the episodes of an evaluation, `command` is what made them.

    Paths are those that the evaluation kept; one that it did not is walked again, which gives the same.
    """
    found = look(policy, recipe, split, table, run)
    config, layout = policy.config, policy.config.data.observation
    page = render_page(
        TEMPLATE,
        filters={},
        title=f"Rollouts on {found.task.name}",
        found=found,
        config=config,
        layout=layout,
        policy=policy.digest[:12],
        split=split.value,
        variations=recipe.protocol.variations,
        rate=found.task.protocol.primary == SUCCESS,
        paths=_paths_figure(found) if found.drawn else None,
        lengths=_histogram(found, found.lengths, whole_edges(found.lengths, CELLS), "steps"),
        scores=_histogram(found, found.primary, SCORES, found.task.protocol.primary) if found.task.scored else None,
        command=command,
    )
    write_text(run / PAGE, page)
    return run / PAGE


def look(policy: Policy, recipe: Recipe, split: Split, table: pa.Table, run: Path) -> Rollouts:
    """Gather what the page shows."""
    task = tasks.simulated(policy.config.task)
    view = task.view(policy.config.data.observation)
    won = table.column("success").to_pylist()
    routes = table.column("route").to_pylist() if task.modes else [SOLVED] * len(won)
    indices = table.column("index").to_pylist()[:DRAWN] if view.bodies else []
    return Rollouts(
        task=task,
        view=view,
        measured=measurement(task, table),
        labels=np.array([route if success else FAILED for route, success in zip(routes, won, strict=True)]),
        lengths=table.column("length").to_numpy().astype(np.int64),
        primary=table.column("primary").to_numpy(),
        drawn={index: view.scene(path) for index, path in _paths(task, policy, recipe, split, indices, run).items()},
    )


def _paths(
    task: SimulatedTask, policy: Policy, recipe: Recipe, split: Split, indices: Sequence[int], run: Path
) -> dict[int, NDArray[np.float32]]:
    """Observations (P, obs_dim) of episodes, by index; an episode that ended in an error has none."""
    source = EpisodeSource.of(policy, recipe.protocol, split)
    kept = saved_trajectories(run, task, source.rows & pc.field("index").isin(list(indices)))
    paths = {int(key[-1]): trajectory.observations for key, trajectory in kept.items()}
    missing = [index for index in indices if index not in paths]
    for result in rollout(policy, recipe, split, missing, len(missing)) if missing else ():
        if result.trajectory is not None:
            paths[result.index] = result.trajectory.observations
    return dict(sorted(paths.items()))


def _paths_figure(found: Rollouts) -> go.Figure:
    """A map for each body."""
    plane, bodies = found.view.plane, found.view.bodies
    assert plane is not None  # there are bodies
    # On a grid, paths would hide one another: each is drawn a little aside.
    width = 0.2 if found.view.meaning is Meaning.STEP else 0.0
    aside = dict(
        zip(found.drawn, np.random.default_rng(0).uniform(-width, width, (len(found.drawn), 1, 2)), strict=True)
    )

    def walks(body: Body, show_legend: bool) -> list[go.Scatter]:
        by_name = {
            name: [scene[:, body.position] + aside[at] for at, scene in found.drawn.items() if found.labels[at] == name]
            for name in found.names
        }
        return [
            lines(paths, found.colour(name), route_name(name), show_legend=show_legend)
            for name, paths in by_name.items()
            if paths
        ]

    return maps(plane, [(body, walks(body, place == 0)) for place, body in enumerate(bodies)])


def _histogram(found: Rollouts, values: NDArray, edges: NDArray[np.float64], title: str) -> go.Figure:
    """Of all episodes, one on top of the other by label."""
    figure = go.Figure()
    for name in found.names:
        counts, _ = np.histogram(values[found.labels == name], bins=edges)
        figure.add_trace(bars(Histogram(name, edges, counts), found.colour(name), route_name(name)))
    figure.update_xaxes(title_text=plain(title))
    figure.update_yaxes(title_text="episodes", tickformat="d", rangemode="tozero")
    figure.update_layout(barmode="stack", bargap=0)
    return styled(figure, height=250)
