"""Status tells of a run by its directory alone, whatever became of its process, and changes nothing."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bet_ray.driver import this_process
from bet_ray.ledger import PARTS, Ledger
from bet_ray.manifest import DRIVER, UNDER_WAY, RunError, amend_manifest, write_manifest
from bet_ray.status import status
from bet_ray.trials import Status, write_record
from bet_ray.values import Estimate
from tests.bet_ray.commands import Command
from tests.bet_ray.test_ledger import SOURCE, TASK, rows
from tests.bet_ray.test_study import record, sweep_of


def files_of(run: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}


def evaluated(run: Path, done: int, asked: int, **more: Any) -> Ledger:
    """An evaluation that began 100 seconds ago, of which `done` episodes are recorded."""
    began = (datetime.now(UTC) - timedelta(seconds=100)).isoformat()
    entry = SOURCE.key | {"began": began, "episodes": asked, "missing": asked, **more}
    write_manifest(run, "eval", TASK.name, {UNDER_WAY: [entry]})
    ledger = Ledger(run, TASK)
    ledger.append(*rows(list(range(done))))
    return ledger


def test_an_evaluation_under_way_shows_its_rates_so_far_and_the_time_left(tmp_path: Path) -> None:
    evaluated(tmp_path, 50, 200)
    found = status(tmp_path)
    (one,) = found.rollouts
    assert (one.done, one.asked, one.errors, found.finished) == (50, 200, 0, False)
    assert one.found is not None
    assert one.found.success.estimate == 17 / 50
    assert one.remaining == pytest.approx(300, rel=0.1)


@pytest.fixture
def dead() -> dict[str, Any]:
    """A process that was on this machine."""
    told = "import json; from bet_ray.driver import this_process; print(json.dumps(this_process()))"
    return json.loads(subprocess.run([sys.executable, "-c", told], capture_output=True, check=True).stdout)


def state_of(run: Path, command: Command) -> str:
    done = command("status", run)
    return done.out.partition(f"{run}: ")[2].partition(" · ")[0]


def test_a_run_is_running_as_long_as_its_process_is(tmp_path: Path, dead: dict[str, Any], command: Command) -> None:
    evaluated(tmp_path / "runs", 50, 200, driver=this_process())
    assert state_of(tmp_path / "runs", command) == f"running (pid {os.getpid()})"
    evaluated(tmp_path / "died", 50, 200, driver=dead)
    assert state_of(tmp_path / "died", command) == "its process has ended, the same command goes on"
    evaluated(tmp_path / "reused", 50, 200, driver=this_process() | {"started": dead["started"]})
    assert state_of(tmp_path / "reused", command) == "its process has ended, the same command goes on"


def test_a_sweep_whose_process_died_says_how_it_goes_on(tmp_path: Path, dead: dict[str, Any], command: Command) -> None:
    sweep = sweep_of(trials=4)
    write_manifest(tmp_path, "sweep", sweep.task, {"sweep": sweep.model_dump(mode="json")})
    assert state_of(tmp_path, command) == f"running (pid {os.getpid()})"
    amend_manifest(tmp_path, sweep.task, lambda manifest: manifest.update({DRIVER: dead}))
    assert state_of(tmp_path, command) == "its process has ended, the same command goes on with --resume"


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"space": "the same machine, before it was started again"}])
def test_of_a_run_elsewhere_only_its_files_tell(tmp_path: Path, elsewhere: dict[str, str], command: Command) -> None:
    evaluated(tmp_path, 50, 200, driver=this_process() | elsewhere)
    assert state_of(tmp_path, command) == "under way"
    for file in tmp_path.rglob("*"):
        os.utime(file, (time.time() - 300, time.time() - 300))
    assert state_of(tmp_path, command) == "unfinished, and quiet: died, or slow"


def test_a_torn_part_of_a_killed_writer_is_passed_over_and_nothing_is_written(tmp_path: Path) -> None:
    ledger = evaluated(tmp_path, 50, 200)
    torn = tmp_path / "episodes" / PARTS / "torn.parquet"
    torn.write_bytes(b"PAR1 and no more")
    ledger.execution.append(rows([1])[1])
    before = files_of(tmp_path)
    assert status(tmp_path).episodes == 50
    assert files_of(tmp_path) == before


def test_an_evaluation_that_ended_is_finished(tmp_path: Path) -> None:
    write_manifest(tmp_path, "eval", TASK.name, {})
    Ledger(tmp_path, TASK).append(*rows([0, 1, 2]))
    found = status(tmp_path)
    assert found.finished
    assert [(one.done, one.asked, one.remaining) for one in found.rollouts] == [(3, None, None)]


def test_a_training_that_is_over_shows_its_best_loss(trained: Path, command: Command) -> None:
    found = status(trained)
    assert found.finished
    (one,) = found.trainings
    assert (one.epochs, one.of_epochs) == (1, 1)
    done = command("status", trained)
    assert done.code == 0, done
    assert f"train of pointmass2 in {trained}: finished" in done.out
    assert "1 of 1 epoch, best validation loss" in done.out


def test_a_sweep_shows_its_trials_its_leader_its_errors_and_the_time_left(tmp_path: Path) -> None:
    sweep = sweep_of(trials=4)
    write_manifest(tmp_path, "sweep", sweep.task, {"sweep": sweep.model_dump(mode="json")})
    began = datetime.now(UTC)
    for place, (bins, state) in enumerate([(2, Status.DONE), (4, Status.ERROR), (8, Status.RUNNING)]):
        one = record({"codebook.bins": bins}, sweep, value=place / 10)
        when = {"began": began, "ended": began + timedelta(seconds=60) if state is not Status.RUNNING else None}
        error = {Status.ERROR: "it diverged", Status.DONE: "a node died, and it went on elsewhere"}.get(state)
        changes = {"status": state, "error": error, **when}
        write_record(tmp_path, one.model_copy(update=changes))
    found = status(tmp_path)
    assert found.search is not None
    assert dict(found.search.counts) == {Status.DONE: 1, Status.ERROR: 1, Status.RUNNING: 1}
    assert (found.search.of, found.search.over, found.finished) == (4, False, False)
    assert found.search.remaining == pytest.approx(60)  # two in a minute, two to come
    assert found.errors == ["it diverged"]


def test_what_leads_is_told_by_the_rung_that_counts_not_by_the_last(tmp_path: Path, command: Command) -> None:
    sweep = sweep_of(trials=1)
    write_manifest(tmp_path, "sweep", sweep.task, {"sweep": sweep.model_dump(mode="json")})
    one = record({"codebook.bins": 2}, sweep, value=0.4)
    (rung,) = one.rungs
    scores = ((1, 0.4), (2, 0.1))
    rungs = [
        rung.model_copy(update={"epoch": epoch, "objective": score, "primary": Estimate(score, score, score)})
        for epoch, score in scores
    ]
    write_record(tmp_path, one.model_copy(update={"rungs": rungs}))
    assert "primary on tune 0.400" in command("status", tmp_path).out


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        status(tmp_path)
