"""Commands of ours: run in a test's own process, or started at another terminal."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]


def at_a_terminal(*arguments: str | Path | int, before: str = "", **how: Any) -> subprocess.Popen[str]:
    """`bet-ray` in a session of its own, where one may type Ctrl-C; `before` is code that it runs first.

    A test run that was put into the background ignores Ctrl-C, and so would its children.
    """
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{listens}; {before}\nfrom bet_ray.cli import main; main()"
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, start_new_session=True, **piped | how)
