"""Which episodes are done, exactly once: parts as they finish, compacted into the published table.

No locks. A part has a name nobody else uses and appears whole or not at all; rows are deterministic, so readers drop
equal keys. A crash between publishing and removing parts therefore loses nothing and counts nothing twice.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bet.tasks import Task
from bet_ray.results import (
    EXECUTION,
    EpisodeSource,
    episodes_schema,
    trajectories_schema,
    unique_episodes,
    write_table,
)

PARTS = "_parts"


class Ledger:
    """The episode table of one run directory."""

    def __init__(self, run: Path, task: Task) -> None:
        self.run, self.task = run, task
        self._schema = episodes_schema(task)

    def append(self, episodes: pa.Table, execution: pa.Table, trajectories: pa.Table | None = None) -> None:
        """Record finished episodes; they are safe when this returns."""
        name = f"{uuid4().hex}.parquet"
        if trajectories is not None and trajectories.num_rows:  # first: an episode row promises its trajectory
            write_table(trajectories, self.run / "trajectories" / name)
        write_table(execution, self.run / "execution" / name)
        write_table(episodes, self.run / "episodes" / PARTS / name)

    def read(self) -> pa.Table:
        """Every recorded episode once, in key order."""
        return self._read(self._files())[0]

    def of(self, source: EpisodeSource) -> pa.Table:
        """The recorded episodes of one policy, protocol, numerics and split, by index."""
        table = self.read()
        for name, value in source.key.items():
            table = table.filter(pc.field(name) == value)
        return table

    def missing(self, source: EpisodeSource, indices: Iterable[int]) -> list[int]:
        """The indices that still have to run, in order."""
        done = set(self.of(source).column("index").to_pylist())
        return [index for index in indices if index not in done]

    def compact(self) -> None:
        """Publish the parts as one file, then remove them; likewise the execution and trajectory files."""
        files = self._files()
        if any(file.parent.name == PARTS for file in files):
            table, read = self._read(files)
            write_table(table, self.run / "episodes" / f"{uuid4().hex}.parquet")
            _remove(read)
        for folder, schema in (("execution", EXECUTION), ("trajectories", trajectories_schema(self.task))):
            read = sorted((self.run / folder).glob("*.parquet"))
            if len(read) > 1:
                merged, read = _concat(read, schema)
                write_table(merged, self.run / folder / f"{uuid4().hex}.parquet")
                _remove(read)

    def _files(self) -> list[Path]:
        folder = self.run / "episodes"
        return [*sorted(folder.glob("*.parquet")), *sorted((folder / PARTS).glob("*.parquet"))]

    def _read(self, files: list[Path]) -> tuple[pa.Table, list[Path]]:
        table, read = _concat(files, self._schema)
        return unique_episodes(table), read


def _concat(files: list[Path], schema: pa.Schema) -> tuple[pa.Table, list[Path]]:
    """The rows of all files that open, and those files; one that does not is set aside, its rows to be made again."""
    tables, read = [schema.empty_table()], []
    for file in files:
        try:
            tables.append(pq.read_table(file).cast(schema))
            read.append(file)
        except FileNotFoundError:  # somebody compacted it meanwhile; its rows are in a newer file
            continue
        except (OSError, ValueError, pa.ArrowException) as error:
            aside = file.with_suffix(".corrupt")
            file.rename(aside)
            warnings.warn(
                f"{file} does not open ({str(error).splitlines()[0]}); set aside, its episodes run again",
                stacklevel=3,
            )
    return pa.concat_tables(tables), read


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
