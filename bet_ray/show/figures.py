"""Plotly figures of the findings. Nothing is computed here but where things go.

An episode has one colour on the whole page: its route's where the task names routes, else its own. Bin centres are
vermilion.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from bet.metrics import route_name
from bet.views import Meaning, Plane, View, placed
from bet_ray.page.plane import SQUARE, closed, gapped, lines, maps
from bet_ray.page.style import GROUPS, INK, SMALL, VEIL, VERMILION, plain, route_colour, styled
from bet_ray.show.compute import Bins, Density, Findings, Histogram, Track, Tracks

PANELS_A_ROW = 3
BACKGROUND, BARS = "#c4cad0", "#7aa6c9"
TICKS = 24  # directions of a body that are drawn along its way, at most


def episode_colours(findings: Findings) -> dict[int, str]:
    """What each chosen episode is drawn in."""
    if findings.task.modes:
        return {number: _route_colour(findings, findings.labels[number]) for number in findings.chosen}
    return {number: GROUPS[place % len(GROUPS)] for place, number in enumerate(findings.chosen)}


def _route_colour(findings: Findings, route: str) -> str:
    return route_colour(route, list(findings.task.modes))


def paths_figure(findings: Findings) -> go.Figure:
    """A map for each body."""
    plane = findings.view.plane
    assert plane is not None  # there are bodies
    return maps(
        plane,
        [
            (tracks.body, [*_others(findings, tracks, first=place == 0), *_chosen(findings, tracks, first=place == 0)])
            for place, tracks in enumerate(findings.tracks)
        ],
    )


def _others(findings: Findings, tracks: Tracks, *, first: bool) -> list[go.Scatter]:
    """Episodes that are not chosen, as one line with gaps for each route."""
    if not findings.task.modes:
        name = f"{len(tracks.others)} others"
        return [lines(_points(tracks.others), BACKGROUND, name, show_legend=first)] if tracks.others else []
    drawn = []
    for route in findings.task.modes:
        same = [track for track in tracks.others if findings.labels[track.episode] == route]
        taken = same or any(findings.labels[number] == route for number in findings.chosen)
        if taken:
            colour = _route_colour(findings, route)
            drawn.append(lines(_points(same), colour, route_name(route), show_legend=first))
    return drawn


def _points(tracks: Sequence[Track]) -> list[NDArray[np.float64]]:
    return [track.points for track in tracks]


def _chosen(findings: Findings, tracks: Tracks, *, first: bool) -> list[go.Scatter]:
    traces = []
    for track in tracks.chosen:
        colour, name = episode_colours(findings)[track.episode], f"episode {track.episode}"
        label = findings.labels.get(track.episode)
        told = f"{name}, {route_name(label)}" if label else name
        x, y = np.round(track.points, 3).T
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": colour, "width": 2.2},
                name=name,
                legendgroup=name,
                showlegend=first and not findings.task.modes,
                hovertext=[plain(f"{told}, step {step}") for step in range(len(x))],
                hoverinfo="text",
            )
        )
        common = {"legendgroup": name, "showlegend": False, "hoverinfo": "skip"}
        if track.angles is not None:
            traces.append(_directions(track, track.angles, findings.view.plane, colour).update(common))
            if tracks.body.outline is not None:
                (x, y), angle = track.points[-1], track.angles[-1]
                x, y = closed(placed(tracks.body.outline, x, y, angle)).T
                traces.append(go.Scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 1.2}).update(common))
        marker = {"color": "#ffffff", "size": 8, "line": {"color": colour, "width": 2}}
        begin = track.points[:1].T
        traces.append(go.Scatter(x=begin[0], y=begin[1], mode="markers", marker=marker).update(common))
    return traces


def _directions(track: Track, angles: NDArray[np.float64], plane: Plane | None, colour: str) -> go.Scatter:
    """Short strokes from the body along its own y axis: which way it is turned."""
    assert plane is not None
    length = 0.035 * (plane.high - plane.low)
    some = np.unique(np.linspace(0, len(angles) - 1, TICKS).astype(int))
    begins = track.points[some]
    ends = begins + length * np.stack([-np.sin(angles[some]), np.cos(angles[some])], axis=1)
    strokes = np.stack([begins, ends, np.full_like(ends, np.nan)], axis=1).reshape(-1, 2)
    return go.Scatter(**gapped(strokes), mode="lines", line={"color": colour, "width": 1.2})


def bins_figure(
    view: View, density: Density | None, bins: Bins | None, used: NDArray[np.float64] | None = None
) -> go.Figure:
    """Where actions of two dimensions, which `view` names, are and how the bins share them; `used` (bins,) likewise."""
    both = density is not None
    figure = make_subplots(rows=1, cols=1 + both, horizontal_spacing=0.17)
    if density is not None:
        _density(figure, view, density, bins)
    if bins is not None:
        _occupancy(figure, bins.shares, used, column=1 + both)
    return styled(figure, height=SQUARE + 96 if both else 230, bottom=84 if both else None)


def _density(figure: go.Figure, view: View, found: Density, bins: Bins | None) -> None:
    """Actions and centres; a centre's size shows its share of the actions."""
    plane, names = view.plane, view.action_columns
    middles = [(edges[:-1] + edges[1:]) / 2 for edges in (found.x_edges, found.y_edges)]
    shown = np.log10(np.maximum(found.counts, 1)).round(3)
    powers = range(int(shown.max()) + 1)
    figure.add_trace(
        go.Heatmap(
            x=middles[0],
            y=middles[1],
            z=np.where(found.counts > 0, shown, np.nan),
            customdata=found.counts,
            colorscale=[[0, "#d6e6f3"], [0.5, "#5a9bd0"], [1, "#0b2f5b"]],
            colorbar={
                "title": {"text": "actions", "font": SMALL},
                "tickvals": list(powers),
                "ticktext": [f"{10**power:,}" for power in powers],
                "thickness": 12,
                "len": 0.6,
                "x": 0.425,
            },
            hovertemplate="%{x:.4g}, %{y:.4g}: %{customdata:,} actions<extra></extra>",
        ),
        1,
        1,
    )
    if bins is not None:
        centers, shares = bins.centers, bins.shares
        marker = {
            "color": VERMILION,
            "size": 6 + 14 * np.sqrt(shares / shares.max()),
            "opacity": 0.9,
            "line": {"color": "#ffffff", "width": 1},
        }
        figure.add_trace(
            go.Scatter(
                x=centers[:, 0],
                y=centers[:, 1],
                mode="markers",
                marker=marker,
                name="bin centres, larger where fuller",
                showlegend=True,
                hovertext=[f"bin {number}: {share:.1%} of the actions" for number, share in enumerate(shares)],
                hoverinfo="text",
            ),
            1,
            1,
        )
    unit = f", {plane.unit}" if plane is not None else ""
    titles = [{"text": plain(name) + unit, "standoff": 6} for name in names]
    figure.update_xaxes(title=titles[0], scaleanchor="y", constrain="domain", constraintoward="left", row=1, col=1)
    figure.update_yaxes(title=titles[1], constrain="domain", row=1, col=1)
    if plane is not None and view.meaning is Meaning.PLACE:
        figure.update_xaxes(range=[plane.low, plane.high], row=1, col=1)
        ends = [plane.high, plane.low] if plane.y_down else [plane.low, plane.high]
        figure.update_yaxes(range=ends, row=1, col=1)


def _occupancy(figure: go.Figure, shares: NDArray[np.float64], used: NDArray[np.float64] | None, column: int) -> None:
    """The fullest bin first."""
    order = np.argsort(-shares, kind="stable")
    figure.add_trace(
        go.Bar(
            x=np.arange(len(shares)),
            y=shares[order],
            marker={"color": BARS},
            hovertext=[f"bin {number}: {shares[number]:.2%}" for number in order],
            hoverinfo="text",
            name="share of the training actions",
            showlegend=used is not None,
        ),
        1,
        column,
    )
    if used is not None:
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(used)),
                y=used[order],
                mode="markers",
                marker={"color": VERMILION, "symbol": "diamond", "size": 7},
                hovertext=[f"bin {number}: {used[number]:.2%}" for number in order],
                hoverinfo="text",
                name="share of the policy's actions",
            ),
            1,
            column,
        )
    line = {"color": INK, "dash": "dash", "width": 1}
    figure.add_hline(
        1 / len(shares),
        line=line,
        annotation={"text": "if all were equally full", "font": SMALL, "bgcolor": VEIL},
        annotation_position="top right",
        row=1,  # pyright: ignore[reportArgumentType]
        col=column,  # pyright: ignore[reportArgumentType]
    )
    title = {"text": "bins, the fullest first", "standoff": 6}
    figure.update_xaxes(title=title, showticklabels=False, showgrid=False, row=1, col=column)
    whose = "the training actions" if used is None else "actions"
    figure.update_yaxes(title_text=f"share of {whose}", tickformat=".1~%", rangemode="tozero", col=column)


def histograms_figure(findings: Findings) -> go.Figure:
    """Every dimension of the actions; below the bars, the bins' centres."""
    histograms = findings.actions
    columns = min(len(histograms), PANELS_A_ROW)
    rows = -(-len(histograms) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[plain(histogram.name) for histogram in histograms],
        horizontal_spacing=0.07,
        vertical_spacing=0.3 / rows,
    )
    for place, histogram in enumerate(histograms):
        row, column = place // columns + 1, place % columns + 1
        figure.add_trace(bars(histogram), row, column)
        if findings.bins is not None:
            centers = findings.bins.centers[:, place]
            figure.add_trace(
                go.Scatter(
                    x=centers,
                    y=np.full(len(centers), -0.06 * histogram.counts.max()),
                    mode="markers",
                    marker={"color": VERMILION, "symbol": "line-ns-open", "size": 9, "line": {"width": 1.4}},
                    name="bin centres",
                    showlegend=place == 0,
                    hovertemplate="%{x:.4g}<extra>bin centre</extra>",
                ),
                row,
                column,
            )
        figure.update_yaxes(range=[-0.12 * histogram.counts.max(), None], row=row, col=column)
    return styled(figure, height=110 + 190 * rows, top=30, bottom=84)


def bars(histogram: Histogram, colour: str = BARS, name: str = "") -> go.Bar:
    """A histogram's; with a name they are in the legend."""
    edges = histogram.edges
    return go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=histogram.counts,
        width=np.diff(edges),
        marker={"color": colour, "line": {"width": 0}},
        name=plain(name),
        customdata=np.stack([edges[:-1], edges[1:]], axis=1),
        hovertemplate=f"%{{customdata[0]:.4g}} to %{{customdata[1]:.4g}}: %{{y:,}}<extra>{plain(name)}</extra>",
        showlegend=bool(name),
    )


def lengths_figure(findings: Findings) -> go.Figure:
    """How long the episodes are."""
    figure = go.Figure(bars(findings.lengths).update(hovertemplate=None, hoverinfo="y"))
    figure.update_xaxes(title_text="steps")
    figure.update_yaxes(title_text="episodes", tickformat="d", rangemode="tozero")
    figure.update_layout(bargap=0)
    return styled(figure, height=230)


def traces_figure(findings: Findings) -> go.Figure:
    """Every column of the observation over time."""
    columns = min(len(findings.traces), PANELS_A_ROW)
    rows = -(-len(findings.traces) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[plain(trace.name) for trace in findings.traces],
        shared_xaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=0.22 / rows,
    )
    colours = episode_colours(findings)
    for place, trace in enumerate(findings.traces):
        for number, values in zip(findings.chosen, trace.values, strict=True):
            name = f"episode {number}"
            figure.add_trace(
                go.Scatter(
                    y=np.round(values.astype(np.float64), 4),
                    mode="lines" if len(values) > 1 else "markers",
                    line={"color": colours[number], "width": 1.3},
                    name=name,
                    legendgroup=name,
                    showlegend=place == 0,
                    hovertemplate=f"{name}, step %{{x}}: %{{y:.4g}}<extra></extra>",
                ),
                place // columns + 1,
                place % columns + 1,
            )
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=rows)
    return styled(figure, height=100 + 170 * rows, top=30)
