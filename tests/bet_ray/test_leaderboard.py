"""What a sweep prints: a line per trial as it ends, then the winner and how sure its choice is."""

from pathlib import Path

import pytest

from bet import tasks
from bet.measure import Measurement
from bet.stats import rate_interval
from bet_ray.cli.console import console
from bet_ray.cli.leaderboard import leaderboard, live_leaderboard, print_result
from bet_ray.sweep import Objective, parse_sweep
from bet_ray.trials import TRIAL_JSON, Measured, Raced, Rung, Status, TrialRecord, read_trials, rivals, write_record
from bet_ray.tuning import SweepResult
from bet_ray.values import Estimate

SWEEP = parse_sweep({"question": "Which?", "task": "pusht", "space": {"bins": [1, 2, 3]}, "search": "grid"}, "x")
RARELY = Estimate(0.1, 0.0, 0.2)


def trial(bins: int, *primary: float, success: Estimate = RARELY) -> TrialRecord:
    """A trial that has an estimate and its interval after one epoch."""
    estimate, low, high = primary
    rung = Rung(
        epoch=1,
        objective=estimate,
        primary=Estimate(estimate, low, high),
        success=success,
        episodes=64,
        val_loss=1 - estimate,
        by_seed={0: (estimate, 0.1)},
    )
    setting = {"codebook.bins": bins}
    return TrialRecord(trial=str(bins), setting=setting, status=Status.DONE, rungs=[rung], train_seconds=1.0)


FAILED = TrialRecord(
    trial="f", setting={"codebook.bins": 9}, status=Status.ERROR, rungs=[], train_seconds=1, error="no"
)
WINNER, NEAR, FAR = trial(3, 0.8, 0.7, 0.9), trial(2, 0.65, 0.55, 0.75), trial(1, 0.5, 0.4, 0.6)


def decided(record: TrialRecord, *, tied: bool, report: float | None = None) -> TrialRecord:
    """A trial of a search that is over; one with a `report` was measured there."""
    measured = report and Measured(
        primary=Estimate(report, report - 0.1, report + 0.1),
        success=RARELY,
        episodes=10,
        confidence=0.975,
    )
    return record.model_copy(update={"tied": tied, "report": measured})


def printed(trials: list[TrialRecord], capsys: pytest.CaptureFixture[str]) -> str:
    found = Measurement(rate_interval(7, 10), rate_interval(1, 10), 10, 1, {}, None, {}, {}, {}, {})
    print_result(SWEEP, SweepResult(Path("run"), trials, trials[0], trials[0].rungs[0], found))
    return capsys.readouterr().out


def test_settings_that_may_be_as_good_as_the_winner_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    winner, near, far = decided(WINNER, tied=True), decided(NEAR, tied=True), decided(FAR, tied=False)
    said = printed([winner, near, far, FAILED], capsys)
    assert "  1 of 2 other settings is tied with the winner: not known to be worse\n" in said
    assert "  none of 1 other setting is tied with the winner" in printed([winner, far], capsys)
    assert "tied" not in printed([winner], capsys)


def test_a_failure_is_told_only_of_a_setting_that_did_not_get_over_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed([WINNER.model_copy(update={"failures": 1, "error": "its node died"}), FAILED], capsys)
    assert "its node died" not in said
    assert " no " in said


def test_finalists_are_printed_with_what_they_lost_between_choice_and_measurement(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = printed([decided(WINNER, tied=True, report=0.7), decided(NEAR, tied=True, report=0.75)], capsys)
    assert "bins=3   0.80 [0.70, 0.90]  0.70 [0.60, 0.80]      +0.10  0.10 [0.00, 0.20]" in said
    assert "bins=2   0.65 [0.55, 0.75]  0.75 [0.65, 0.85]      -0.10  0.10 [0.00, 0.20]" in said
    alone = printed([decided(WINNER, tied=True, report=0.7), decided(FAR, tied=False)], capsys)
    assert "shrinkage" not in alone


def test_settings_that_raced_show_what_the_race_says_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    raced = Raced(episodes=60, primary=Estimate(0.61, 0.51, 0.71))
    beaten = FAR.model_copy(update={"race": raced.model_copy(update={"beaten_by": "3"})})
    said = printed([WINNER.model_copy(update={"race": raced}), beaten, FAILED], capsys)
    assert [line.split()[-1] for line in said.splitlines() if "0.61 [0.51, 0.71]" in line] == ["done", "beaten"]
    assert "race" not in printed([WINNER], capsys)


def test_a_winner_is_measured_by_the_rates_that_the_literature_has_else_by_success(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert f"score {rate_interval(7, 10):.2f}, success {rate_interval(1, 10):.2f}, 10 fresh" in printed(
        [WINNER], capsys
    )
    rates = {name: rate_interval(count, 10) for count, name in enumerate(tasks.get("blockpush").rates)}
    found = Measurement(rate_interval(7, 10), rate_interval(1, 10), 10, 1, {}, None, rates, {}, {}, {})
    sweep = parse_sweep({"question": "Which?", "task": "blockpush", "space": {"bins": [1, 2]}, "search": "grid"}, "x")
    print_result(sweep, SweepResult(Path("run"), [WINNER], WINNER, WINNER.rungs[0], found))
    shown = "".join(f", {name} {rates[name]:.2f}" for name in ("R1", "R2", "P1", "P2"))
    assert f"blocks pushed {found.primary:.2f}{shown}, 10 fresh episodes" in capsys.readouterr().out


def test_nobody_is_tied_before_the_search_is_over() -> None:
    assert rivals([WINNER, NEAR, FAR]) is None
    assert rivals([FAILED]) is None


def test_those_left_in_a_race_come_first_then_those_that_stayed_longest(tmp_path: Path) -> None:
    def raced(record: TrialRecord, episodes: int, score: float, beaten_by: str | None = None) -> None:
        race = Raced(episodes=episodes, primary=Estimate(score, score - 0.1, score + 0.1), beaten_by=beaten_by)
        write_record(tmp_path, record.model_copy(update={"race": race}))

    raced(trial(1, 0.9, 0.8, 1.0), 20, 0.9, beaten_by="3")  # the search, and its last look, thought well of it
    raced(trial(2, 0.5, 0.4, 0.6), 60, 0.6)
    raced(trial(3, 0.5, 0.4, 0.6), 60, 0.7)
    raced(trial(4, 0.5, 0.4, 0.6), 40, 0.2, beaten_by="3")
    write_record(tmp_path, FAILED)
    assert [record.trial for record in read_trials(tmp_path, Objective.PRIMARY)] == ["3", "2", "4", "1", "f"]


def test_a_trial_that_ends_is_told_once_with_its_score_and_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    with live_leaderboard(SWEEP) as tell:
        tell([FAR])
        tell([WINNER, FAR])
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] bins=1: 0.50 [0.40, 0.60] after 1 epoch",
        "[2/3] bins=3: 0.80 [0.70, 0.90] after 1 epoch",
    ]


def test_a_trial_that_was_not_simulated_is_told_with_its_loss(capsys: pytest.CaptureFixture[str]) -> None:
    rung = Rung(epoch=7, objective=0.4321, val_loss=0.4321, by_seed={0: None})
    loss = WINNER.model_copy(update={"rungs": [rung]})
    with live_leaderboard(SWEEP) as tell:
        tell([loss])
    assert capsys.readouterr().err.splitlines() == ["[1/3] bins=3: val loss 0.432 after 7 epochs"]
    console.print(leaderboard(SWEEP, [loss]))
    assert capsys.readouterr().out.splitlines()[-2].split() == ["1", "3", "7", "0.432", "done"]


def test_settings_that_tie_are_in_an_order_that_their_names_have_no_part_in(tmp_path: Path) -> None:
    """A trial's name changes with the place of its demonstrations; its rank must not."""
    for names in (("a", "b"), ("b", "a")):
        for name, bins in zip(names, (3, 1), strict=True):
            file = tmp_path / "policies" / name / TRIAL_JSON
            file.parent.mkdir(parents=True, exist_ok=True)
            record = trial(bins, 0.8, 0.7, 0.9).model_copy(update={"trial": name})
            file.write_text(record.model_dump_json())
        assert [found.setting["codebook.bins"] for found in read_trials(tmp_path, Objective.PRIMARY)] == [1, 3]
