"""Drawings of what takes place in a plane."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from bet.views import Body, Plane
from bet_ray.page.style import FAINT, plain, styled

SQUARE = 440  # pixels of a drawing of the plane


def maps(plane: Plane, drawn: Sequence[tuple[Body, Sequence[go.Scatter]]]) -> go.Figure:
    """A map for each body, with its traces over what stands still."""
    figure = make_subplots(
        rows=1,
        cols=len(drawn),
        horizontal_spacing=0.08,
        subplot_titles=[plain(body.name) for body, _ in drawn] if len(drawn) > 1 else None,
    )
    for column, (_, traces) in enumerate(drawn, start=1):
        for name, outline in plane.landmarks.items():
            _landmark(figure, name, outline, column)
        for trace in traces:
            figure.add_trace(trace, 1, column)
        _square(figure, plane, column)
    return styled(figure, height=SQUARE + 110, top=30)


def _square(figure: go.Figure, plane: Plane, column: int) -> None:
    """Equal scales, and y the way the task has it."""
    margin = 0.02 * (plane.high - plane.low)
    ends = [plane.low - margin, plane.high + margin]
    title = {"text": f"x, {plane.unit}", "standoff": 6}
    anchor = f"y{column if column > 1 else ''}"
    figure.update_xaxes(range=ends, scaleanchor=anchor, constrain="domain", title=title, row=1, col=column)
    title = {"text": f"y, {plane.unit}" + (", downwards" if plane.y_down else ""), "standoff": 6}
    figure.update_yaxes(range=ends[::-1] if plane.y_down else ends, constrain="domain", title=title, row=1, col=column)


def _landmark(figure: go.Figure, name: str, outline: NDArray[np.float64], column: int) -> None:
    x, y = closed(outline).T
    line = {"color": FAINT, "width": 1}
    trace = go.Scatter(
        x=x, y=y, fill="toself", fillcolor="rgba(0, 158, 115, 0.16)", line=line, mode="lines", hoverinfo="skip"
    )
    figure.add_trace(trace.update(showlegend=column == 1, name=plain(name), legendgroup=f"landmark {name}"), 1, column)


def closed(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([outline, outline[:1]])


def lines(paths: Sequence[NDArray[np.float64]], colour: str, name: str, *, show_legend: bool) -> go.Scatter:
    """Paths, each (P, 2), as one line with gaps."""
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([gap, *(np.concatenate([path, gap]) for path in paths)])
    return go.Scatter(
        **gapped(points),
        mode="lines",
        line={"color": colour, "width": 1},
        opacity=0.65,
        name=plain(name),
        legendgroup=name,
        showlegend=show_legend,
        hoverinfo="skip",
    )


def gapped(points: NDArray[np.float64]) -> dict[str, list[float | None]]:
    """x and y of points (P, 2), where NaN ends a line."""
    x, y = ([None if np.isnan(value) else round(float(value), 3) for value in axis] for axis in points.T)
    return {"x": x, "y": y}
