"""The report of a sweep, from its records to the page."""

from datetime import UTC, datetime
from pathlib import Path

import plotly.graph_objects as go

from bet.metrics import PushTOutcome
from bet.wording import duration
from bet_ray.manifest import write_text
from bet_ray.page import render_page
from bet_ray.published import PUBLISHED, PUBLISHED_RATES
from bet_ray.report import cost_figures, figures, search_figures
from bet_ray.report.clips import clips
from bet_ray.report.codebook import codebook
from bet_ray.report.compute import Stage, answer, curves, demonstrated, leaderboard, panels
from bet_ray.report.costs import costs, fronts
from bet_ray.report.losses import Verdict, losses
from bet_ray.report.modes import ModePanels, mode_panels
from bet_ray.report.provenance import provenance
from bet_ray.report.records import Records, read_records
from bet_ray.report.reproduced import ReproducedPanels, reproduced_panels
from bet_ray.report.routes import routes
from bet_ray.report.search import SearchView, retold, search_view
from bet_ray.selection import read_race
from bet_ray.show.figures import bins_figure
from bet_ray.sweep import Objective
from bet_ray.trials import Status
from bet_ray.values import Estimate

REPORT = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
SHOWN_ROWS = 20  # of the leaderboard; the others fold away


def write_report(run: Path) -> Path:
    """Write `report.html` of a sweep, finished or not; a reader sees the whole page or the one before.

    Raises `RunError` for a directory that is not a sweep's, `PolicyError` when its winner is damaged or gone.
    """
    page = render(read_records(run))
    write_text(run / REPORT, page)
    return run / REPORT


def render(records: Records) -> str:
    """The page."""
    metric = records.task.protocol.primary
    published = PUBLISHED.get(records.task.name, ())
    objective = metric if records.sweep.objective is Objective.PRIMARY else records.sweep.objective.value
    drawn, view, learning = routes(records), search_view(records), curves(records)
    told, modes, again, bins, spent, worth = (
        losses(records),
        mode_panels(records),
        reproduced_panels(records),
        codebook(records),
        costs(records),
        fronts(records),
    )
    scales = (
        figures.Scale(metric, [line.value for line in published], "published"),
        figures.Scale("success rate"),
    )
    return render_page(
        TEMPLATE,
        filters={"as_estimate": Estimate.of, "duration": duration},
        title=records.sweep.question,
        sweep=records.sweep,
        task=records.task,
        metric=metric,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        answer=answer(records),
        demonstrated=demonstrated(records),
        stages=Stage,
        board=leaderboard(records),
        race=read_race(records.run),
        shown=SHOWN_ROWS,
        settings=figures.setting_figures(panels(records), scales),
        published=published,
        published_rates=PUBLISHED_RATES.get(records.task.name, ()),
        learning=figures.curves_figure(learning, metric) if learning.curves else None,
        coloured_by=learning.by,
        paths=figures.paths_figure(drawn) if drawn and drawn.paths else None,
        shares=figures.shares_figure(drawn) if drawn else None,
        routes=drawn,
        again=again,
        again_plots=_again_figures(again) if again else (),
        modes=modes,
        mode_plots=_mode_figures(modes) if modes else (),
        coverage=_coverage(records),
        losses=told,
        verdicts=Verdict,
        losses_plot=figures.losses_figure(told, metric) if told else None,
        bins=bins,
        bins_plot=bins_figure(bins.view, bins.density, bins.bins, bins.used) if bins else None,
        view=view,
        importances=search_figures.importances_figure(view) if view else None,
        search_plots=_search_figures(view, objective) if view else (),
        spent=spent,
        statuses=Status,
        costs_plot=cost_figures.costs_figure(spent.settings) if spent.training else None,
        most_bars=cost_figures.MOST_BARS,
        fronts=worth,
        fronts_plot=cost_figures.fronts_figure(worth, metric) if worth else None,
        batch=records.protocol.batch_size,
        timeline=_timeline(records),
        clips=clips(records),
        ran=provenance(records),
    )


def _mode_figures(modes: ModePanels) -> list[go.Figure]:
    most = max(modes.demonstrated, *(dot.numbers[1].high for panel in modes.panels for dot in panel.dots))
    entropy = figures.Scale("entropy of the modes, nats", [modes.demonstrated], "demonstrated", most)
    return figures.setting_figures(modes.panels, (figures.Scale("mode coverage", [1.0], "demonstrated"), entropy))


def _again_figures(again: ReproducedPanels) -> list[go.Figure]:
    scales = [figures.Scale(name, again.published[name], "published") for name in again.metrics]
    return figures.setting_figures(again.panels, scales)


def _search_figures(view: SearchView, objective: str) -> list[go.Figure]:
    return [
        search_figures.parallel_figure(view, objective),
        *search_figures.slice_figures(view, objective),
        search_figures.contour_figure(view, objective),
        *([search_figures.history_figure(view, objective)] if view.learned else ()),
    ]


def _timeline(records: Records) -> go.Figure | None:
    if not records.trials or any(trial.began is None for trial in records.trials):  # as of an earlier version
        return None
    return search_figures.timeline_figure(retold(records))


def _coverage(records: Records) -> go.Figure | None:
    if records.task.outcome_type is not PushTOutcome or records.winner is None or not records.winner.measured:
        return None
    best = records.winner.rows.column("best_coverage").drop_null().to_pylist()  # null after an error
    return figures.coverage_figure(best)
