"""Every format of demonstrations: what a path holds, and how it is read and written."""

from enum import StrEnum
from pathlib import Path

from bet.config import did_you_mean
from bet.data.bet_release import BetRelease, load_release, save_release
from bet.data.episodes import DataError, Episodes
from bet.data.kitchen_hdf5 import MINARI_FILES, hdf5_file, is_minari, load_d4rl, load_minari
from bet.data.lerobot import INFO, LeRobotVersion, load_lerobot, version_of
from bet.data.lerobot_writer import save_lerobot
from bet.data.pusht import in_layout
from bet.data.pusht_zarr import load_pusht_zarr, save_pusht_zarr
from bet.data.store import load_episodes, save_episodes
from bet.data.study_rollouts import ACTIONS, OBSERVATIONS, load_rollouts, save_rollouts
from bet.layouts import PushTLayout


class DataFormat(StrEnum):
    """Formats of demonstrations; the value is the name on the command line."""

    PARQUET = "parquet"  # our own: one file, any task
    PUSHT_ZARR = "pusht-zarr"  # Diffusion Policy's replay buffer
    LEROBOT_V21 = "lerobot-v2.1"  # lerobot/pusht and lerobot/pusht_keypoints
    LEROBOT_V30 = "lerobot-v3.0"
    BLOCKPUSH = "bet-blockpush"  # the releases of the BeT paper
    KITCHEN = "bet-kitchen"
    D4RL = "d4rl-kitchen"  # read only, as Minari's
    MINARI = "minari-kitchen"
    STUDY_ROLLOUTS = "study-rollouts"  # saved by the reproduction study's evaluation


_VERSIONS = {DataFormat.LEROBOT_V21: LeRobotVersion.V21, DataFormat.LEROBOT_V30: LeRobotVersion.V30}
_RELEASES = {DataFormat.BLOCKPUSH: BetRelease.BLOCKPUSH, DataFormat.KITCHEN: BetRelease.KITCHEN}
READ_ONLY = (DataFormat.D4RL, DataFormat.MINARI)
_PARQUET_MAGIC = b"PAR1"
_PICKLED = "obses_0.pth"  # by the study's serial evaluation


def detect(path: Path) -> DataFormat:
    """What a file or folder holds, told by its suffix or by the names in it; the loader checks the rest.

    Raises `DataError` when it is absent or holds none of the formats, and for unknown versions of LeRobot's.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    hdf5 = hdf5_file(path)
    if hdf5:
        return DataFormat.MINARI if is_minari(hdf5) else DataFormat.D4RL
    if path.is_file():
        with path.open("rb") as file:
            if path.suffix == ".parquet" or file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
                return DataFormat.PARQUET
        raise DataError(f"{path}: not a parquet or HDF5 file; of the other formats, give the folder")
    if path.suffix == ".zarr" or (path / ".zgroup").exists():
        return DataFormat.PUSHT_ZARR
    if (path / INFO).exists():
        return {version: name for name, version in _VERSIONS.items()}[version_of(path)]
    for name, release in _RELEASES.items():
        layout = release.value
        if any((path / file).exists() for file in (layout.observations, layout.actions, layout.masks)):
            return name
    if any((path / file).exists() for file in (OBSERVATIONS, ACTIONS)):
        return DataFormat.STUDY_ROLLOUTS
    if (path / _PICKLED).exists():
        raise DataError(
            f"{path}: pickled rollouts ({_PICKLED}), which are never loaded; evaluate with vectorized_env=True"
        )
    raise DataError(
        f"{path}: no demonstrations (looked for .zgroup, {INFO}, "
        f"{', '.join(release.value.observations for release in BetRelease)}, {MINARI_FILES[0]}, {OBSERVATIONS})"
    )


def load(path: Path, observation: str | None = None) -> Episodes:
    """The demonstrations in a file or folder of any format, seen through a layout (None: the one they are stored in).

    The layouts of pusht are made from one another where the stored one shows enough; other tasks have `state` only.
    Raises `DataError` naming the path, and the file, row or episode at fault.
    """
    found = detect(path)
    match found:
        case DataFormat.PARQUET:
            episodes = load_episodes(path)
        case DataFormat.PUSHT_ZARR:  # holds states, of which every layout is made
            layout = PushTLayout.STATE if observation is None else observation
            return load_pusht_zarr(path, PushTLayout(_known_layout(path, "pusht", layout)))
        case DataFormat.LEROBOT_V21 | DataFormat.LEROBOT_V30:
            episodes = load_lerobot(path)
        case DataFormat.BLOCKPUSH | DataFormat.KITCHEN:
            episodes = load_release(path, _RELEASES[found])
        case DataFormat.D4RL | DataFormat.MINARI:
            file = hdf5_file(path)
            assert file
            episodes = (load_minari if found is DataFormat.MINARI else load_d4rl)(file, str(path))
        case DataFormat.STUDY_ROLLOUTS:
            episodes = load_rollouts(path)
    if observation is None:
        return episodes
    layout = _known_layout(path, episodes.task, observation)
    return in_layout(episodes, PushTLayout(layout)) if episodes.task == "pusht" else episodes


def save(episodes: Episodes, path: Path, to: DataFormat) -> None:
    """Write demonstrations in a format. Raises `DataError` when it cannot hold them, and when something is there."""
    if path.exists() and (to is DataFormat.PARQUET or path.is_file() or any(path.iterdir())):
        raise DataError(f"{path}: already there; remove it or choose another name")
    match to:
        case DataFormat.PARQUET:
            save_episodes(episodes, path)
        case DataFormat.PUSHT_ZARR:
            _check_pusht(episodes, to)
            save_pusht_zarr(episodes, path)
        case DataFormat.LEROBOT_V21 | DataFormat.LEROBOT_V30:
            _check_pusht(episodes, to)
            save_lerobot(episodes, path, _VERSIONS[to])
        case DataFormat.BLOCKPUSH | DataFormat.KITCHEN:
            save_release(episodes, path, _RELEASES[to])
        case DataFormat.D4RL | DataFormat.MINARI:
            raise DataError(f"{path}: {to.value} is only read; write {DataFormat.KITCHEN.value}")
        case DataFormat.STUDY_ROLLOUTS:
            save_rollouts(episodes, path)


def _check_pusht(episodes: Episodes, to: DataFormat) -> None:
    if episodes.task != "pusht" or episodes.actions.shape[1] != 2:
        what = f"demonstrations of {episodes.task!r} with {episodes.actions.shape[1]} action columns"
        raise DataError(f"{episodes.source}: {what}; the format {to.value!r} holds pusht, with 2")


def _known_layout(path: Path, task: str, observation: str) -> str:
    layouts = list(PushTLayout) if task == "pusht" else ["state"]
    if observation not in layouts:
        raise DataError(f"{path}: {task} has no layout {observation!r}{did_you_mean(observation, layouts)}")
    return observation
