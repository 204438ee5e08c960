"""Commands of ours: run in a test's own process, or started at another terminal."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]


def eventually(
    happened: Callable[[], object], process: subprocess.Popen[Any] | None = None, said: Callable[[], str] = str
) -> None:
    """Wait until something is the case, however busy the machine. A process that is to bring it about must not end
    before; `said` tells what it did say.
    """
    deadline = time.monotonic() + 300
    while not happened():
        assert process is None or process.poll() is None, f"it ended before: {said()}"
        assert time.monotonic() < deadline, f"it does not come: {said()}"
        time.sleep(0.05)


def at_a_terminal(*arguments: str | Path | int, before: str = "", **how: Any) -> subprocess.Popen[str]:
    """`bet-ray` in a session of its own, where one may type Ctrl-C; `before` is code that it runs first.

    A test run that was put into the background ignores Ctrl-C, and so would its children.
    """
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{listens}; {before}\nfrom bet_ray.cli import main; main()"
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, start_new_session=True, **piped | how)
