"""The search as Optuna sees it, re-told from the trials on record."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bet_ray.report import search_figures
from bet_ray.report.compute import leaderboard, panels
from bet_ray.report.records import Records, read_records
from bet_ray.report.search import retold, search_view
from bet_ray.trials import Status, TrialRecord
from bet_ray.values import Estimate

from .conftest import NewSweep

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPACE = {"bins": [1, 2, 3, 4], "gamma": {"low": 0.5, "high": 3.0}, "loss.offset_scale": {"low": 1, "high": 100}}


def trial(records: Records, setting: dict[str, Any], values: Sequence[float], **changes: Any) -> TrialRecord:
    """With a rung of each value, at epochs 1, 2 and so on."""
    rung = records.trials[0].rungs[0]
    rungs = [
        rung.model_copy(update={"epoch": epoch, "objective": value, "primary": Estimate(value, value, value)})
        for epoch, value in enumerate(values, start=1)
    ]
    return records.trials[0].model_copy(update={"setting": setting, "rungs": rungs, **changes})


@pytest.fixture
def searched(finished: Path, new_sweep: NewSweep) -> Records:
    """Twelve trials of which those with one bin have no offset scale, two more that did not get to their ends."""
    records = read_records(finished)
    sweep = new_sweep(space=SPACE, search="random", trials=14).sweep
    settings = [
        {"codebook.bins": 1 + k % 4, "loss.gamma": 0.5 + k / 10} | ({"loss.offset_scale": 5 + k} if k % 4 else {})
        for k in range(14)
    ]
    trials = [trial(records, setting, [k / 40, k / 20]) for k, setting in enumerate(settings[:12])]
    trials.append(trial(records, settings[12], [0.1], status=Status.STOPPED))
    trials.append(trial(records, settings[13], [], status=Status.ERROR, error="no such luck"))
    timed = [
        one.model_copy(
            update={
                "trial": f"{k:08x}",
                "began": BEGAN + timedelta(minutes=k),
                "ended": BEGAN + timedelta(minutes=k + 2),
            }
        )
        for k, one in enumerate(trials)
    ]
    return replace(records, sweep=sweep, trials=timed[::-1], winner=None)


def test_trials_are_retold_with_their_rungs_their_ends_and_their_times(searched: Records) -> None:
    trials = retold(searched).trials
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 12 + [TrialState.PRUNED, TrialState.FAIL]
    assert trials[11].intermediate_values == {1: 11 / 40, 2: 11 / 20}
    assert trials[11].value == 11 / 20
    assert trials[12].intermediate_values == {1: 0.1}
    assert trials[13].user_attrs["error"] == "no such luck"
    assert [one.datetime_start for one in trials] == sorted(one.datetime_start for one in trials if one.datetime_start)
    assert {one.duration for one in trials} == {timedelta(minutes=2)}


def test_a_trial_under_way_is_retold_as_one(searched: Records) -> None:
    trials = [one.model_copy(update={"status": Status.RUNNING, "ended": None}) for one in searched.trials]
    states = {one.state for one in retold(replace(searched, trials=trials, search_over=False)).trials}
    assert states == {TrialState.RUNNING}
    states = {one.state for one in retold(replace(searched, trials=trials, search_over=True)).trials}
    assert states == {TrialState.PRUNED}


def test_keys_that_only_some_trials_have_are_drawn_but_have_no_importance(searched: Records) -> None:
    view = search_view(searched)
    assert view is not None
    assert set(view.importances) == {"bins", "gamma"}
    assert view.conditional == ("loss.offset_scale",)
    assert view.keys[-1] == "loss.offset_scale"
    (slices,) = search_figures.slice_figures(view, "success")
    traces: list[Any] = list(slices.select_traces({"type": "scatter"}))
    assert sorted(len(trace.x) for trace in traces) == [9, 12, 12]
    contours = search_figures.contour_figure(view, "success")
    assert len(list(contours.select_traces({"type": "contour"}))) == 3
    search_figures.parallel_figure(view, "success")
    bars: list[Any] = list(search_figures.timeline_figure(view.study).select_traces())
    assert {bar.name: len(bar.y) for bar in bars} == {"done": 12, "stopped early": 1, "error": 1}


def test_a_setting_without_a_key_has_no_place_in_its_panel_and_no_value_on_the_board(searched: Records) -> None:
    found = {panel.title: len(panel.dots) for panel in panels(searched)}
    assert found == {"bins": 13, "gamma": 13, "loss.offset_scale": 9}  # all that have a result
    board = leaderboard(searched)
    assert board.keys == ("bins", "gamma", "offset_scale")
    assert {row.values[0] for row in board.rows if not row.values[2]} == {"1"}
