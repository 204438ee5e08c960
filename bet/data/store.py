"""Our own demonstrations file: one parquet, one row per step, readable by any parquet tool.

Columns `episode` int64, `observation` and `action` fixed-size lists of float32; the task is in the schema's metadata.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bet.data.episodes import DataError, Episodes
from bet.files import replacing

_TASK = b"bet.task"


def save_episodes(episodes: Episodes, path: Path) -> None:
    """Write demonstrations; a reader never sees half a file."""

    def lists(array: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])

    columns = {
        "episode": pa.array(np.repeat(np.arange(len(episodes)), episodes.lengths)),
        "observation": lists(episodes.observations),
        "action": lists(episodes.actions),
    }
    table = pa.table(columns).replace_schema_metadata({_TASK: episodes.task.encode()})
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def load_episodes(path: Path) -> Episodes:
    """Read demonstrations written by `save_episodes`. Raises `DataError` naming the file and column."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from error
    metadata = table.schema.metadata or {}
    if _TASK not in metadata:
        raise DataError(f"{path}: not a demonstrations file of bet-ray (no {_TASK.decode()!r} in its metadata)")
    for column in ("episode", "observation", "action"):
        if column not in table.column_names:
            raise DataError(f"{path}: no column {column!r}")
    numbers = table.column("episode")
    if not pa.types.is_integer(numbers.type) or numbers.null_count:
        raise DataError(
            f"{path}: column 'episode' is {numbers.type} with {numbers.null_count} nulls, expected integers"
        )
    episode = numbers.to_numpy()
    if len(episode) == 0:
        raise DataError(f"{path}: no episodes")
    if (np.diff(episode) < 0).any():
        raise DataError(f"{path}: rows are not ordered by episode (row {int(np.argmax(np.diff(episode) < 0)) + 1})")

    def matrix(column: str) -> np.ndarray:
        kind = table.schema.field(column).type
        if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type):
            raise DataError(f"{path}: column {column!r} is {kind}, expected fixed-size lists of float32")
        values = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return values.reshape(-1, kind.list_size)

    ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode))
    return Episodes(matrix("observation"), matrix("action"), ends, metadata[_TASK].decode(), str(path))
