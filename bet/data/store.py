"""Our own demonstrations file: one parquet, one row per step, readable by any parquet tool.

Columns `episode` int64, `observation` and `action` fixed-size lists of float32; the task is in the schema's metadata.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bet.data.arrow import integers, read_table, vectors
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
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def load_episodes(path: Path) -> Episodes:
    """Read demonstrations written by `save_episodes`. Raises `DataError` naming the file and column."""
    table = read_table(path, ("episode", "observation", "action"))
    metadata = table.schema.metadata or {}
    if _TASK not in metadata:
        raise DataError(f"{path}: not a demonstrations file of bet-ray (no {_TASK.decode()!r} in its metadata)")
    episode = integers(table, "episode", path)
    observations, actions = vectors(table, "observation", path), vectors(table, "action", path)
    if len(episode) == 0:
        raise DataError(f"{path}: no episodes")
    if (np.diff(episode) < 0).any():
        raise DataError(f"{path}: rows are not ordered by episode (row {int(np.argmax(np.diff(episode) < 0)) + 1})")
    ends = np.append(np.flatnonzero(np.diff(episode)) + 1, len(episode))
    return Episodes(observations, actions, ends, metadata[_TASK].decode(errors="replace"), str(path))
