"""What a command of ours does when a test runs it in its own process."""

from collections.abc import Callable
from typing import NamedTuple


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]
