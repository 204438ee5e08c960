"""Writing PushT as LeRobot data sets, without videos: the folders that `bet.data.lerobot` describes and reads.

Files, columns and statistics are what LeRobot needs to open the folder and to train on it.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes
from bet.data.lerobot import (
    ACTION,
    CHUNK_SIZE,
    DATA_FILE,
    EPISODE_FILE,
    EPISODES_FILE,
    FPS,
    INFO,
    KEYPOINTS,
    STATE,
    LeRobotVersion,
)
from bet.data.pusht import layout_of
from bet.files import new_folder
from bet.layouts import PushTLayout

TASK = "Push the T-shaped blue block onto the T-shaped green target surface."  # as in lerobot/pusht

_LAYOUTS = (PushTLayout.AGENT, PushTLayout.KEYPOINTS8)  # what the format can hold
_FILE_SIZE = 100  # MB that LeRobot allows a file of version 3.0; all of PushT takes 2
_Statistics = dict[str, dict[str, list[float]]]  # feature -> statistic -> value per dimension


def save_lerobot(episodes: Episodes, path: Path, version: LeRobotVersion) -> None:
    """Write PushT demonstrations of the layout `agent` or `keypoints8` as a data set without videos.

    Raises `DataError` for the other layouts, which the format cannot hold.
    """
    layout = layout_of(episodes)
    if layout not in _LAYOUTS:
        known = " and ".join(repr(layout.value) for layout in _LAYOUTS)
        raise DataError(
            f"{episodes.source}: has layout {layout.value!r}; LeRobot's PushT holds {known}: choose one as observation"
        )
    features, table = _features(layout), _steps(episodes, layout)
    statistics = [_statistics(part) for part in _episodes_of(table, episodes)]
    info = {
        "codebase_version": version.value,
        "robot_type": "2d pointer",
        "total_episodes": len(episodes),
        "total_frames": len(episodes.actions),
        "total_tasks": 1,
        "chunks_size": CHUNK_SIZE,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": version.data_path,
        "video_path": None,
        "features": features,
    }
    write = {LeRobotVersion.V21: _write_v21, LeRobotVersion.V30: _write_v30}[version]
    with new_folder(path) as folder:
        write(folder, info, episodes, table, statistics)


def _features(layout: PushTLayout) -> dict[str, Any]:
    xy = {"dtype": "float32", "shape": [2], "names": {"axes": ["x", "y"]}}
    keypoints = {"dtype": "float32", "shape": [layout.keypoints.size], "names": ["keypoints"]}
    numbers = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return {
        STATE: xy,
        **({KEYPOINTS: keypoints} if layout is PushTLayout.KEYPOINTS8 else {}),
        ACTION: xy,
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in numbers.items()},
    }


def _steps(episodes: Episodes, layout: PushTLayout) -> pa.Table:
    """A row for each step, the columns of both versions."""
    frames = np.arange(len(episodes.actions)) - np.repeat(episodes.episode_starts, episodes.lengths)
    matrices = {STATE: episodes.observations[:, :2]}
    if layout is PushTLayout.KEYPOINTS8:
        matrices[KEYPOINTS] = episodes.observations[:, 2:]
    matrices[ACTION] = episodes.actions
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
        for name, array in matrices.items()
    }
    return pa.table(
        columns
        | {
            "timestamp": (frames / FPS).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.repeat(np.arange(len(episodes)), episodes.lengths),
            "index": np.arange(len(frames)),
            "task_index": np.zeros(len(frames), dtype=np.int64),
        }
    )


def _episodes_of(table: pa.Table, episodes: Episodes) -> Iterator[pa.Table]:
    for start, length in zip(episodes.episode_starts.tolist(), episodes.lengths.tolist(), strict=True):
        yield table.slice(start, length)


def _statistics(table: pa.Table) -> _Statistics:
    """LeRobot's statistics of the steps in a table."""
    measures: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "min": lambda values: values.min(axis=0),
        "max": lambda values: values.max(axis=0),
        "mean": lambda values: values.mean(axis=0, dtype=np.float64),
        "std": lambda values: values.std(axis=0, dtype=np.float64),
    }
    statistics: _Statistics = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        values = flat.to_numpy().reshape(len(table), -1)
        statistics[name] = {measure: compute(values).tolist() for measure, compute in measures.items()}
        statistics[name]["count"] = [len(table)]
    return statistics


def _write_json(file: Path, *documents: Any, indent: int | None = None) -> None:
    """One JSON document, or one a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(document, indent=indent) + "\n" for document in documents), encoding="utf-8")


def _write_parquet(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def _write_v21(
    folder: Path, info: dict[str, Any], episodes: Episodes, table: pa.Table, statistics: list[_Statistics]
) -> None:
    chunks = (len(episodes) - 1) // CHUNK_SIZE + 1
    _write_json(folder / INFO, info | {"total_videos": 0, "total_chunks": chunks}, indent=4)
    _write_json(folder / "meta" / "tasks.jsonl", {"task_index": 0, "task": TASK})
    lengths = enumerate(episodes.lengths.tolist())
    lines = ({"episode_index": index, "tasks": [TASK], "length": length} for index, length in lengths)
    _write_json(folder / "meta" / "episodes.jsonl", *lines)
    lines = ({"episode_index": index, "stats": stats} for index, stats in enumerate(statistics))
    _write_json(folder / "meta" / "episodes_stats.jsonl", *lines)
    for index, part in enumerate(_episodes_of(table, episodes)):
        name = EPISODE_FILE.format(episode_chunk=index // CHUNK_SIZE, episode_index=index)
        _write_parquet(folder / name, part)


def _write_v30(
    folder: Path, info: dict[str, Any], episodes: Episodes, table: pa.Table, statistics: list[_Statistics]
) -> None:
    sizes = {"data_files_size_in_mb": _FILE_SIZE, "video_files_size_in_mb": _FILE_SIZE}
    _write_json(folder / INFO, info | sizes, indent=4)
    _write_json(folder / "meta" / "stats.json", _statistics(table), indent=4)
    _write_parquet(folder / "meta" / "tasks.parquet", _tasks())
    nowhere = np.zeros(len(episodes), dtype=np.int64)
    rows = {
        "episode_index": np.arange(len(episodes)),
        "tasks": [[TASK]] * len(episodes),
        "length": episodes.lengths,
        "data/chunk_index": nowhere,
        "data/file_index": nowhere,
        "dataset_from_index": episodes.episode_starts,
        "dataset_to_index": episodes.episode_ends,
        "meta/episodes/chunk_index": nowhere,
        "meta/episodes/file_index": nowhere,
    }
    for name in table.column_names:
        for measure in statistics[0][name]:
            rows[f"stats/{name}/{measure}"] = [stats[name][measure] for stats in statistics]
    _write_parquet(folder / EPISODES_FILE.format(chunk_index=0, file_index=0), pa.table(rows))
    _write_parquet(folder / DATA_FILE.format(chunk_index=0, file_index=0), table)


def _tasks() -> pa.Table:
    """The tasks as pandas writes a frame whose index, `task`, holds the sentences: LeRobot looks them up by index."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, kind, dtype in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    metadata = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [TASK]})
    return table.replace_schema_metadata({"pandas": json.dumps(metadata)})
