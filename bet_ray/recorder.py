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
ROOM_LOOKS = 1.0  # seconds between looks whether there is any
MANY_PARTS = 64  # slow readers down: they are published before the end
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_room(error: OSError) -> bool:
    """Whether a disk is full, or a quota used up."""
    return error.errno in _NO_ROOM


class Recorder:
    """Collects finished episodes and writes them to a ledger about once a second; publishes them when its block ends.

    On a full disk it waits for room, and loses nothing meanwhile. After an exception it does not wait.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: list[Finished] = []
        self._written = time.monotonic()
        self._parts = 0
        self._patience = ROOM_SECONDS
        self._waits = False

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._patience = 0.0
        self.flush()
        self._publish()

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
            waits_until = time.monotonic() + self._patience
            while not self._append(episodes, execution, trajectories):
                if time.monotonic() >= waits_until:
                    raise FailedRunError(
                        f"{self._ledger.run}: the disk is full, {counted(len(episodes), 'finished episode')} could not "
                        "be recorded; make room and run the same command again: what is recorded is not run twice"
                    )
                if not self._waits:
                    log.warning("%s: the disk is full; waiting for room", self._ledger.run)
                self._waits = True
                time.sleep(ROOM_LOOKS)
            if self._waits:
                log.warning("%s: there is room again", self._ledger.run)
            self._held, self._waits = [], False
            self._parts += 1
            if self._parts >= MANY_PARTS:
                self._publish()
                self._parts = 0
        self._written = time.monotonic()

    def _append(self, episodes: pa.Table, execution: pa.Table, trajectories: pa.Table | None) -> bool:
        try:
            self._ledger.append(episodes, execution, trajectories)
        except OSError as error:
            if not no_room(error):
                raise
            return False
        return True

    def _publish(self) -> None:
        try:
            self._ledger.publish()
        except OSError as error:
            if not no_room(error):
                raise
            log.warning("%s: no room to publish; parts stay parts, as good to read", self._ledger.run)


def _together(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).combine_chunks()  # parquet is slow to write many small chunks
