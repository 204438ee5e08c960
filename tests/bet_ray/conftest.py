"""A small trained run and a shared Ray session for the engine's tests."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bet import tasks
from bet.config import make_config
from bet.policy import Policy
from bet_ray.cli import main
from bet_ray.session import session
from bet_ray.training import begin, train
from tests.bet_ray.commands import Command, Done
from tests.bet_ray.faulty import FAULTS_FILE


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a point mass 2 policy trained for one epoch. Read only: evaluate with `out` elsewhere."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    config = make_config("pointmass2", {"train.epochs": 1, "train.lr": 3e-3, "train.batch_size": 256})
    episodes = tasks.get("pointmass2").load(config.data)
    begin(run, config, episodes, resume=False)
    train(run, config, episodes)
    return run


@pytest.fixture(scope="session")
def policy(trained: Path) -> Policy:
    """What the trained run holds."""
    return Policy.load(trained)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `bet-ray ...` in this process."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["bet-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        assert isinstance(code, int)
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Ray, started once for all tests that share it; yields its CPUs. Its workers know of the simulator with faults."""
    os.environ[FAULTS_FILE] = str(tmp_path_factory.mktemp("faults") / "faults.json")
    with session(2) as cpus:
        yield cpus


@pytest.fixture(autouse=True)
def _commands_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """One that a failed test leaves behind would take the CPUs of all that come after."""
    yield
    if request.node.get_closest_marker("slow"):
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(child.pid) == child.pid:  # of `start_new_session`
                    for process in [child, *child.children(recursive=True)]:
                        process.kill()
