"""The page: one file that loads nothing, whatever state the sweep is in and whatever its texts contain."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from plotly.offline import get_plotlyjs

from bet.envs.pointmass import PointMassVectorEnv
from bet.envs.vector import RenderError
from bet_ray.manifest import SWEEP_YAML
from bet_ray.report import render, write_report
from bet_ray.report.clips import clips
from bet_ray.report.compute import answer
from bet_ray.report.records import read_records
from bet_ray.sweep import load_sweep, sweep_yaml
from bet_ray.trials import Status, read_trials
from bet_ray.values import setting_text

from ..pages import Page, assert_self_contained
from .conftest import NewSweep

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>{{ 7 * 7 }}"


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text())


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return write_report(finished).read_text()


def test_an_environment_that_cannot_be_drawn_has_a_report_without_videos(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_library(env: PointMassVectorEnv) -> None:
        raise RenderError("pointmass2: cannot be drawn: pygame is not installed")

    records = read_records(finished)
    assert len(clips(records)) > 0
    monkeypatch.setattr(PointMassVectorEnv, "render", no_library)
    assert clips(records) == ()
    assert "no videos in the report: pointmass2: cannot be drawn: pygame is not installed" in caplog.text


def test_the_report_is_written_into_the_run_and_nothing_else_is(finished: Path) -> None:
    before = {path for path in finished.rglob("*") if path.name != "report.html"}
    assert write_report(finished) == finished / "report.html"
    assert {path for path in finished.rglob("*") if path.name != "report.html"} == before


def test_the_page_loads_nothing_and_forbids_the_browser_to(page: str) -> None:
    assert_self_contained(page)


def test_a_finished_sweep_shows_its_answer_figures_videos_and_commands(page: str, finished: Path) -> None:
    found = Page(page)
    assert "Winner:" in found.words
    assert "measured on 50 fresh episodes" in found.words
    assert "What wins a search looks better than it is" in found.words
    beside = answer(read_records(finished)).rivals
    assert beside is not None
    assert f"On tune, {beside}" in found.words
    assert f"bet-ray replay {finished} --episode 0 --video episode.mp4" in found.text
    assert sum(tag == "video" for tag, _ in found.tags) in (1, 2)
    assert page.replace(get_plotlyjs(), "").count("Plotly.newPlot(") == 8
    # settings, paths, shares, modes, curves, losses, costs, what training is worth; one bin has no codebook to draw


def test_one_line_repeats_the_sweep_from_what_the_run_keeps(new_sweep: NewSweep) -> None:
    small = new_sweep()
    assert "bet-ray sweep sweep.yaml --out runs/again" in page_of(small.run).text  # of an earlier version
    (small.run / SWEEP_YAML).write_text(sweep_yaml(small.sweep))
    found = page_of(small.run).text
    assert f"bet-ray sweep {small.run / SWEEP_YAML} --out runs/again" in found
    assert f"bet-ray sweep {small.run / SWEEP_YAML} --out {small.run} --resume" in found
    assert load_sweep(small.run / SWEEP_YAML) == small.sweep


def test_costs_and_times_are_shown_where_they_are_on_record(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3, 4, 5]})
    done = small.train({"codebook.bins": 3})
    began = datetime(2026, 1, 1, tzinfo=UTC)
    times: dict[str, Any] = {
        "began": began,
        "ended": began + timedelta(seconds=9),
        "train_seconds": 9.0,
        "act_seconds": 0.002,
    }
    small.record(done.setting, Status.DONE, done.rungs, **times)
    small.record({"codebook.bins": 4}, Status.STOPPED, done.rungs, None, **times | {"train_seconds": 3.0})
    small.record({"codebook.bins": 5}, Status.ERROR, [], "no such luck", **times)
    small.end_search()
    found = page_of(small.run)
    assert "Settings that were stopped early took 14% of the search. Settings that failed took 42%." in found.words
    assert "on the front of training" in found.words
    assert "on the front of acting" in found.words
    assert "2 ms" in found.words
    assert '"name":"stopped early"' in (small.run / "report.html").read_text().replace(get_plotlyjs(), "")


@pytest.mark.slow
def test_blockpush_stands_beside_what_was_published(pushed: Path) -> None:
    found = page_of(pushed)
    assert "2 listed settings" in found.words
    measured = answer(read_records(pushed)).measured
    assert measured is not None
    assert measured.rates.keys() >= {"R1", "R2", "P1", "P2"}
    cells = {
        name: f"{name}{rate.estimate:.2f} [{rate.low:.2f}, {rate.high:.2f}]" for name, rate in measured.rates.items()
    }
    assert all(cell in found.words for cell in cells.values())
    assert f"{cells['P2']} 0.710.18" in found.words
    assert "Entropy of the routes that succeed: demonstrated 1.39, winner none, without a success" in found.words
    assert sum(tag == "video" for tag, _ in found.tags) in (1, 2)


@pytest.mark.slow
def test_how_diverse_the_winner_is_in_the_kitchen_stands_beside_the_demonstrations(
    cooked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "clips", lambda _: ())  # a minute without a GPU
    measured = answer(read_records(cooked)).measured
    assert measured is not None
    assert list(measured.entropies) == ["task entropy", "sequence entropy"]
    told = " ".join(f"{what}{bits:.2f}0.00" for what, bits in measured.entropies.items())  # nothing is demonstrated
    words = page_of(cooked).words
    assert told in words[words.index("of what is done in an episode, bits") :], words


def test_a_sweep_without_any_trial_yet_says_so(new_sweep: NewSweep) -> None:
    found = page_of(new_sweep().run)
    assert "Unfinished: 0 of 4 settings done. No winner has been measured yet." in found.words
    assert "No trial has anything to tell yet." in found.words


def test_a_sweep_under_way_shows_the_best_so_far_and_claims_no_winner(new_sweep: NewSweep) -> None:
    small = new_sweep()
    done = small.train({"codebook.bins": 3, "loss.gamma": 0})
    running = small.record({"codebook.bins": 1, "loss.gamma": 0}, Status.RUNNING, [])
    found = page_of(small.run)
    assert "Unfinished: 1 of 4 settings done, 1 under way. No winner has been measured yet." in found.words
    assert "Best so far: bins=3 gamma=0" in found.words
    assert "Winner:" not in found.words
    assert "--resume" in found.words
    assert done.trial in found.text
    assert running.trial in found.text


@pytest.mark.parametrize("over", [False, True])
def test_a_search_by_loss_that_is_not_simulated_yet_shows_its_losses(new_sweep: NewSweep, over: bool) -> None:
    small = new_sweep(objective="val_loss", space={"window": [1, 2]}, seeds_per_trial=2)
    for setting in small.sweep.enumerated():
        small.train(setting)
    if over:
        small.end_search()
        assert pq.read_table(small.run / "trials.parquet").column("primary").null_count == 2
        assert pq.read_table(small.run / "history.parquet").column("primary").null_count == 4
    best = read_trials(small.run, small.sweep.objective)[0]
    found = page_of(small.run)
    assert f"Best so far: {setting_text(best.setting)} after 1 epoch" in found.words
    assert f"{best.rungs[0].val_loss:.3g}" in found.words
    assert "Learning curves" in found.words
    assert "Does the validation loss tell?" not in found.words
    small.finish()
    found = page_of(small.run)
    assert "80 episodes, best val_loss" in found.words  # 40 of each seed
    assert "Does the validation loss tell?" in found.words


def test_a_search_that_is_over_says_how_many_fresh_episodes_are_there(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3]})
    small.train({"codebook.bins": 3})
    small.end_search()
    assert "of 50 fresh episodes that measure the winner, 0 are on record" in page_of(small.run).words


def test_a_failed_trial_is_shown_with_its_error_and_without_a_place(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3, 4]})
    small.train({"codebook.bins": 3})
    small.record({"codebook.bins": 4}, Status.ERROR, [], "the loss is not finite in epoch 2")
    small.finish()
    found = page_of(small.run)
    assert "Winner: bins=3" in found.words
    assert "error" in found.words
    assert "the loss is not finite in epoch 2" in found.words


def test_a_sweep_where_every_trial_failed_has_no_answer(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [3]})
    small.record({"codebook.bins": 3}, Status.ERROR, [], "no such luck")
    small.end_search()
    found = page_of(small.run)
    assert "No answer: the search is over and no trial has a result." in found.words
    assert "no such luck" in found.words


def test_hostile_texts_are_shown_not_obeyed(new_sweep: NewSweep) -> None:
    small = new_sweep(question=HOSTILE, space={"data.observation": ["state", HOSTILE]})
    small.train({"data.observation": "state"})
    small.record({"data.observation": HOSTILE}, Status.ERROR, [], HOSTILE)
    small.finish()
    text = write_report(small.run).read_text()
    found = Page(text)
    assert found.text.count(HOSTILE) >= 4  # title, heading, setting, error
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert "<script>alert" not in text.replace(get_plotlyjs(), "")
