"""Finished episodes on their way to the disk."""

import errno
import logging
import time

import pyarrow as pa

from bet.errors import FailedRunError
from bet.wording import counted
from bet_ray.dispatch import Finished
from bet_ray.ledger import Ledger

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0  # finished episodes reach the disk at least this often
ROOM_SECONDS = 300.0  # to wait for room on a full disk
MANY_PARTS = 64  # slow readers down: they are published before the end
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Recorder:
    """Collects finished episodes and writes them to a ledger about once a second.

    On a full disk it waits for room, and loses nothing meanwhile.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: list[Finished] = []
        self._written = time.monotonic()
        self._parts = 0

    def add(self, finished: Finished) -> None:
        self._held.append(finished)

    def flush_if_due(self) -> None:
        """To be called often: puts on disk what has been held for a second."""
        if time.monotonic() - self._written > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put everything held on disk. Raises `FailedRunError` where there is no room for long."""
        if self._held:
            kept = [finished.trajectories for finished in self._held if finished.trajectories is not None]
            episodes = _together([finished.episodes for finished in self._held])
            execution = _together([finished.execution for finished in self._held])
            trajectories = _together(kept) if kept else None
            waits_until = time.monotonic() + ROOM_SECONDS
            while not self._append(episodes, execution, trajectories):
                if time.monotonic() > waits_until:
                    raise FailedRunError(
                        f"{self._ledger.run}: the disk is full, {counted(len(episodes), 'finished episode')} could not "
                        "be recorded; make room and run the same command again: what is recorded is not run twice"
                    )
                time.sleep(1)
            self._held = []
            self._parts += 1
            if self._parts >= MANY_PARTS:
                self._ledger.publish()
                self._parts = 0
        self._written = time.monotonic()

    def close(self) -> None:
        """Flush, and publish what was recorded."""
        self.flush()
        self._ledger.publish()

    def _append(self, episodes: pa.Table, execution: pa.Table, trajectories: pa.Table | None) -> bool:
        try:
            self._ledger.append(episodes, execution, trajectories)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            log.warning("%s: the disk is full; waiting for room", self._ledger.run)
            return False
        return True


def _together(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).combine_chunks()  # parquet is slow to write many small chunks
