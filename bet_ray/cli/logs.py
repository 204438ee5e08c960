"""What our loggers print on stderr: a line for people, or with BET_LOG=json an object for machines."""

import json
import logging
import os
from datetime import UTC, datetime
from enum import StrEnum

from bet.errors import UsageError

BET_LOG = "BET_LOG"  # environment variable, so that a job's or a container's is set from outside
_USUAL = frozenset(vars(logging.makeLogRecord({})))


class LogStyle(StrEnum):
    TEXT = "text"
    JSON = "json"
    """One object a line, from INFO on."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},  # what `extra` gave
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def set_up(*, debug: bool) -> None:
    """Raises `UsageError` for a style that is none."""
    name = os.environ.get(BET_LOG, LogStyle.TEXT)
    if name not in list(LogStyle):
        raise UsageError(f"{BET_LOG}: expected {' or '.join(LogStyle)}, got {name!r}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if name == LogStyle.JSON:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Json())
    if debug or name == LogStyle.JSON:
        for package in ("bet", "bet_ray"):
            logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.INFO)
