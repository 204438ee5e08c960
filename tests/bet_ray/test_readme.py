"""What the README says about gymnasium environments can be typed as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.bet_ray.commands import Command

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_gymnasium_example_makes_demonstrations_trains_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    section = README.read_text().split("## Any gymnasium environment\n")[1].split("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"^\$ bet-ray (.*)$", section, re.MULTILINE)
    assert [typed.split()[0] for typed in commands] == ["train", "eval"]
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    done = [command(*shlex.split(typed)) for typed in commands]
    assert [each.code for each in done] == [0, 0], done
    trained, evaluated = (each.out for each in done)
    assert "100 demonstrations" in trained
    rows = pq.read_table(tmp_path / "runs" / "car" / "episodes").to_pylist()
    assert len(rows) == 200
    assert sum(row["success"] for row in rows) / len(rows) > 0.5
    for row in rows:
        assert row["success"] == (row["return"] >= 90)
    assert f"({sum(row['success'] for row in rows)} of 200" in evaluated
