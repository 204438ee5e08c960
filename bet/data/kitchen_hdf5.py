"""Kitchen demonstrations in HDF5: D4RL's files, and Minari's of the same people's teleoperation.

D4RL (Fu et al. 2020, `kitchen_*_v0` files): `observations` (N, 60), `actions` (N, 9), `terminals` and `timeouts` (N,),
of which either ends an episode; the last 30 columns of an observation are its goal.
Minari (data sets `D4RL/kitchen/*`, recorded in FrankaKitchen-v1): a folder with `data/main_data.hdf5`, in it a group
`episode_I` for each episode, with `observations/observation` (T + 1, 59), the one after the last action too, and
`actions` (T, 9). The 59 numbers are positions and velocities of the arm (9 and 9) and of the things (21 and 20).

Either way observations become the task's own: the 30 positions, then 30 zeros.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MINARI_FILES = ("data/main_data.hdf5", "main_data.hdf5")
TASK, ACT_DIM = "kitchen", 9
D4RL_DIM, MINARI_DIM, POSITIONS = 60, 59, 30
_MINARI_POSITIONS = np.r_[0:9, 18:39]
_EPISODE = "episode_"


def hdf5_file(path: Path) -> Path | None:
    """The HDF5 file that a path is, or that the folder of a Minari data set holds; None where it is neither."""
    if path.is_dir():
        return next((path / name for name in MINARI_FILES if (path / name).is_file()), None)
    with path.open("rb") as file:
        return path if file.read(len(SIGNATURE)) == SIGNATURE else None


def is_minari(file: Path) -> bool:
    """Whether an HDF5 file has Minari's groups. Raises `DataError` for a damaged one."""
    with _opened(file) as content:
        return any(name.startswith(_EPISODE) for name in content)


def load_d4rl(file: Path, source: str) -> Episodes:
    """The episodes of a D4RL file; a last one that nothing ends is taken as it is.

    Raises `DataError` naming the file and the array at fault.
    """
    with _opened(file) as content:
        observations = _array(content, "observations", file, D4RL_DIM)
        actions = _array(content, "actions", file, ACT_DIM)
        over = _array(content, "terminals", file).astype(bool)
        if "timeouts" in content:
            over = over | _array(content, "timeouts", file).astype(bool)
    if not len(observations) == len(actions) == len(over):
        raise DataError(f"{file}: {len(observations)} observations, {len(actions)} actions, {len(over)} terminals")
    ends = np.flatnonzero(over) + 1
    if len(over) and not over[-1]:
        ends = np.append(ends, len(over))
    return Episodes(_observed(observations[:, :POSITIONS]), _float32(actions), ends, TASK, source)


def load_minari(file: Path, source: str) -> Episodes:
    """The episodes of a Minari file, in the order of their numbers. Raises `DataError` naming file and array."""
    observations, actions = [], []
    with _opened(file) as content:
        numbers = [name.removeprefix(_EPISODE) for name in content if name.startswith(_EPISODE)]
        unknown = [number for number in numbers if not number.isdecimal()]
        if unknown:
            raise DataError(f"{file}: {_EPISODE}{unknown[0]} has no number")
        for number in sorted(numbers, key=int):
            place = f"{_EPISODE}{number}"
            seen = _array(content, f"{place}/observations/observation", file, MINARI_DIM)
            done = _array(content, f"{place}/actions", file, ACT_DIM)
            if len(seen) != len(done) + 1:
                raise DataError(f"{file}: {place} has {len(seen)} observations and {len(done)} actions, not one fewer")
            observations.append(seen[:-1, _MINARI_POSITIONS])
            actions.append(done)
    ends = np.cumsum([len(done) for done in actions])
    return Episodes(_observed(np.concatenate(observations)), _float32(np.concatenate(actions)), ends, TASK, source)


def _observed(positions: NDArray[np.floating]) -> NDArray[np.float32]:
    """The task's observations (N, 60) behind positions (N, 30)."""
    return np.pad(_float32(positions), ((0, 0), (0, D4RL_DIM - POSITIONS)))


def _float32(numbers: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what becomes infinite is refused by `Episodes`
        return numbers.astype(np.float32)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with h5py.File(file, "r") as content:
            yield content
    except (OSError, RuntimeError, KeyError) as error:  # h5py's, also of what is looked up in a damaged group
        raise DataError(f"{file}: not a readable HDF5 file ({str(error).splitlines()[0]})") from error


def _array(content: Any, name: str, file: Path, *dims: int) -> NDArray[Any]:
    """An array (n, *dims) of numbers in an open file."""
    found = content.get(name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{file}: has no array {name}")
    if found.ndim != 1 + len(dims) or found.shape[1:] != dims or found.dtype.kind not in "fiub":
        expected = ", ".join(["N", *map(str, dims)])
        raise DataError(f"{file}: {name} is {found.dtype} of shape {found.shape}, expected numbers ({expected})")
    try:
        return found[:]
    except OSError as error:
        raise DataError(f"{file}: {name} cannot be read ({str(error).splitlines()[0]})") from error
