"""PushT in LeRobot's data set folders, versions 2.1 and 3.0: `lerobot/pusht` and `lerobot/pusht_keypoints`.

Both versions hold one parquet row per step with `observation.state` (2), the agent's xy, `action` (2) and, in
pusht_keypoints, `observation.environment_state` (16), gym-pusht's eight keypoints (see `bet.layouts`): the layouts
`agent` and `keypoints8`. Images, videos and rewards are neither read nor written.

    version 2.1                                   version 3.0
    meta/info.json                                meta/info.json
    meta/tasks.jsonl                              meta/tasks.parquet
    meta/episodes.jsonl                           meta/episodes/chunk-000/file-000.parquet
    meta/episodes_stats.jsonl                     meta/stats.json, and columns `stats/...` of the episodes
    data/chunk-000/episode_000000.parquet         data/chunk-000/file-000.parquet (many episodes a file)

Source: github.com/huggingface/lerobot, `src/lerobot/datasets` at v0.3.3 (2.1) and v0.6.1 (3.0), and
`scripts/convert_dataset_v21_to_v30.py`, which leads from one to the other. `bet.data.lerobot_writer` writes them.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from bet.config import validation_message
from bet.data.arrow import integers, read_table, vectors
from bet.data.episodes import DataError, Episodes

INFO = Path("meta", "info.json")
STATE, KEYPOINTS, ACTION = "observation.state", "observation.environment_state", "action"
FPS = 10  # PushT's control steps a second

CHUNK_SIZE = 1000  # episodes, or files, in a chunk's folder
EPISODE_FILE = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_FILE, EPISODES_FILE = f"data/{_CHUNK_FILE}", f"meta/episodes/{_CHUNK_FILE}"


class LeRobotVersion(StrEnum):
    """What `codebase_version` in `meta/info.json` says."""

    V21 = "v2.1"
    V30 = "v3.0"

    @property
    def data_path(self) -> str:
        """Where the steps are, a pattern."""
        return {LeRobotVersion.V21: EPISODE_FILE, LeRobotVersion.V30: DATA_FILE}[self]


class _Feature(BaseModel):
    dtype: str
    shape: list[int]


class _Info(BaseModel):
    """What is needed of `meta/info.json`; it holds more."""

    codebase_version: LeRobotVersion
    fps: PositiveFloat
    total_episodes: PositiveInt
    total_frames: PositiveInt
    data_path: str
    features: dict[str, _Feature]
    chunks_size: PositiveInt = CHUNK_SIZE


class _Episode(BaseModel):
    """A line of `meta/episodes.jsonl`."""

    episode_index: NonNegativeInt
    length: Annotated[int, Field(gt=0, lt=2**31)]


def version_of(path: Path) -> LeRobotVersion:
    """The version of a data set's folder. Raises `DataError` for another version and a damaged `meta/info.json`."""
    return _read_info(path).codebase_version


def load_lerobot(path: Path) -> Episodes:
    """The demonstrations in a folder, in the layout it holds: `keypoints8` where it has keypoints, else `agent`.

    Raises `DataError` naming the file when one is absent or damaged, when the data set is not PushT's (features, frames
    per second), or when episodes, lengths and steps disagree.
    """
    info = _read_info(path)
    sizes = {STATE: 2, ACTION: 2} | ({KEYPOINTS: 16} if KEYPOINTS in info.features else {})
    _check_info(path, info, sizes)
    episodes_of = {LeRobotVersion.V21: _v21_files, LeRobotVersion.V30: _v30_files}[info.codebase_version]
    lengths, files = episodes_of(path, info)
    if len(lengths) != info.total_episodes or lengths.sum() != info.total_frames:
        found, told = f"{len(lengths)} episodes of {lengths.sum()}", f"{info.total_episodes} of {info.total_frames}"
        raise DataError(f"{path}: its list of episodes has {found} steps, but {INFO} says {told}")
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sizes}
    episode = 0
    for file, count in files:
        table = read_table(file, ("episode_index", "frame_index", *sizes))
        numbers, frames = integers(table, "episode_index", file), integers(table, "frame_index", file)
        expected = lengths[episode : episode + count]
        if len(numbers) != expected.sum():
            raise DataError(f"{file}: has {len(numbers)} steps, expected the {expected.sum()} of {count} episodes")
        starts = np.cumsum(expected) - expected
        wrong = (numbers != np.repeat(np.arange(episode, episode + count), expected)) | (
            frames != np.arange(len(frames)) - np.repeat(starts, expected)
        )
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{file}: row {row} is step {frames[row]} of episode {numbers[row]}, which belongs elsewhere: "
                "steps must be in order and episodes as long as listed"
            )
        for name, size in sizes.items():
            columns[name].append(vectors(table, name, file, size).astype(np.float32))
        episode += count
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    observations = np.concatenate([arrays[name] for name in (STATE, KEYPOINTS) if name in arrays], axis=1)
    return Episodes(observations, arrays[ACTION], np.cumsum(lengths), "pusht", str(path))


_Model = TypeVar("_Model", bound=BaseModel)
_Files = Iterator[tuple[Path, int]]  # each file with steps, and how many episodes it has


def _parsed(model: type[_Model], file: Path, text: str, place: str = "") -> _Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{file}: {place}{validation_message(error, model)}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


def _read_info(path: Path) -> _Info:
    return _parsed(_Info, path / INFO, _text(path / INFO))


def _check_info(path: Path, info: _Info, sizes: dict[str, int]) -> None:
    if info.fps != FPS:
        raise DataError(f"{path / INFO}: {info.fps:g} frames per second, but PushT has {FPS}")
    for name, size in sizes.items():
        feature = info.features.get(name)
        if feature is None:
            raise DataError(f"{path / INFO}: no feature {name!r}, which PushT has; it has {', '.join(info.features)}")
        if feature.shape != [size] or feature.dtype != "float32":
            found = f"{feature.dtype} of shape {feature.shape}"
            raise DataError(f"{path / INFO}: feature {name!r} is {found}, but PushT's is float32 of shape [{size}]")
    if info.data_path != info.codebase_version.data_path:
        expected = info.codebase_version.data_path
        raise DataError(
            f"{path / INFO}: data_path is {info.data_path!r}, but version {info.codebase_version}'s {expected!r}"
        )


def _v21_files(path: Path, info: _Info) -> tuple[NDArray[np.int64], _Files]:
    file = path / "meta" / "episodes.jsonl"
    lines = [line for line in _text(file).splitlines() if line.strip()]
    episodes = [_parsed(_Episode, file, line, f"line {number}: ") for number, line in enumerate(lines, 1)]
    _check_order(file, np.array([episode.episode_index for episode in episodes]))
    lengths = np.array([episode.length for episode in episodes], dtype=np.int64)
    chunks = np.arange(len(lengths)) // info.chunks_size
    names = (EPISODE_FILE.format(episode_chunk=chunk, episode_index=index) for index, chunk in enumerate(chunks))
    return lengths, ((path / name, 1) for name in names)


def _v30_files(path: Path, info: _Info) -> tuple[NDArray[np.int64], _Files]:
    names = ("episode_index", "length", "data/chunk_index", "data/file_index")
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DataError(f"{path / EPISODES_FILE.format(chunk_index=0, file_index=0)}: no such file")
    tables = [(read_table(file, names), file) for file in files]
    columns = [np.concatenate([integers(table, name, file) for table, file in tables]) for name in names]
    index, lengths, chunks, numbers = columns
    _check_order(files[0].parent.parent, index)
    if (lengths <= 0).any():
        raise DataError(f"{files[0].parent.parent}: episode {int(np.argmax(lengths <= 0))} is empty")
    places, counts = [], []  # of the files, in the order of their episodes
    for place in zip(chunks.tolist(), numbers.tolist(), strict=True):
        if places and place == places[-1]:
            counts[-1] += 1
        else:
            places.append(place)
            counts.append(1)
    found = (path / DATA_FILE.format(chunk_index=chunk, file_index=number) for chunk, number in places)
    return lengths, zip(found, counts, strict=True)


def _check_order(file: Path, index: NDArray[np.integer]) -> None:
    if not np.array_equal(index, np.arange(len(index))):
        row = int(np.argmax(index != np.arange(len(index))))
        raise DataError(
            f"{file}: entry {row} is of episode {index[row]}; expected every episode once, from 0, in order"
        )
