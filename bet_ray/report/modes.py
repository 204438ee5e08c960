"""Which of the demonstrated modes each setting takes: coverage and entropy, over what was swept."""

from dataclasses import dataclass

from bet.measure import measure_modes
from bet_ray.report.compute import Panel, panels_of
from bet_ray.report.records import Records
from bet_ray.values import Estimate


@dataclass(frozen=True)
class ModePanels:
    """Of the successes of each setting, on `tune`."""

    panels: tuple[Panel, ...]
    """Two numbers of each dot: mode coverage, and the entropy of the modes."""
    demonstrated: float
    """Entropy of the demonstrations' modes; their coverage is 1."""
    without: int
    """Settings that never succeeded, and so took no mode."""


def mode_panels(records: Records) -> ModePanels | None:
    """None for a task without named modes, before a setting has succeeded, and where nothing was varied."""
    task = records.task
    if not task.modes:
        return None
    numbers, without = [], 0
    for trial, rung, *_ in records.judged():
        rows = records.rows_of(trial, rung)
        success = rows.column("success").to_numpy(zero_copy_only=False)
        if not success.any():
            without += 1
            continue
        found = measure_modes(task, success, rows.column("route").to_pylist(), rows.column("train_seed").to_numpy())
        numbers.append((trial, tuple(map(Estimate.of, found))))
    found = panels_of(records, numbers)
    return ModePanels(found, task.mode_entropy, without) if found else None
