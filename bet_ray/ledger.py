"""Which episodes are done, exactly once: parts as they finish, compacted into the published table.

No locks. A part has a name nobody else uses and appears whole or not at all; rows are deterministic, so readers drop
equal keys. A crash between publishing and removing parts therefore loses nothing and counts nothing twice.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bet.tasks import SimulatedTask
from bet_ray.manifest import RunError
from bet_ray.results import (
    EXECUTION,
    KEY,
    STEP_KEY,
    EpisodeSource,
    episodes_schema,
    trajectories_schema,
    unique_rows,
    write_table,
)

PARTS = "_parts"


class Ledger:
    """The episode table of one run directory."""

    def __init__(self, run: Path, task: SimulatedTask) -> None:
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
        while True:
            tables = [self._schema.empty_table()]
            try:
                tables += [table for file in self._files() if (table := _read(file, self._schema)) is not None]
            except FileNotFoundError:
                continue  # somebody compacted meanwhile: the rows are in a file that is not on our list
            return unique_rows(pa.concat_tables(tables))

    def of(self, source: EpisodeSource) -> pa.Table:
        """The recorded episodes of one policy, protocol, numerics and split, by index."""
        table = self.read()
        for name, value in source.key.items():
            table = table.filter(pc.field(name) == value)
        return table

    def compact(self) -> None:
        """Publish the parts as one file, then remove them; likewise the execution and trajectory files."""
        files = self._files()
        if len(files) > 1 or any(file.parent.name == PARTS for file in files):
            _merge(files, self.run / "episodes", self._schema, KEY)
        for folder, schema, key in (
            ("execution", EXECUTION, KEY),
            ("trajectories", trajectories_schema(self.task), STEP_KEY),
        ):
            files = sorted((self.run / folder).glob("*.parquet"))
            if len(files) > 1:
                _merge(files, self.run / folder, schema, key)

    def _files(self) -> list[Path]:
        folder = self.run / "episodes"
        return [*sorted(folder.glob("*.parquet")), *sorted((folder / PARTS).glob("*.parquet"))]


def _merge(files: list[Path], folder: Path, schema: pa.Schema, key: Sequence[str]) -> None:
    """Publish the rows of files as one, then remove them."""
    tables = [(file, table) for file in files if (table := _read(file, schema)) is not None]
    merged = unique_rows(pa.concat_tables([schema.empty_table(), *(table for _, table in tables)]), key)
    write_table(merged, folder / f"{uuid4().hex}.parquet")
    for file, _ in tables:
        file.unlink(missing_ok=True)


def _read(file: Path, schema: pa.Schema) -> pa.Table | None:
    """The rows of a file; None for a torn one, which is set aside for its rows to be made again.

    Raises `RunError` for a sound file of another kind, and `OSError` when the machine is at fault and not the file.
    """
    try:
        table = pq.read_table(file)
    except FileNotFoundError:  # of pyarrow, without the errno that tells the machine from a torn file
        raise
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # too many open files, a failing disk: the file may be sound
        with suppress(FileNotFoundError):  # another reader set it aside
            file.rename(file.with_suffix(".corrupt"))
        warnings.warn(
            f"{file} does not open ({str(error).splitlines()[0]}); set aside, its episodes run again", stacklevel=3
        )
        return None
    if table.schema.names != schema.names:
        raise RunError(f"{file}: holds other columns than this task's episodes have; use another --out")
    return table.cast(schema)
