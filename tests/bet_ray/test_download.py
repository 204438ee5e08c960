"""`bet-ray data download` says what it did, and what to do next."""

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from bet.data import download
from bet.data.store import save_episodes
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet_ray.cli import main
from tests.bet.data.server import File, serving

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> File:
    """A small data set to serve."""
    path = tmp_path_factory.mktemp("published") / "d.parquet"
    save_episodes(demonstrations(PointMassVersion.TWO, 20, seed=0), path)
    return File(path.read_bytes())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; gives its exit code and what it printed on stdout and stderr."""

    def command(*arguments: str | Path, what: str = "download") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bet-ray", "data", what, *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def served(url: str) -> download.Source:
    return download.Source(
        name="small",
        summary="twenty walks",
        licence="none needed",
        homepage="http://localhost",
        tasks={"pointmass2": "d.parquet"},
        target="small",
        files=(download.Remote(f"{url}/walks", "d.parquet"),),
    )


def register(monkeypatch: pytest.MonkeyPatch, source: download.Source) -> None:
    monkeypatch.setattr(download, "SOURCES", MappingProxyType({**download.SOURCES, source.name: source}))


def test_it_says_where_the_data_went_under_which_licence_with_which_digest_and_what_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, episodes: File
) -> None:
    with serving(walks=episodes) as server:
        register(monkeypatch, served(server.url))
        code, out, err = run("small", "--out", tmp_path)
        assert (code, err) == (0, "")
        assert f"twenty walks, in {tmp_path}/small\n" in out
        assert "licence: none needed" in out
        assert (
            f"sha256 {hashlib.sha256(episodes.content).hexdigest()}  d.parquet (recorded in {tmp_path}/downloads.json)"
            in out
        )
        assert f"next: bet-ray data info {tmp_path}/small/d.parquet\n" in out
        assert "20 demonstrations" in run(tmp_path / "small/d.parquet", what="info")[1]
        code, out, _ = run("small", "--out", tmp_path)
        assert code == 0
        assert "there already, unchanged since its download: twenty walks" in out
        assert len(server.asked) == 1
        assert run("small", "--out", tmp_path, "--force")[0] == 0
        assert len(server.asked) == 2


def test_it_goes_to_the_data_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, episodes: File
) -> None:
    monkeypatch.setenv("BET_DATA_DIR", str(tmp_path))
    with serving(walks=episodes) as server:
        register(monkeypatch, served(server.url))
        assert run("small")[0] == 0
    assert (tmp_path / "small" / "d.parquet").read_bytes() == episodes.content


def test_a_download_that_cannot_be_had_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with serving() as server:
        register(monkeypatch, served(server.url))
        code, out, err = run("small", "--out", tmp_path)
    assert (code, out) == (1, "")
    assert err == f"error: {server.url}/walks: the server says 404 Not Found\n"


def test_data_of_another_digest_is_one_line_that_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, episodes: File
) -> None:
    with serving(walks=episodes) as server:
        source = served(server.url)
        files = (dataclasses.replace(source.files[0], sha256="0" * 64),)
        register(monkeypatch, dataclasses.replace(source, files=files))
        code, _, err = run("small", "--out", tmp_path)
    assert code == 1
    assert err.count("\n") == 1
    assert hashlib.sha256(episodes.content).hexdigest() in err
    assert "0" * 64 in err


def test_without_a_name_it_lists_every_data_set(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert all(name in out for name in download.SOURCES)


def test_an_unknown_name_is_a_usage_error_with_a_did_you_mean(run: Run) -> None:
    assert run("pushd") == (2, "", "error: no data set 'pushd' to download; did you mean 'pusht'?\n")
