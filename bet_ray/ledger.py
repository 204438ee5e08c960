"""Which episodes are done, exactly once: parts as they finish, published at the end.

A part has a name nobody else uses and appears whole or not at all; rows are deterministic, so readers drop equal keys.
A crash between publishing and removing parts therefore loses nothing and counts nothing twice, and so does a second
process on the same directory. Only publishing takes turns, where the file system has locks: then the published files
have no row twice, at any moment.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from bet import files
from bet.errors import UsageError
from bet.rollout import End
from bet.tasks import SimulatedTask
from bet_ray.manifest import LOCK, MANIFEST, TURN_SECONDS, RunError, read_manifest
from bet_ray.results import (
    END,
    ERROR,
    EXECUTION,
    KEY,
    STEP_KEY,
    EpisodeSource,
    episodes_schema,
    trajectories_schema,
    unique_rows,
    write_table,
)

log = logging.getLogger(__name__)

PARTS = "_parts"
PLACE = "_place"  # of a row among those of the parts; -1 for one that is published


class MixedNumericsError(UsageError):
    """Rows of different numerics would share a table."""


class Table:
    """A table of a run directory: one folder of published files, and in it one of parts."""

    def __init__(self, folder: Path, schema: pa.Schema, key: Sequence[str], *, watched: bool = False) -> None:
        self.folder, self.schema, self.key, self._watched = folder, schema, key, watched

    def append(self, rows: pa.Table) -> Path:
        """Rows that are safe when this returns, in a new part.

        Raises `OSError`, leaving nothing behind, when the disk takes none.
        """
        part = self.folder / PARTS / f"{uuid4().hex}.parquet"
        write_table(rows, part)
        return part

    def read(self, where: pc.Expression | None = None) -> pa.Table:
        """Every row once, in key order; `where` is over the columns of its key.

        A torn file is set aside with a warning, or passed over where the table is only watched. Raises `RunError` for a
        sound one of another kind.
        """
        tables = {}
        listed: set[Path] | None = None
        # Others publish meanwhile: rows move from file to file, and one listing may miss both. Two equal ones did not.
        while (there := {*self._parts(), *self._published()}) != listed:
            listed = there
            fresh = sorted(there - tables.keys())
            tables |= {file: _read(file, self.schema, where, mend=not self._watched) for file in fresh}
        return unique_rows(pa.concat_tables([self.schema.empty_table(), *filter(None, tables.values())]), self.key)

    def publish(self) -> None:
        """Move the rows of parts into a published file. Those that are published already are not written again."""
        parts = {file: table for file in self._parts() if (table := _read(file, self.schema)) is not None}
        if not parts:
            return
        new, published = pa.concat_tables(parts.values()), self._published()
        # Of what is published only the columns that `unique_rows` looks at: it may be much.
        names = [*self.key, *(name for name in (END, ERROR) if name in self.schema.names)]
        schema = pa.schema([self.schema.field(name) for name in names])
        found = (_read(file, schema, whole=False) for file in published)
        old = pa.concat_tables([schema.empty_table(), *filter(None, found)])
        both = [
            old.append_column(PLACE, pa.repeat(-1, len(old))),
            new.select(names).append_column(PLACE, pa.array(range(len(new)), pa.int64())),
        ]
        places = unique_rows(pa.concat_tables(both), self.key).column(PLACE).to_numpy()
        fresh = places[places >= 0]  # of equal rows the first stays, which is a published one
        superseded: list[Path] = []
        if len(places) - len(fresh) < len(old):
            # Two processes that could not take turns, or an error that was made good: all files become one, under the
            # name of the first, so that readers of a single one see the old or the new. On a store there are no turns:
            # another may have put into the first what is not known here, so there they go under a name of their own.
            everything = [table for file in published if (table := _read(file, self.schema)) is not None]
            merged = self._new() if files.mirror_of(self.folder) else published[0]
            write_table(unique_rows(pa.concat_tables([*everything, new]), self.key), merged)
            superseded = [file for file in published if file != merged]
        elif len(fresh):
            write_table(new.take(fresh), self._new())
        for file in (*superseded, *parts):
            files.remove(file)

    @property
    def parts(self) -> int:
        """How many there are."""
        return len(self._parts())

    def _parts(self) -> list[Path]:
        return sorted((self.folder / PARTS).glob("*.parquet"))

    def _published(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def _new(self) -> Path:
        return self.folder / f"{uuid4().hex}.parquet"


class Ledger:
    """The tables of one run directory: episodes, how they were run, and where asked for their steps.

    One that is only `watched` is never written, not even to set a torn file aside.
    """

    def __init__(self, run: Path, task: SimulatedTask, *, watched: bool = False) -> None:
        self.run, self.task = run, task
        self.episodes = Table(run / "episodes", episodes_schema(task), KEY, watched=watched)
        self.execution = Table(run / "execution", EXECUTION, KEY, watched=watched)
        self.trajectories = Table(run / "trajectories", trajectories_schema(task), STEP_KEY, watched=watched)

    def append(self, episodes: pa.Table, execution: pa.Table, trajectories: pa.Table | None = None) -> None:
        """Record finished episodes; they are safe when this returns. An exception leaves nothing of them behind."""
        tables = [(self.execution, execution), (self.episodes, episodes)]
        if trajectories is not None and trajectories.num_rows:
            tables.insert(0, (self.trajectories, trajectories))  # first: an episode row promises its trajectory
        parts: list[Path] = []
        try:
            for table, rows in tables:
                parts.append(table.append(rows))
        except BaseException:
            for part in parts:
                with suppress(OSError):  # rows without their twins harm nobody; what went wrong is to be told
                    files.remove(part)
            raise

    def read(self) -> pa.Table:
        """Every recorded episode once, in key order."""
        return self.episodes.read()

    def of(self, source: EpisodeSource) -> pa.Table:
        """The recorded episodes of one policy, protocol, numerics and split, by index."""
        return self.episodes.read(source.rows)

    def numerics(self, where: pc.Expression | None = None) -> set[str]:
        """Of the recorded episodes, or those `where`."""
        return set(self.episodes.read(where).column("numerics").unique().to_pylist())

    def errors(self, source: EpisodeSource) -> dict[int, str]:
        """Why episodes of a source could not be finished, by index."""
        failed = self.of(source).filter(pc.field(END) == End.ERROR.value).column("index").to_pylist()
        if not failed:
            return {}
        told = self.execution.read(source.rows & pc.field("index").isin(failed) & pc.field("error").is_valid())
        reasons = dict(zip(told.column("index").to_pylist(), told.column("error").to_pylist(), strict=True))
        return {index: reasons.get(index, "for no recorded reason") for index in failed}

    def check_writable(self) -> None:
        """Raises `RunError` where nothing can be recorded: before any episode is run, not after."""
        for table in (self.trajectories, self.execution, self.episodes):
            folder = table.folder / PARTS
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                raise RunError(f"{there}: cannot be written to; choose another --out")
        lock = self.run / LOCK
        if lock.exists() and not os.access(lock, os.W_OK):
            raise RunError(f"{lock}: cannot be written to; choose another --out")
        if (self.run / MANIFEST).exists():
            read_manifest(self.run)

    def publish(self) -> None:
        """Publish the parts of all tables; while another process is at it they stay parts, as good to read."""
        if not any(table.parts for table in (self.episodes, self.execution, self.trajectories)):
            return
        try:
            with FileLock(self.run / LOCK, timeout=TURN_SECONDS):
                for table in (self.trajectories, self.execution, self.episodes):
                    table.publish()
        except Timeout:
            log.info("%s: another process is publishing", self.run)


def _read(
    file: Path, schema: pa.Schema, where: pc.Expression | None = None, *, whole: bool = True, mend: bool = True
) -> pa.Table | None:
    """The columns of a file that a schema names, all there are if `whole`.

    None for a file that has gone, and for a torn one, which is set aside to `mend` the table.

    Raises `RunError` for a sound file of another kind, and `OSError` when the machine is at fault and not the file.
    """
    try:
        names = pq.read_schema(file).names
        known = [name for name in schema.names if name in names]
        if whole and (set(names) - set(schema.names) or set(schema.names) - {*names, ERROR}):
            raise RunError(f"{file}: holds other columns than episodes of this task have; use another --out")
        table = pq.read_table(file, columns=known, filters=where, page_checksum_verification=True)
        if ERROR in schema.names and ERROR not in names:  # files of an earlier version
            table = table.append_column(ERROR, pa.nulls(len(table), pa.string()))
        return table.select(schema.names).cast(schema)
    except FileNotFoundError:  # published, or set aside, by another process
        return None
    except (MemoryError, pa.ArrowCancelled):  # which Arrow also calls its exceptions
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # too many open files, a failing disk: the file may be sound
        if not mend:
            return None
        with suppress(FileNotFoundError):
            files.rename(file, file.with_suffix(".corrupt"))
        warnings.warn(
            f"{file} does not open ({str(error).splitlines()[0]}); set aside, what it held is to be run again",
            stacklevel=3,
        )
        return None
