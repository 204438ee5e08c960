"""Plotly figures of costs."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bet_ray.page.style import BLUE, FAINT, INK, SKY, VERMILION, error_bars, plain, styled
from bet_ray.report.costs import Cost, Front, Offer, Price
from bet_ray.report.figures import WIDE
from bet_ray.trials import Status

MOST_BARS = 30
LETTERS = 44  # of a setting beside its bar
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"), (1e-3, "milliseconds"))


def costs_figure(settings: Sequence[Cost]) -> go.Figure:
    """The dearest settings, training and rollouts apart."""
    shown = settings[:MOST_BARS][::-1]
    per, unit = _unit(max(cost.total for cost in shown))
    figure = go.Figure()
    for name, values, colour in (
        ("training", [cost.training for cost in shown], BLUE),
        ("rollouts", [cost.rollouts for cost in shown], SKY),
    ):
        figure.add_trace(
            go.Bar(
                x=[value / per for value in values],
                y=[cost.trial for cost in shown],
                orientation="h",
                name=name,
                marker={
                    "color": colour,
                    "pattern": {"shape": ["/" if cost.status is Status.STOPPED else "" for cost in shown], "size": 6},
                },
                hovertext=[
                    f"{name} {value / per:.3g} {unit}<br>{plain(cost.setting)}, {cost.status.value}"
                    for value, cost in zip(values, shown, strict=True)
                ],
                hoverinfo="text",
            )
        )
    labels = [_label(cost) for cost in shown]
    figure.update_yaxes(type="category", tickvals=[cost.trial for cost in shown], ticktext=labels, automargin=True)
    figure.update_xaxes(title_text=unit, title_standoff=6, rangemode="tozero")
    figure.update_layout(barmode="stack", bargap=0.3)
    styled(figure, height=130 + 22 * len(shown), bottom=84)
    return figure.update_yaxes(ticks="", tickfont={"size": 11})


def _label(cost: Cost) -> str:
    text = cost.setting if len(cost.setting) <= LETTERS else f"{cost.setting[: LETTERS - 1]}…"
    return f'<b style="color:{VERMILION}">{plain(text)}</b>' if cost.winner else plain(text)


def fronts_figure(fronts: Sequence[Front], metric: str) -> go.Figure:
    """The primary metric against each price; the settings of a front are numbered along it."""
    titles = {Price.TRAINING: "training the setting", Price.ACTING: "acting once, for a batch of observations"}
    figure = make_subplots(rows=1, cols=len(fronts), shared_yaxes=True, horizontal_spacing=0.04)
    for column, found in enumerate(fronts, start=1):
        dearest, cheapest = found.offers[-1].seconds, found.offers[0].seconds
        per, unit = _unit(dearest)
        first = column == 1
        line = go.Scatter(
            x=[offer.seconds / per for offer in found.front],
            y=[offer.primary.value for offer in found.front],
            mode="lines",
            line={"color": INK, "width": 1.2, "shape": "hv"},
            name="the front",
            legendgroup="front",
            showlegend=first,
            hoverinfo="skip",
        )
        figure.add_trace(line, 1, column)
        for name, colour, offers in (
            ("a setting", FAINT, [offer for offer in found.offers if not (offer in found.front or offer.winner)]),
            ("a setting on the front", BLUE, [offer for offer in found.front if not offer.winner]),
            ("the winner", VERMILION, [offer for offer in found.offers if offer.winner]),
        ):
            labels = [str(found.front.index(offer) + 1) if offer in found.front else "" for offer in offers]
            dots = _offers(offers, labels, per, unit, colour, f"{name}, 95% interval")
            figure.add_trace(dots.update(showlegend=first and bool(offers), legendgroup=name), 1, column)
        log = cheapest > 0 and dearest / cheapest > WIDE
        figure.update_xaxes(title={"text": f"{titles[found.price]}, {unit}", "standoff": 8}, col=column)
        figure.update_xaxes(type="log" if log else "linear", rangemode="normal" if log else "tozero", col=column)
        if log:
            figure.update_xaxes(dtick="D2" if dearest / cheapest < 100 else 1, col=column)
    figure.update_yaxes(title_text=f"{plain(metric)} (tune)", col=1)
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, height=380, bottom=92)


def _offers(
    offers: Sequence[Offer], labels: Sequence[str], per: float, unit: str, colour: str, name: str
) -> go.Scatter:
    numbers = [offer.primary for offer in offers]
    return go.Scatter(
        x=[offer.seconds / per for offer in offers],
        y=[number.value for number in numbers],
        error_y=error_bars(numbers, colour),
        mode="markers+text",
        text=[f"<b>{label}</b>" if label else "" for label in labels],
        textposition="top left",
        marker={"color": colour, "size": 8},
        name=name,
        hovertext=[
            f"{offer.primary:.3f}, {offer.seconds / per:.3g} {unit}<br>{plain(offer.setting)}" for offer in offers
        ],
        hoverinfo="text",
    )


def _unit(seconds: float) -> tuple[float, str]:
    """What to tell seconds in, and its name."""
    return next(((per, name) for per, name in UNITS if seconds >= 2 * per), UNITS[-1])
