"""Optuna's plots of the search, in the pages' style."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.visualization import (
    plot_contour,
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_slice,
    plot_timeline,
)
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from bet_ray.page.style import BLUE, FONT, GREEN, INK, ORANGE, SMALL, VEIL, VERMILION, plain, styled
from bet_ray.report.search import SearchView
from bet_ray.values import key_name

SCALE = "Viridis_r"  # of an objective: dark is high
SLICES_A_ROW = 4
MOST_CONTOURED = 3  # keys whose pairs are drawn
STATES = {  # what Optuna calls the end of a trial -> what we do, and its colour
    "COMPLETE": ("done", BLUE),
    "PRUNED": ("stopped early", ORANGE),
    "FAIL": ("error", VERMILION),
    "RUNNING": ("under way", GREEN),
}


def importances_figure(view: SearchView) -> go.Figure:
    shares = dict(reversed(view.importances.items()))
    figure = go.Figure(
        go.Bar(
            x=list(shares.values()),
            y=[plain(key) for key in shares],
            orientation="h",
            marker={"color": BLUE},
            text=[f"{share:.2f}" for share in shares.values()],
            textposition="outside",
            cliponaxis=False,
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title_text="share of the objective's variance between settings", range=[0, 1.05])
    figure.update_layout(bargap=0.35)
    figure.update_yaxes(type="category", automargin=True)
    return styled(figure, height=100 + 28 * len(shares))


def parallel_figure(view: SearchView, metric: str) -> go.Figure:
    figure = plot_parallel_coordinate(view.study, params=list(view.keys), target_name=plain(metric))
    for trace in figure.data:
        # Optuna's colours fade to white for poor trials, which would then be missing. (Before 5: one parcoords trace.)
        if isinstance(trace, go.Scatter) and trace.mode == "lines" and trace.y is not None:
            trace.update(line={"color": sample_colorscale(SCALE, trace.y[0])[0], "width": 1.5}, opacity=0.8)
        elif isinstance(trace, go.Scatter):
            trace.update(marker={"colorscale": SCALE, "reversescale": False})
    figure.update_annotations(bgcolor=VEIL, xshift=-6)
    return figure.update_layout(title=None, height=330, font=FONT, margin={"l": 70, "r": 40, "t": 24, "b": 40})


def history_figure(view: SearchView, metric: str) -> go.Figure:
    figure = plot_optimization_history(view.study, target_name=plain(metric))
    figure.update_layout(title=None)
    for trace, colour in zip(figure.data, (BLUE, VERMILION), strict=False):
        if isinstance(trace, go.Scatter):
            trace.update({"marker.color": colour, "line.color": colour})
    return styled(figure, height=300)


def slice_figures(view: SearchView, metric: str) -> list[go.Figure]:
    """The objective against each key, a dot for each trial."""
    starts = range(0, len(view.keys), SLICES_A_ROW)
    return [_slice_figure(view, view.keys[start : start + SLICES_A_ROW], metric) for start in starts]


def _slice_figure(view: SearchView, keys: Sequence[str], metric: str) -> go.Figure:
    figure = plot_slice(view.study, params=list(keys), target_name=plain(metric))
    for trace in figure.data:
        if isinstance(trace, go.Scatter):
            trace.update(marker={"size": 7, "opacity": 0.75, "line": {"width": 0}})
            if view.learned:  # dark is late; else the order of the trials says nothing
                trace.update(marker={"colorscale": SCALE, "colorbar": {"title": {"text": "trial"}, "thickness": 12}})
            else:
                trace.update(marker={"color": BLUE, "showscale": False})
    figure.for_each_xaxis(lambda axis: axis.update(title={"text": plain(key_name(axis.title.text)), "standoff": 6}))
    figure.update_xaxes(nticks=4, selector={"type": "log"})  # so narrow, more of them run together
    figure.update_layout(title=None, width=None)
    return styled(figure, height=270, right=60 if view.learned else 16)


def contour_figure(view: SearchView, metric: str) -> go.Figure:
    """The objective over each pair of the most important keys, interpolated between the trials (dots)."""
    pairs = list(combinations(view.keys[:MOST_CONTOURED], 2))
    figure = make_subplots(rows=1, cols=len(pairs), horizontal_spacing=0.09)
    values = [trial.value for trial in view.study.get_trials(deepcopy=False) if trial.value is not None]
    for column, pair in enumerate(pairs, start=1):
        drawn = plot_contour(view.study, params=list(pair), target_name=plain(metric))
        for trace in drawn.data:
            if isinstance(trace, go.Contour) and trace.z is not None:
                bar = {"title": {"text": plain(metric), "font": SMALL}, "thickness": 12}
                trace.update(z=np.asarray(trace.z, np.float32), zmin=min(values), zmax=max(values))
                trace.update(colorscale=SCALE, reversescale=False, colorbar=bar, showscale=column == len(pairs))
                trace.update(line={"width": 0.5})
            elif isinstance(trace, go.Scatter):
                trace.update(marker={"color": INK, "size": 5, "line": {"color": "#ffffff", "width": 1}})
            figure.add_trace(trace, 1, column)
        for update, axis in ((figure.update_xaxes, drawn.layout.xaxis), (figure.update_yaxes, drawn.layout.yaxis)):
            update(type=axis.type, range=axis.range, row=1, col=column)
            update(title={"text": plain(key_name(axis.title.text)), "standoff": 6}, row=1, col=column)
    return styled(figure, height=330, right=70)


def timeline_figure(study: optuna.Study) -> go.Figure:
    """When each trial ran, and how it ended."""
    figure = plot_timeline(study)
    for trace in figure.data:
        if isinstance(trace, go.Bar):
            name, colour = STATES[str(trace.name)]
            trace.update(name=name, marker={"color": colour}, hovertemplate=f"%{{text}}<extra>{name}</extra>")
    count = len(study.get_trials(deepcopy=False))
    figure.update_layout(title=None, bargap=0.25)
    styled(figure, height=min(150 + 14 * count, 620), bottom=90)
    figure.update_xaxes(title={"text": None})
    figure.update_yaxes(title={"text": "setting, in order"}, autorange="reversed", dtick=max(count // 10, 1))
    return figure
