"""The report of a sweep, from its records to the page."""

from datetime import UTC, datetime
from pathlib import Path

import plotly.graph_objects as go

from bet.metrics import PushTOutcome
from bet_ray.manifest import write_text
from bet_ray.page import render_page
from bet_ray.published import PUBLISHED, PUBLISHED_RATES
from bet_ray.report import figures
from bet_ray.report.clips import clips
from bet_ray.report.compute import Stage, answer, curves, leaderboard, panels
from bet_ray.report.provenance import provenance
from bet_ray.report.records import Records, read_records
from bet_ray.report.routes import routes
from bet_ray.report.search import search_view
from bet_ray.sweep import Objective
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
    return render_page(
        TEMPLATE,
        filters={"as_estimate": Estimate.of, "duration": _duration},
        title=records.sweep.question,
        sweep=records.sweep,
        task=records.task,
        metric=metric,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        answer=answer(records),
        stages=Stage,
        board=leaderboard(records),
        shown=SHOWN_ROWS,
        settings=figures.setting_figures(panels(records), metric, published),
        published=published,
        published_rates=PUBLISHED_RATES.get(records.task.name, ()),
        learning=figures.curves_figure(learning, metric) if learning.curves else None,
        coloured_by=learning.by,
        paths=figures.paths_figure(drawn) if drawn and drawn.paths else None,
        shares=figures.shares_figure(drawn) if drawn else None,
        routes=drawn,
        coverage=_coverage(records),
        importances=figures.importances_figure(view) if view else None,
        parallel=figures.parallel_figure(view, objective) if view else None,
        search_history=figures.history_figure(view, objective) if view and view.learned else None,
        clips=clips(records),
        ran=provenance(records),
    )


def _coverage(records: Records) -> go.Figure | None:
    if records.task.outcome_type is not PushTOutcome or records.winner is None or not records.winner.measured:
        return None
    best = records.winner.rows.column("best_coverage").drop_null().to_pylist()  # null after an error
    return figures.coverage_figure(best)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
