"""The doctor finds what is broken, by doing it, and says what mends it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from bet_ray import doctor
from bet_ray.doctor import Check, Finding, Health, checks, examine, healthy
from tests.bet_ray.commands import Command

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_on_a_healthy_machine_nothing_fails_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = {finding.what: finding for check in checks(tmp_path / "runs") for finding in examine(check)}
    assert healthy(list(found.values())), found
    for what in ("python", "packages", "torch", "simulator pusht", "simulator blockpush", "Ray actor", "Ray auth"):
        assert found[what].health is Health.OK
        assert not found[what].fix
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_on_a_broken_machine_each_fault_has_a_line_and_a_fix(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    (shadow / "pymunk").mkdir(parents=True)
    (shadow / "pymunk" / "__init__.py").write_text(
        "raise ImportError('libchipmunk.so: cannot open shared object file')"
    )
    (shadow / "optuna-1.0.dist-info").mkdir()
    (shadow / "optuna-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: optuna\nVersion: 1.0\n")
    (tmp_path / "runs").write_text("a file where a folder should be")
    environment = os.environ | {
        "PYTHONPATH": f"{shadow}{os.pathsep}{REPOSITORY}",
        "MUJOCO_GL": "nonsense",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "bet_ray", "doctor", "--runs", str(tmp_path / "runs")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done
    failed = re.findall(r"^ (\S.*?)\s+fail ", done.stdout, re.MULTILINE)
    assert failed == ["package optuna", "MuJoCo GL", "simulators", "run directories", "Ray"]
    assert "libchipmunk.so: cannot open shared object file" in done.stdout
    assert f"simulators: pip install --force-reinstall --no-deps pymunk=={version('pymunk')}\n" in done.stdout
    assert "1.0, >=4.5 is needed" in done.stdout
    assert "package optuna: pip install 'optuna>=4.5'" in done.stdout
    assert "MUJOCO_GL is nonsense, with which no simulator starts" in done.stdout
    assert "MuJoCo GL: unset MUJOCO_GL\n" in done.stdout
    assert "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty" in done.stdout
    assert "Ray: put the cluster's token" in done.stdout
    assert "5 checks failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_what_is_found_is_shown_as_it_is_brackets_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        raise ImportError("[/usr/lib/libGL.so] is missing")

    monkeypatch.setattr(doctor, "checks", lambda *_, **__: [Check("GL", broken, "mend it")])
    done = command("doctor", "--quick")
    assert (done.code, "ImportError: [/usr/lib/libGL.so] is missing" in done.out) == (1, True), done


def test_a_cluster_that_does_not_answer_fails_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    (finding,) = examine(checks(tmp_path)[-1])
    assert (finding.what, finding.health) == ("Ray", Health.FAIL)
    assert finding.found.startswith("RAY_ADDRESS=127.0.0.1:9: no Ray answers there")
    assert "unset RAY_ADDRESS" in finding.fix


def test_a_run_directory_that_cannot_be_written_fails_and_one_that_can_is_left_as_it_was(tmp_path: Path) -> None:
    (disk,) = (check for check in checks(tmp_path / "runs") if check.what == "run directories")
    assert examine(disk)[0].health is not Health.FAIL
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").write_text("a file where a folder should be")
    (disk,) = (check for check in checks(tmp_path / "runs") if check.what == "run directories")
    (finding,) = examine(disk)
    assert finding.health is Health.FAIL
    assert "writable" in finding.fix


def test_a_data_folder_that_is_none_fails_and_demonstrations_that_are_absent_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there,) = (check for check in checks(tmp_path) if check.what == "demonstrations")
    monkeypatch.setenv("BET_DATA_DIR", str(tmp_path))
    absent = {finding.what: finding for finding in examine(there)}["demonstrations of blockpush"]
    assert absent.health is Health.WARN
    assert absent.fix.startswith("bet-ray data ")
    monkeypatch.setenv("BET_DATA_DIR", str(tmp_path / "nowhere"))
    (finding,) = examine(there)
    assert (finding.health, finding.fix) == (Health.FAIL, "export BET_DATA_DIR=FOLDER")


def test_a_log_of_an_unknown_style_is_a_usage_error(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BET_LOG", "xml")
    done = command("settings")
    assert (done.code, done.err) == (2, "error: BET_LOG: expected text or json, got 'xml'\n")
