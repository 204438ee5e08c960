"""What the README says about gymnasium environments can be typed as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_gymnasium_example_makes_demonstrations_trains_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.read_text().split("## Any gymnasium environment\n")[1].split("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"^\$ bet-ray (.*)$", section, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "eval"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other work beside two threads of torch slows them tenfold

    def python(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python(script)
    trained, evaluated = (python("from bet_ray.cli import main; main()", *shlex.split(command)) for command in commands)
    assert "100 demonstrations" in trained
    rows = pq.read_table(tmp_path / "runs" / "car" / "episodes").to_pylist()
    assert len(rows) == 200
    assert sum(row["success"] for row in rows) / len(rows) > 0.5
    for row in rows:
        assert row["success"] == (row["return"] >= 90)
    assert f"({sum(row['success'] for row in rows)} of 200" in evaluated
