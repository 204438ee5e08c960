"""What `bet-ray reproduce` measured: every setting on fresh episodes, beside what was published."""

from dataclasses import dataclass

import pyarrow.parquet as pq

from bet_ray.published import By
from bet_ray.report.compute import Panel, panels_of
from bet_ray.report.records import Records
from bet_ray.results import REPRODUCTION_PARQUET
from bet_ray.values import Estimate


@dataclass(frozen=True)
class ReproducedPanels:
    """Of each setting after its last epoch, on `report`."""

    metrics: tuple[str, ...]
    """The numbers of each dot."""
    panels: tuple[Panel, ...]
    published: dict[str, list[float]]
    """By metric; of the preset, where that is known alone."""
    departures: str | None
    """In what it is not as published."""
    sources: tuple[str, ...]


def reproduced_panels(records: Records) -> ReproducedPanels | None:
    """None for a run that is not a reproduction's, or not yet measured."""
    path = records.run / REPRODUCTION_PARQUET
    if not path.exists():
        return None
    task = records.task
    rows = [
        row
        for row in pq.read_table(path).to_pylist()
        if row["estimate"] is not None and (row["metric"] not in task.rates or task.rates[row["metric"]].published)
    ]
    metrics = tuple(dict.fromkeys(row["metric"] for row in rows))
    found = {(row["trial"], row["metric"]): Estimate(row["estimate"], row["low"], row["high"]) for row in rows}
    panels = panels_of(
        records,
        [
            (trial, tuple(found[trial.trial, metric] for metric in metrics))
            for trial in records.trials
            if all((trial.trial, metric) in found for metric in metrics)
        ],
    )
    if not metrics or not panels:
        return None
    published = {
        metric: [row[by.value] for row in rows if row["metric"] == metric for by in By if row[by.value] is not None]
        for metric in metrics
    }
    sources = dict.fromkeys(row["source"] for row in rows if row["source"])
    return ReproducedPanels(metrics, panels, published, rows[0]["departures"], tuple(sources))
