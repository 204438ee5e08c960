"""`bet-ray data convert`: another format, or one line that says why not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bet.data.formats import READ_ONLY, DataFormat, detect, load, save
from bet.layouts import PushTLayout
from tests.bet.data.samples import pusht, same
from tests.bet_ray.commands import Command

Convert = Callable[..., tuple[int, str]]


@pytest.fixture
def convert(command: Command) -> Convert:
    """Runs the command; gives its exit code and what it prints."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        done = command("data", "convert", *arguments)
        return done.code, " ".join((done.out + done.err).split())

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(pusht(PushTLayout.KEYPOINTS8), tmp_path / "source", DataFormat.LEROBOT_V21)
    return tmp_path / "source"


def test_it_says_what_it_wrote(convert: Convert, source: Path, tmp_path: Path) -> None:
    code, text = convert(source, tmp_path / "out", "--to", "lerobot-v3.0")
    assert code == 0
    assert "3 demonstrations of pusht, 11 steps, from lerobot-v2.1 to lerobot-v3.0 in" in text
    assert detect(tmp_path / "out") is DataFormat.LEROBOT_V30
    assert same(load(tmp_path / "out"), pusht(PushTLayout.KEYPOINTS8))


def test_it_writes_the_layout_asked_for(convert: Convert, source: Path, tmp_path: Path) -> None:
    assert convert(source, tmp_path / "out.parquet", "--to", "parquet", "--observation", "agent")[0] == 0
    assert same(load(tmp_path / "out.parquet"), pusht(PushTLayout.AGENT))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "lerobot"], "--to: no format 'lerobot'; did you mean 'lerobot-v"),
        (["--to", "bet-kitchen"], "demonstrations of 'pusht'; the format holds 'kitchen'"),
        (["--to", "lerobot-v3.0", "--observation", "state"], "choose one as observation"),
        (
            ["--to", "parquet", "--observation", "keypoint9"],
            "no layout 'keypoint9'; did you mean 'keypoints9'?",
        ),
    ],
)
def test_what_cannot_be_written_is_one_line(
    convert: Convert, source: Path, arguments: list[str], message: str, tmp_path: Path
) -> None:
    code, text = convert(source, tmp_path / "out", *arguments)
    assert code == 2
    assert text.startswith("error: ")
    assert message in text
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_overwritten_not_even_by_itself(convert: Convert, source: Path) -> None:
    code, text = convert(source, source, "--to", "lerobot-v3.0")
    assert code == 2
    assert "already there" in text
    assert detect(source) is DataFormat.LEROBOT_V21


def test_the_help_names_every_format_that_is_written(convert: Convert) -> None:
    code, text = convert("--help")
    assert code == 0
    assert [kind for kind in DataFormat if kind.value not in text] == list(READ_ONLY)
