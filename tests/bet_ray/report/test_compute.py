"""What the report says, computed from a run that the real records, ledger and results left."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from bet import tasks
from bet.config import Split
from bet.metrics import BLOCKPUSH_ROUTES, NO_ROUTE
from bet.policy import Policy
from bet_ray.evaluation import measurement
from bet_ray.ledger import Ledger
from bet_ray.manifest import RunError, write_manifest
from bet_ray.published import PUBLISHED_RATES
from bet_ray.report.compute import Axis, Stage, answer, curves, leaderboard, panels
from bet_ray.report.records import read_records
from bet_ray.report.routes import FAILED, Origin, routes
from bet_ray.report.search import search_view
from bet_ray.sweep import Objective
from bet_ray.training import trial_id
from bet_ray.trials import read_trials
from bet_ray.values import Estimate, setting_text, spelled

from .conftest import REPORT_EPISODES, TASK, TUNE_EPISODES, NewSweep


def test_the_answer_is_what_measurement_says_of_the_winners_fresh_episodes(finished: Path) -> None:
    found = answer(read_records(finished))
    best = read_trials(finished, Objective.PRIMARY)[0]
    table = Ledger(finished, TASK).read()
    fresh = table.filter([split == Split.REPORT for split in table.column("split").to_pylist()])
    assert found.stage is Stage.MEASURED
    assert found.measured == measurement(TASK, fresh)
    assert found.measured is not None
    assert found.measured.episodes == REPORT_EPISODES
    assert best.rungs[0].primary is not None
    assert found.chosen == best.rungs[0].primary
    assert found.setting == setting_text(best.setting)
    assert (found.done, found.failed, found.under_way, found.total) == (4, 0, 0, 4)


def test_fresh_episodes_beyond_those_promised_do_not_change_the_answer(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3]})
    small.train({"codebook.bins": 3})
    small.finish()
    before = answer(read_records(small.run)).measured
    records = read_records(small.run)
    assert records.winner is not None
    small.roll_out(Policy.load(small.run), Split.REPORT, REPORT_EPISODES + 20)
    assert answer(read_records(small.run)).measured == before


def test_equal_policies_of_two_settings_share_their_episodes(finished: Path) -> None:
    # With one bin the focal loss is zero whatever gamma is: two trials, one policy, one set of rows.
    records = read_records(finished)
    singles = [trial for trial in records.trials if trial.setting["codebook.bins"] == 1]
    assert len(singles) == 2
    for trial in singles:
        assert records.rows_of(trial, trial.rungs[0]).num_rows == TUNE_EPISODES


def test_the_leaderboard_is_sorted_and_has_the_intervals_on_record(finished: Path) -> None:
    board = leaderboard(read_records(finished))
    scores = [row.primary.value for row in board.rows if row.primary]
    assert board.keys == ("bins", "gamma")
    assert [row.place for row in board.rows] == [1, 2, 3, 4]
    assert scores == sorted(scores, reverse=True)
    assert all(row.primary and row.primary.low <= row.primary.value <= row.primary.high for row in board.rows)


def test_a_key_with_one_value_has_no_column_and_no_panel(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3], "gamma": [0, 2]})
    small.train({"codebook.bins": 3, "loss.gamma": 0})
    records = read_records(small.run)
    assert leaderboard(records).keys == ("gamma",)
    assert leaderboard(records).fixed == ("bins=3",)
    assert [panel.title for panel in panels(records)] == ["gamma"]


def test_each_panel_has_every_trial_once_and_the_mean_of_each_value(finished: Path) -> None:
    records = read_records(finished)
    for panel in panels(records):
        assert panel.axis is Axis.CATEGORY
        assert len(panel.dots) == 4
        assert sum(dot.winner for dot in panel.dots) == 1
        for mean in panel.means:
            here = [dot.numbers[0].value for dot in panel.dots if abs(dot.x - mean.x) < 0.5]
            assert mean.numbers[0] == pytest.approx(sum(here) / len(here))
            assert len(here) == 2


def test_learning_curves_cover_every_training_and_rung(finished: Path) -> None:
    found = curves(read_records(finished))
    assert found.by == "bins"
    assert found.groups == ("bins=1", "bins=3")
    assert len(found.curves) == 4
    assert all(len(curve.epochs) == len(curve.rungs) == 1 for curve in found.curves)


def test_route_shares_count_every_episode_once(finished: Path) -> None:
    found = routes(read_records(finished))
    assert found is not None
    origins = [shares.origin for shares in found.shares]
    assert origins[:2] == [Origin.DEMONSTRATED, Origin.WINNER]
    for shares in found.shares:
        assert sum(estimate.value for estimate in shares.by_label.values()) == pytest.approx(1)
    assert found.shares[0].by_label[FAILED] == Estimate(0, 0, 0)


def test_paths_are_the_demonstrations_and_the_winners_first_fresh_episodes(finished: Path) -> None:
    records = read_records(finished)
    found = routes(records)
    assert found is not None
    assert records.winner is not None
    demonstrated, winners = found.paths[:2]
    assert sum(map(len, demonstrated.by_label.values())) == 60
    assert set(demonstrated.by_label) <= {name for name, share in TASK.modes.items() if share > 0}
    assert sum(map(len, winners.by_label.values())) == REPORT_EPISODES
    steps = sum(len(path) - 1 for paths in winners.by_label.values() for path in paths)
    assert steps == sum(records.winner.rows.column("length").to_pylist())


def test_several_training_seeds_speak_of_the_setting(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3]}, seeds_per_trial=2)
    small.train({"codebook.bins": 3})
    small.finish()
    found = answer(read_records(small.run))
    assert found.measured is not None
    assert (found.measured.seeds, found.measured.episodes) == (2, 2 * REPORT_EPISODES)


def test_importances_need_enough_trials_and_more_than_one_key(finished: Path, new_sweep: NewSweep) -> None:
    assert search_view(read_records(finished)) is None  # four trials
    records = read_records(finished)
    rung = records.trials[0].rungs[0]
    sweep = new_sweep(space={"bins": [1, 2, 3, 4], "gamma": [0, 1, 2]}).sweep
    trials = [
        records.trials[0].model_copy(
            update={"setting": setting, "rungs": [rung.model_copy(update={"objective": setting["codebook.bins"] / 4})]}
        )
        for setting in sweep.enumerated()
    ]
    view = search_view(replace(records, sweep=sweep, trials=trials))
    assert view is not None
    assert next(iter(view.importances)) == "bins"
    assert sum(view.importances.values()) == pytest.approx(1)
    assert not view.learned


def test_a_range_has_a_numeric_axis_and_a_logarithmic_one_where_it_was_searched_so(
    finished: Path, new_sweep: NewSweep
) -> None:
    records = read_records(finished)
    for log, axis in ((False, Axis.LINEAR), (True, Axis.LOG)):
        sweep = new_sweep(
            space={"loss.offset_scale": {"low": 1.5, "high": 90, "log": log}}, search="random", trials=12
        ).sweep
        trials = [records.trials[0].model_copy(update={"setting": setting}) for setting in sweep.enumerated()]
        (panel,) = panels(replace(records, sweep=sweep, trials=trials))
        assert panel.axis is axis
        assert [dot.x for dot in panel.dots] == sorted(trial.setting["loss.offset_scale"] for trial in trials)
        assert panel.means == ()


def test_the_history_of_a_search_that_learned_has_its_order_and_the_rungs_that_count(
    finished: Path, new_sweep: NewSweep
) -> None:
    records = read_records(finished)
    small = new_sweep(space={"bins": [1, 2, 3, 4], "gamma": [0, 1, 2]}, search="tpe", trials=10)
    grid = list(new_sweep(space={"bins": [1, 2, 3, 4], "gamma": [0, 1, 2]}).sweep.enumerated())
    chosen = [grid[index] for index in (7, 2, 11, 5, 0, 9, 4, 1, 10, 3)]
    rung = records.trials[0].rungs[0]
    trials = [
        records.trials[0].model_copy(
            update={
                "trial": trial_id(small.sweep.config(setting)),
                "setting": setting,
                "rungs": [rung.model_copy(update={"objective": index / 20})],
                "began": datetime(2026, 1, 1, 12, index, tzinfo=UTC),
            }
        )
        for index, setting in enumerate(chosen)
    ]
    view = search_view(replace(records, run=small.run, sweep=small.sweep, trials=trials[::-1]))
    assert view is not None
    assert view.learned
    assert [trial.params for trial in view.study.trials] == chosen
    assert [trial.value for trial in view.study.trials] == [index / 20 for index in range(10)]


def test_a_directory_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        read_records(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run directory"):
        read_records(tmp_path)
    write_manifest(tmp_path, "train", "pointmass2", {})
    with pytest.raises(RunError, match="this run is of kind train"):
        read_records(tmp_path)


def test_settings_are_spelled_as_the_command_line_takes_them() -> None:
    assert setting_text({"codebook.bins": 64, "loss.gamma": 2.0, "train.lr": 3e-4}) == "bins=64 gamma=2 train.lr=0.0003"
    assert [spelled(value) for value in ("cosine", None, True)] == ["cosine", "null", "true"]


def test_listed_settings_are_one_question_in_their_order(new_sweep: NewSweep) -> None:
    listed = [{"window": 1}, {}, {"trunk": "mlp", "model.width": 40}]
    small = new_sweep(space=None, settings=listed)
    for setting in small.sweep.enumerated():
        small.train(setting)
    small.end_search()
    records = read_records(small.run)
    (panel,) = panels(records)
    assert (panel.title, panel.axis) == ("setting", Axis.CATEGORY)
    assert panel.labels == ("window=1", "as in base", "trunk=mlp\nmodel.width=40")
    assert [dot.x for dot in panel.dots] == [0, 1, 2]
    assert panel.means == ()
    found = curves(records)
    assert (found.by, found.groups) == ("setting", ("window=1", "as in base", "trunk=mlp model.width=40"))
    assert {curve.group for curve in found.curves} == set(found.groups)
    board = leaderboard(records)
    assert board.keys == ("window", "trunk", "width")
    assert {row.values for row in board.rows} == {
        ("1", "transformer", "20"),
        ("2", "transformer", "20"),
        ("2", "mlp", "40"),
    }


def test_listed_settings_have_no_importances(finished: Path, new_sweep: NewSweep) -> None:
    records = read_records(finished)
    listed = [{"bins": bins, "gamma": gamma} for bins in (1, 2, 3, 4) for gamma in (0, 1, 2)]
    sweep = new_sweep(space=None, settings=listed).sweep
    trials = [
        records.trials[0].model_copy(
            update={"setting": setting, "rungs": [records.trials[0].rungs[0].model_copy(update={"objective": k / 12})]}
        )
        for k, setting in enumerate(sweep.enumerated())
    ]
    assert search_view(replace(records, sweep=sweep, trials=trials)) is None


def test_routes_of_a_task_whose_metric_is_a_mean_are_those_of_its_successes(pushed: Path) -> None:
    records = read_records(pushed)
    found = routes(records)
    assert found is not None
    assert (found.maze, found.paths) == (None, ())
    assert found.labels == BLOCKPUSH_ROUTES
    shown, *others = found.shares
    assert shown.by_label == dict.fromkeys(BLOCKPUSH_ROUTES, Estimate(0.25, 0.25, 0.25))
    assert shown.entropy == pytest.approx(math.log(4))
    assert [shares.origin for shares in others][:1] == [Origin.WINNER]
    assert all(not shares.by_label and shares.entropy is None for shares in others)  # nothing succeeded
    assert records.winner is not None
    rows = records.winner.rows
    assert rows.num_rows == 4
    for name, values in {
        "success": [True, True, True, False],
        "route": [BLOCKPUSH_ROUTES[0], BLOCKPUSH_ROUTES[0], BLOCKPUSH_ROUTES[3], NO_ROUTE],
    }.items():
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    found = routes(replace(records, winner=replace(records.winner, rows=rows)))
    assert found is not None
    winner = found.shares[1]
    assert [round(share.value, 3) for share in winner.by_label.values()] == [0.667, 0, 0, 0.333]
    assert all(share.low <= share.value <= share.high for share in winner.by_label.values())
    assert winner.entropy == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))


def test_published_rates_are_of_rates_that_the_task_has() -> None:
    for name, lines in PUBLISHED_RATES.items():
        for line in lines:
            assert line.rates.keys() <= tasks.simulated(name).rates.keys()
            assert all(0 <= rate <= 1 for rate in line.rates.values())
