"""What a sweep prints: a line per trial as it ends, then the winner and how sure its choice is."""

from pathlib import Path

import pytest

from bet import tasks
from bet.measure import Measurement
from bet.stats import rate_interval
from bet_ray.cli.leaderboard import live_leaderboard, print_result
from bet_ray.sweep import Objective, parse_sweep
from bet_ray.trials import TRIAL_JSON, Rung, Status, TrialRecord, read_trials, rivals
from bet_ray.tuning import SweepResult

SWEEP = parse_sweep({"question": "Which?", "task": "pusht", "space": {"bins": [1, 2, 3]}, "search": "grid"}, "x")


def trial(bins: int, *primary: float, success: tuple[float, float, float] = (0.1, 0.0, 0.2)) -> TrialRecord:
    """A trial that has an estimate and its interval after one epoch."""
    estimate, low, high = primary
    rung = Rung(
        epoch=1,
        objective=estimate,
        primary=(estimate, low, high),
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


def printed(trials: list[TrialRecord], capsys: pytest.CaptureFixture[str]) -> str:
    found = Measurement(rate_interval(7, 10), rate_interval(1, 10), 10, 1, {}, None, {}, {}, {})
    print_result(SWEEP, SweepResult(Path("run"), trials, trials[0], trials[0].rungs[0], found))
    return capsys.readouterr().out


def test_settings_that_may_be_as_good_as_the_winner_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed([WINNER, NEAR, FAR, FAILED], capsys)
    assert "  1 of 2 other settings has an interval that overlaps the winner's\n" in said
    assert "overlap" not in printed([WINNER, FAR], capsys)
    assert "overlap" not in printed([WINNER], capsys)


def test_a_winner_is_measured_by_the_rates_that_the_literature_has_else_by_success(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert f"score {rate_interval(7, 10):.2f}, success {rate_interval(1, 10):.2f}, 10 fresh" in printed(
        [WINNER], capsys
    )
    rates = {name: rate_interval(count, 10) for count, name in enumerate(tasks.get("blockpush").rates)}
    found = Measurement(rate_interval(7, 10), rate_interval(1, 10), 10, 1, {}, None, rates, {}, {})
    sweep = parse_sweep({"question": "Which?", "task": "blockpush", "space": {"bins": [1, 2]}, "search": "grid"}, "x")
    print_result(sweep, SweepResult(Path("run"), [WINNER], WINNER, WINNER.rungs[0], found))
    shown = "".join(f", {name} {rates[name]:.2f}" for name in ("R1", "R2", "P1", "P2"))
    assert f"blocks pushed {found.primary:.2f}{shown}, 10 fresh episodes" in capsys.readouterr().out


def test_intervals_are_of_the_objective_and_a_loss_has_none() -> None:
    trials = [WINNER, NEAR, FAR]
    assert str(rivals(trials, Objective.SUCCESS)) == "2 of 2 other settings have intervals that overlap the winner's"
    apart = [trial(3, 0.8, 0.7, 0.9, success=(0.5, 0.4, 0.6)), NEAR]
    assert str(rivals(apart, Objective.SUCCESS)) == "none of 1 other setting has an interval that overlaps the winner's"
    assert rivals(trials, Objective.VAL_LOSS) is None
    assert rivals([FAILED], Objective.PRIMARY) is None


def test_a_trial_that_ends_is_told_once_with_its_score_and_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    with live_leaderboard(SWEEP) as tell:
        tell([FAR])
        tell([WINNER, FAR])
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] bins=1: 0.50 [0.40, 0.60] after 1 epoch",
        "[2/3] bins=3: 0.80 [0.70, 0.90] after 1 epoch",
    ]


def test_settings_that_tie_are_in_an_order_that_their_names_have_no_part_in(tmp_path: Path) -> None:
    """A trial's name changes with the place of its demonstrations; its rank must not."""
    for names in (("a", "b"), ("b", "a")):
        for name, bins in zip(names, (3, 1), strict=True):
            file = tmp_path / "policies" / name / TRIAL_JSON
            file.parent.mkdir(parents=True, exist_ok=True)
            record = trial(bins, 0.8, 0.7, 0.9).model_copy(update={"trial": name})
            file.write_text(record.model_dump_json())
        assert [found.setting["codebook.bins"] for found in read_trials(tmp_path, Objective.PRIMARY)] == [1, 3]
