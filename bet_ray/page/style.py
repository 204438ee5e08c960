"""How every figure looks. Colours are Okabe and Ito's, told apart under the common colour blindnesses."""

from collections.abc import Iterable, Sequence
from html import escape

import plotly.graph_objects as go

from bet.metrics import NO_ROUTE
from bet_ray.values import Estimate

INK, MIDDLE, FAINT, GRID = "#222222", "#5b6770", "#8a8f94", "#e9ebed"
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
GROUPS = (BLUE, ORANGE, GREEN, PURPLE, SKY, "#000000")
ROUTES = (BLUE, ORANGE, PURPLE, GREEN)  # in the order, and near the colours, of the videos
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": INK}
SMALL = {"size": 11}
VEIL = "rgba(255, 255, 255, 0.8)"


def route_colour(route: str, modes: Sequence[str]) -> str:
    """A route's, of a task's modes in their order."""
    return MIDDLE if route == NO_ROUTE else ROUTES[modes.index(route) % len(ROUTES)]


def plain(text: str) -> str:
    """Text that plotly, which knows some HTML, shows as it is."""
    return escape(text, quote=False)


def error_bars(numbers: Sequence[Estimate], colour: str, width: int = 3) -> dict:
    """The intervals of numbers, as traces take them."""
    return {
        "array": [number.high - number.value for number in numbers],
        "arrayminus": [number.value - number.low for number in numbers],
        "color": colour,
        "thickness": 1.2,
        "width": width,
    }


def styled(figure: go.Figure, height: int, top: int = 12, right: int = 16, bottom: int | None = None) -> go.Figure:
    """The figure in the pages' style; the sizes are pixels."""
    figure.update_layout(
        template="none",
        height=height,
        font=FONT,
        margin={"l": 62, "r": right, "t": top, "b": 44},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 12}},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": INK}},
    )
    figure.update_layout(margin={"b": bottom or (84 if _has_legend(figure.data) else 48)})
    axis = {"gridcolor": GRID, "zeroline": False, "showline": True, "linecolor": FAINT, "exponentformat": "power"}
    figure.update_xaxes(axis, ticks="outside", tickcolor=FAINT)
    figure.update_yaxes(axis, ticks="outside", tickcolor=FAINT)
    return figure


def _has_legend(traces: Iterable) -> bool:
    return sum(1 for trace in traces if trace.type in ("scatter", "bar") and trace.showlegend is not False) > 1
