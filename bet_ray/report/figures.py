"""Plotly figures of the computed dataclasses. Nothing is computed here but where things go. The winner is vermilion."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.visualization import plot_optimization_history, plot_parallel_coordinate
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from bet.envs.pointmass import TARGET_RADIUS
from bet.envs.pusht import SUCCESS_COVERAGE
from bet.metrics import FAILED, route_name
from bet_ray.page.style import (
    BLUE,
    FAINT,
    FONT,
    GRID,
    GROUPS,
    INK,
    MIDDLE,
    SMALL,
    VEIL,
    VERMILION,
    plain,
    route_colour,
    styled,
)
from bet_ray.published import Published
from bet_ray.report.compute import Axis, Curve, Curves, Dot, Panel
from bet_ray.report.routes import Origin, Paths, Routes
from bet_ray.report.search import SearchView
from bet_ray.values import Estimate

ORIGINS = {  # colour and hatching; apart in lightness too
    Origin.DEMONSTRATED: ("#c9ced3", ""),
    Origin.WINNER: (VERMILION, ""),
    Origin.ONE_BIN: (MIDDLE, "/"),
}
PANELS_A_ROW = 3
LETTERS, FEWEST_LETTERS = 110, 14  # of the labels below a row of panels, and of one of them
SCALE = "Viridis_r"  # of an objective: dark is high


def setting_figures(panels: Sequence[Panel], metric: str, published: Sequence[Published]) -> list[go.Figure]:
    """The primary metric (upper row) and the success rate (lower row), a column for each key."""
    starts = range(0, len(panels), PANELS_A_ROW)
    return [_setting_figure(panels[start : start + PANELS_A_ROW], metric, published) for start in starts]


def _setting_figure(panels: Sequence[Panel], metric: str, published: Sequence[Published]) -> go.Figure:
    figure = make_subplots(
        rows=2,
        cols=len(panels),
        column_titles=[plain(panel.title) for panel in panels],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.07,
    )
    for column, panel in enumerate(panels, start=1):
        for row, which in ((1, 0), (2, 1)):
            for is_winner, colour, name in ((False, BLUE, "a setting"), (True, VERMILION, "the winner")):
                dots = [dot for dot in panel.dots if dot.winner is is_winner]
                figure.add_trace(
                    _dots(dots, which, colour, name, show_legend=column == row == 1 and bool(dots)), row, column
                )
            if panel.means:
                figure.add_trace(_means(panel, which, show_legend=column == row == 1), row, column)
        if panel.axis is Axis.CATEGORY:
            ticks = list(range(len(panel.labels)))
            room = max(LETTERS // len(panels) // len(ticks), FEWEST_LETTERS)
            figure.update_xaxes(
                tickvals=ticks,
                ticktext=[_brief(label, room) for label in panel.labels],
                showgrid=False,
                col=column,
            )
            figure.update_xaxes(range=[-0.5, len(ticks) - 0.5], col=column)
            for left in ticks[:-1]:
                figure.add_vline(left + 0.5, line={"color": GRID, "width": 1}, layer="below", col=column)  # pyright: ignore[reportArgumentType]
        else:
            figure.update_xaxes(**_numeric_axis(panel), col=column)
    tops = [[getattr(dot, name).high for panel in panels for dot in panel.dots] for name in ("primary", "success")]
    tops[0] += [line.value for line in published]
    for row, (title, highs) in enumerate(zip((metric, "success rate"), tops, strict=True), start=1):
        top = min(max(highs) * 1.08, 1.03)
        figure.update_yaxes(range=[-0.02 * top, top], nticks=7, row=row)
        figure.update_yaxes(title={"text": plain(title), "font": {"size": 12}}, row=row, col=1)
    for line in published:
        figure.add_hline(line.value, line={"color": FAINT, "dash": "dash", "width": 1}, row=1)  # pyright: ignore[reportArgumentType]
        figure.add_annotation(
            x=1.0,
            xref="paper",
            xanchor="left",
            xshift=6,
            y=line.value,
            yref="y",
            text=f"{line.value:.2f} published",
            showarrow=False,
            font={"size": 11, "color": FAINT},
        )
    more = 16 * max(label.count("\n") for panel in panels for label in panel.labels)
    return styled(figure, height=480 + more, top=34, right=96 if published else 16, bottom=84 + more)


def _numeric_axis(panel: Panel) -> dict:
    log = panel.axis is Axis.LOG
    ends = [min(dot.x for dot in panel.dots), max(dot.x for dot in panel.dots)]
    low, high = np.log10(ends) if log else ends
    margin = 0.06 * (high - low) or 0.5
    axis = {"type": panel.axis.value, "range": [low - margin, high + margin]}
    return axis | ({"dtick": 1 if high - low > 2 else "D2"} if log else {"nticks": 6})


def _brief(label: str, room: int) -> str:
    """The first `room` letters of each line; hovering tells the rest."""
    return "<br>".join(plain(line if len(line) <= room else f"{line[: room - 1]}…") for line in label.split("\n"))


def _dots(dots: Sequence[Dot], which: int, colour: str, name: str, *, show_legend: bool) -> go.Scatter:
    numbers: list[Estimate] = [(dot.primary, dot.success)[which] for dot in dots]
    return go.Scatter(
        x=[dot.x for dot in dots],
        y=[number.value for number in numbers],
        error_y=_error_bars(numbers, colour),
        mode="markers",
        marker={"color": colour, "size": 7},
        name=f"{name}, 95% interval",
        legendgroup=name,
        showlegend=show_legend,
        hovertext=[f"{number:.3f}<br>{plain(dot.hover)}" for dot, number in zip(dots, numbers, strict=True)],
        hoverinfo="text",
    )


def _means(panel: Panel, which: int, *, show_legend: bool) -> go.Scatter:
    reach = 0.4 if panel.axis is Axis.CATEGORY else 0.0
    means = [(mean.x, (mean.primary, mean.success)[which]) for mean in panel.means]
    flat = panel.axis is Axis.CATEGORY
    return go.Scatter(
        x=[x for center, _ in means for x in (center - reach, center + reach, None)],
        y=[y for _, mean in means for y in (mean, mean, None)],
        mode="lines" if flat else "markers",
        line={"color": INK, "width": 1.5},
        marker={"color": INK, "symbol": "line-ew-open", "size": 14},
        name="mean of the settings",
        legendgroup="mean",
        showlegend=show_legend,
        hovertext=[f"mean {mean:.3f}" for _, mean in means for _ in range(3)],
        hoverinfo="text",
    )


def _error_bars(numbers: Sequence[Estimate], colour: str, width: int = 3) -> dict:
    return {
        "array": [number.high - number.value for number in numbers],
        "arrayminus": [number.value - number.low for number in numbers],
        "color": colour,
        "thickness": 1.2,
        "width": width,
    }


def curves_figure(curves: Curves, metric: str) -> go.Figure:
    """Focal loss, offset loss and the primary metric by epoch."""
    figure = make_subplots(
        rows=1, cols=3, horizontal_spacing=0.07, subplot_titles=("focal loss", "offset loss", f"{plain(metric)} (tune)")
    )
    colours = dict(zip(curves.groups if curves.by else (), GROUPS, strict=False))
    told = set()
    for curve in sorted(curves.curves, key=lambda curve: curve.winner):  # the winner on top
        colour = colours.get(curve.group, FAINT)
        first = curve.group not in told
        told.add(curve.group)
        for column, (validation, training) in enumerate((("val_focal", "train_focal"), ("val_offset", "train_offset"))):
            for name, dash in ((training, "dot"), (validation, "solid")):
                line = _curve(curve, [getattr(epoch, name) for epoch in curve.epochs], colour, dash)
                named = first and dash == "solid" and column == 0 and curves.by is not None
                line.update(
                    name=plain(curve.group),
                    showlegend=named,
                    legendgroup=curve.group,
                    legendrank=900 + list(curves.groups).index(curve.group) if named else 1000,
                )
                figure.add_trace(line, 1, column + 1)
        figure.add_trace(_rungs(curve, colour), 1, 3)
    for name, style in (
        ("validation", {"dash": "solid", "width": 1.4}),
        ("training", {"dash": "dot", "width": 1.4}),
        ("the winner", {"dash": "solid", "width": 3.5}),
    ):
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=name, line={"color": FAINT, **style}), 1, 1)
    last = max((len(curve.epochs) for curve in curves.curves), default=1)
    figure.update_xaxes(title_text="epoch", range=[1 - 0.03 * last, last * 1.03], title_standoff=8)
    figure.update_xaxes(tickformat="d", nticks=min(last, 8) + 1)
    figure.update_xaxes(range=[0, last * 1.06], col=3)
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, height=360, top=30, bottom=104)


def _curve(curve: Curve, values: list[float], colour: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=[epoch.epoch for epoch in curve.epochs],
        y=values,
        mode="lines" if len(values) > 1 else "markers",
        line={"color": colour, "dash": dash, "width": 3.5 if curve.winner else 1.4},
        marker={"color": colour, "size": 7, "symbol": "circle" if dash == "solid" else "circle-open"},
        opacity=1.0 if curve.winner else 0.6,
        hovertext=[f"{value:.4g}<br>{plain(curve.setting)}" for value in values],
        hoverinfo="text",
    )


def _rungs(curve: Curve, colour: str) -> go.Scatter:
    numbers = [number for _, number in curve.rungs]
    return go.Scatter(
        x=[epoch for epoch, _ in curve.rungs],
        y=[number.value for number in numbers],
        error_y=_error_bars(numbers, colour, width=2),
        mode="lines+markers",
        line={"color": colour, "width": 3 if curve.winner else 1.2},
        marker={"color": colour, "size": 9 if curve.winner else 6, "symbol": "diamond" if curve.winner else "circle"},
        opacity=1.0 if curve.winner else 0.6,
        showlegend=False,
        legendgroup=curve.group,
        hovertext=[f"{number:.3f}<br>{plain(curve.setting)}" for number in numbers],
        hoverinfo="text",
    )


def paths_figure(routes: Routes) -> go.Figure:
    """One map for each origin of paths, coloured by route."""
    maze, count = routes.maze, len(routes.paths)
    assert maze is not None  # there are paths
    titles = [[paths.origin.value, *wrap(plain(paths.setting), 30)] for paths in routes.paths]
    figure = make_subplots(
        rows=1,
        cols=count,
        horizontal_spacing=0.04,
        subplot_titles=["<br>".join(lines) for lines in titles],
    )
    for column, paths in enumerate(routes.paths, start=1):
        for label in routes.labels:
            figure.add_trace(
                _walk_lines(paths, label, routes, show_legend=_first_with(label, routes) is paths), 1, column
            )
        (x, y), half = maze.target, TARGET_RADIUS
        figure.add_shape(
            type="rect",
            x0=x - half,
            x1=x + half,
            y0=y - half,
            y1=y + half,
            row=1,
            col=column,
            line={"color": INK, "width": 1.5},
        )
        figure.add_annotation(
            x=x,
            y=y + half,
            text="target",
            showarrow=False,
            bgcolor=VEIL,
            yshift=9,
            row=1,
            col=column,
            font=SMALL,
        )
        figure.add_annotation(
            x=maze.start[0],
            y=maze.start[1],
            text="start",
            showarrow=False,
            yshift=-16,
            row=1,
            col=column,
            font=SMALL,
        )
        figure.update_xaxes(scaleanchor=f"y{column if column > 1 else ''}", constrain="domain", row=1, col=column)
    figure.update_xaxes(range=[maze.low - 0.5, maze.high + 0.5], dtick=2, minor={"dtick": 1, "showgrid": True})
    figure.update_yaxes(range=[maze.low - 0.5, maze.high + 0.5], dtick=2, minor={"dtick": 1, "showgrid": True})
    figure.update_yaxes(constrain="domain")
    room = 14 + 18 * max(map(len, titles))
    figure.update_annotations(selector={"yref": "paper"}, font={"size": 13})
    return styled(figure, height=350 + room, top=room)


def _first_with(label: str, routes: Routes) -> Paths | None:
    return next((paths for paths in routes.paths if paths.by_label.get(label)), None)


def _walk_lines(paths: Paths, label: str, routes: Routes, *, show_legend: bool) -> go.Scatter:
    """All paths of a label, as one line with gaps. Each is a little aside: on a grid they would hide one another."""
    generator = np.random.default_rng(0)
    aside = generator.uniform(-0.22, 0.22, (len(paths.by_label.get(label, [])), 1, 2))
    gap = np.full((1, 2), np.nan)
    pieces: list[NDArray] = [
        np.vstack([path + d, gap]) for path, d in zip(paths.by_label.get(label, []), aside, strict=True)
    ]
    points = np.vstack(pieces) if pieces else np.empty((0, 2))
    return go.Scatter(
        x=_with_gaps(points[:, 0]),
        y=_with_gaps(points[:, 1]),
        mode="lines",
        line={"color": _label_colour(label, routes), "width": 1.1, "dash": "dot" if label == FAILED else "solid"},
        opacity=0.6,
        name=plain(route_name(label)),
        legendgroup=label,
        showlegend=show_legend,
        hoverinfo="skip",
    )


def _with_gaps(values: NDArray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def _label_colour(label: str, routes: Routes) -> str:
    return INK if label == FAILED else route_colour(label, routes.labels)


def shares_figure(routes: Routes) -> go.Figure:
    """How often each route is taken, side by side."""
    figure = go.Figure()
    for shares in filter(lambda shares: shares.by_label, routes.shares):
        colour, pattern = ORIGINS[shares.origin]
        numbers = [shares.by_label[label] for label in routes.labels]
        figure.add_trace(
            go.Bar(
                x=[plain(route_name(label)) for label in routes.labels],
                y=[number.value for number in numbers],
                error_y=_error_bars(numbers, INK) | {"visible": any(n.high > n.low for n in numbers)},
                marker={
                    "color": colour,
                    "pattern": {"shape": pattern, "bgcolor": colour, "fgcolor": "#ffffff", "size": 6},
                },
                name=shares.origin.value,
                hovertext=[f"{shares.origin.value}: {number:.3f}" for number in numbers],
                hoverinfo="text",
            )
        )
    of = "episodes" if FAILED in routes.labels else "successes"
    figure.update_yaxes(title_text=f"share of {of}", range=[0, 1.03], tickformat=".0%")
    figure.update_layout(barmode="group", bargap=0.3)
    return styled(figure, height=300)


def coverage_figure(best: Sequence[float]) -> go.Figure:
    """Push-T: how much of the goal the winner's episodes covered at best."""
    figure = go.Figure(
        go.Histogram(
            x=list(best),
            xbins={"start": 0, "end": 1.0001, "size": 0.05},
            marker={"color": VERMILION, "line": {"color": "#ffffff", "width": 1}},
            hovertemplate="%{y} episodes with best coverage %{x}<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_vline(SUCCESS_COVERAGE, line={"color": INK, "dash": "dash", "width": 1})  # pyright: ignore[reportArgumentType]
    figure.add_annotation(
        x=SUCCESS_COVERAGE,
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"success: above {SUCCESS_COVERAGE}",
        showarrow=False,
        font=SMALL,
    )
    figure.update_xaxes(title_text="best coverage in the episode", range=[0, 1])
    figure.update_yaxes(title_text="episodes", tickformat="d")
    return styled(figure, height=280, top=26)


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
