"""Plotly figures of the computed dataclasses. Nothing is computed here but where things go. The winner is vermilion."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from bet.envs.pointmass import TARGET_RADIUS
from bet.envs.pusht import SUCCESS_COVERAGE
from bet.metrics import FAILED, route_name
from bet_ray.page.style import (
    BLUE,
    FAINT,
    GRID,
    GROUPS,
    INK,
    MIDDLE,
    SMALL,
    VEIL,
    VERMILION,
    error_bars,
    plain,
    route_colour,
    styled,
)
from bet_ray.report.compute import Axis, Curve, Curves, Dot, Panel
from bet_ray.report.losses import Losses
from bet_ray.report.routes import Origin, Paths, Routes

ORIGINS = {  # colour and hatching; apart in lightness too
    Origin.DEMONSTRATED: ("#c9ced3", ""),
    Origin.WINNER: (VERMILION, ""),
    Origin.ONE_BIN: (MIDDLE, "/"),
}
PANELS_A_ROW = 3
WIDE = 8  # from this ratio of the largest to the least, an axis is logarithmic
LETTERS, FEWEST_LETTERS = 110, 14  # of the labels below a row of panels, and of one of them


@dataclass(frozen=True)
class Scale:
    """What a row of panels shows, from 0."""

    title: str
    landmarks: Sequence[float] = ()
    landmark: str = ""
    """What those are."""
    most: float = 1.0
    """That the numbers can be."""


def setting_figures(panels: Sequence[Panel], scales: Sequence[Scale]) -> list[go.Figure]:
    """A row for each of the dots' numbers, a column for each question."""
    starts = range(0, len(panels), PANELS_A_ROW)
    return [_setting_figure(panels[start : start + PANELS_A_ROW], scales) for start in starts]


def _setting_figure(panels: Sequence[Panel], scales: Sequence[Scale]) -> go.Figure:
    figure = make_subplots(
        rows=len(scales),
        cols=len(panels),
        column_titles=[plain(panel.title) for panel in panels],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.07,
    )
    for column, panel in enumerate(panels, start=1):
        for which in range(len(scales)):
            row = which + 1
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
    for row, scale in enumerate(scales, start=1):
        highs = [dot.numbers[row - 1].high for panel in panels for dot in panel.dots]
        top = min(max([*highs, *scale.landmarks]) * 1.08, 1.03 * scale.most)
        figure.update_yaxes(range=[-0.02 * top, top], nticks=7, row=row)
        figure.update_yaxes(title={"text": plain(scale.title), "font": {"size": 12}}, row=row, col=1)
        for value in scale.landmarks:
            figure.add_hline(value, line={"color": FAINT, "dash": "dash", "width": 1}, row=row)  # pyright: ignore[reportArgumentType]
            figure.add_annotation(
                x=1.0,
                xref="paper",
                xanchor="left",
                xshift=6,
                y=value,
                yref=f"y{(row - 1) * len(panels) + 1}",  # of the row's first panel
                text=f"{value:.2f} {scale.landmark}",
                showarrow=False,
                font={"size": 11, "color": FAINT},
            )
    more = 16 * max(label.count("\n") for panel in panels for label in panel.labels)
    right = 128 if any(scale.landmarks for scale in scales) else 16
    return styled(figure, height=480 + more, top=34, right=right, bottom=84 + more)


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
    numbers = [dot.numbers[which] for dot in dots]
    return go.Scatter(
        x=[dot.x for dot in dots],
        y=[number.value for number in numbers],
        error_y=error_bars(numbers, colour),
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
    means = [(mean.x, mean.numbers[which]) for mean in panel.means]
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
        error_y=error_bars(numbers, colour, width=2),
        mode="lines+markers",
        line={"color": colour, "width": 3 if curve.winner else 1.2},
        marker={"color": colour, "size": 9 if curve.winner else 6, "symbol": "diamond" if curve.winner else "circle"},
        opacity=1.0 if curve.winner else 0.6,
        showlegend=False,
        legendgroup=curve.group,
        hovertext=[f"{number:.3f}<br>{plain(curve.setting)}" for number in numbers],
        hoverinfo="text",
    )


def losses_figure(losses: Losses, metric: str) -> go.Figure:
    """The primary metric against the validation loss, a dot for each rung."""
    figure = go.Figure()
    coloured = len(losses.groups) <= len(GROUPS)
    for place, group in enumerate(losses.groups):
        numbers = [rung.primary for rung in group.rungs]
        colour = GROUPS[place] if coloured else FAINT
        figure.add_trace(
            go.Scatter(
                x=[rung.val_loss for rung in group.rungs],
                y=[number.value for number in numbers],
                error_y=error_bars(numbers, colour) | {"thickness": 0.8, "width": 0},
                mode="markers",
                marker={"color": colour, "size": 7, "opacity": 0.85},
                name=plain(group.name),
                showlegend=coloured and len(losses.groups) > 1,
                hovertext=[
                    f"{rung.primary:.3f}, val_loss {rung.val_loss:.4g}, epoch {rung.epoch}<br>{plain(rung.setting)}"
                    for rung in group.rungs
                ],
                hoverinfo="text",
            )
        )
    ends = [rung.val_loss for group in losses.groups for rung in group.rungs]
    log = min(ends) > 0 and max(ends) / min(ends) > WIDE
    figure.update_xaxes(title_text="validation loss", type="log" if log else "linear", title_standoff=8)
    if log:
        figure.update_xaxes(dtick="D2" if max(ends) / min(ends) < 100 else 1)
    figure.update_yaxes(title_text=f"{plain(metric)} (tune)", rangemode="tozero")
    return styled(figure, height=340)


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
                error_y=error_bars(numbers, INK) | {"visible": any(n.high > n.low for n in numbers)},
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
