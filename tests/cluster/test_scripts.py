"""The Slurm script and the image."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.files import CLUSTER, PROJECT, ROOT, needed_to_install, pinned, unknown_options

SLURM = CLUSTER / "slurm.sh"


def bash(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=20, check=False
    )


def test_the_slurm_script_is_bash() -> None:
    assert bash("-n", SLURM).stderr == ""


def test_shellcheck_finds_nothing_in_the_slurm_script() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, str(SLURM)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stdout


def test_the_slurm_script_says_how_it_is_used(tmp_path: Path) -> None:
    done = bash(SLURM, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch")


def test_the_slurm_script_starts_ray_with_options_that_it_has() -> None:
    text = SLURM.read_text()
    assert len(re.findall(r"\bray start --", text)) == 2
    assert unknown_options(text) == set()


def test_the_token_of_a_slurm_job_is_in_no_command_line() -> None:
    text = SLURM.read_text()
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN" in text
    assert "$RAY_AUTH_TOKEN" not in text
    assert "${RAY_AUTH_TOKEN" not in text


def instructions(name: str) -> list[str]:
    """Of a Dockerfile, each with its word."""
    lines = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def test_the_image_holds_what_is_installed_and_nothing_else_is_sent() -> None:
    copied = {source for copy in instructions("COPY") for source in copy.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert needed_to_install() <= copied
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert any("pip install" in run and "--constraint constraints.txt" in run for run in instructions("RUN"))


def test_the_image_runs_as_a_person_and_starts_no_ray_without_a_token() -> None:
    assert instructions("USER")[-1] == "ray"
    (environment,) = instructions("ENV")
    assert "RAY_AUTH_MODE=token" in environment.split()


def test_the_image_has_a_python_and_a_name_of_the_right_version() -> None:
    (version,) = re.findall(r"python:3\.(\d+)-", instructions("FROM")[0])
    least = PROJECT["project"]["requires-python"].removeprefix(">=3.")
    assert int(version) >= int(least)
    tags = re.findall(r"/bet-ray:(\S+)", (CLUSTER / "Dockerfile").read_text())
    assert set(tags) == {pinned("ray")}
