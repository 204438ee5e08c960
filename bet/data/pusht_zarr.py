"""The published PushT demonstrations: a replay buffer of Diffusion Policy, a zarr v2 folder.

Holds `data/state` (N, 5): agent xy, block xy in pixels, block angle in radians; `data/action` (N, 2): where the agent
should go, in pixels; `meta/episode_ends` (E,). Images and `data/keypoint` (N, 9, 2), where present, are not read: the
layout `keypoints9` is made from the state, as in the simulator. Keypoints are written: Diffusion Policy trains on them.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes
from bet.data.pusht import states_of
from bet.files import new_folder
from bet.layouts import PushTLayout, pusht_observations

if TYPE_CHECKING:
    import zarr  # slow to import, and rollout workers read no demonstrations

_COLUMNS = {"data/state": 5, "data/action": 2, "meta/episode_ends": None}  # None: one-dimensional
_CHUNK = 1000  # rows


def load_pusht_zarr(path: Path, layout: PushTLayout = PushTLayout.STATE) -> Episodes:
    """The demonstrations in a replay buffer, seen through a layout: observations (N, layout.dim), actions (N, 2).

    Raises `DataError` naming the path and the key when the folder or an array is absent, unreadable or of the wrong
    shape, or when lengths disagree. Warns when chunks are missing.
    """
    import zarr
    from zarr.errors import GroupNotFoundError

    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give the replay buffer's folder (it usually ends in .zarr)")
    try:
        group = zarr.open_group(path, mode="r")
    except GroupNotFoundError:
        message = f"{path}: not a zarr group (no .zgroup inside); give the folder that holds data/ and meta/"
        raise DataError(message) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its .zgroup cannot be read ({error}); copy or download it again") from error
    state, action, ends = (_read(path, group, key, columns) for key, columns in _COLUMNS.items())
    if len(state) != len(action):
        raise DataError(
            f"{path}: data/state has {len(state)} rows but data/action {len(action)}; they must pair up, row by row"
        )
    return Episodes(pusht_observations(state, layout), action, ends, task="pusht", source=str(path))


def save_pusht_zarr(episodes: Episodes, path: Path) -> None:
    """Write PushT demonstrations as a replay buffer: states, actions, ends, and the nine keypoints.

    States are found from the observations, so they are those of another buffer only to the rounding of float32.
    Raises `DataError` for demonstrations that do not show where the block is.
    """
    import zarr

    states = states_of(episodes).astype(np.float32)
    keypoints = pusht_observations(states, PushTLayout.KEYPOINTS9)[:, 2:]
    arrays = {
        "data/state": states,
        "data/action": episodes.actions,
        "data/keypoint": keypoints.reshape(len(states), -1, 2),
        "meta/episode_ends": episodes.episode_ends,
    }
    with new_folder(path) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=2)
        for key, array in arrays.items():
            group.create_array(key, data=array, chunks=(min(_CHUNK, len(array)), *array.shape[1:]))


def _read(path: Path, group: "zarr.Group", key: str, columns: int | None) -> NDArray[Any]:
    import zarr

    shape = "(E,)" if columns is None else f"(N, {columns})"
    try:
        array = group.get(key)
    except Exception as error:  # zarr has an exception for every way in which a description can be wrong
        raise _unreadable(path, key, error) from error
    if not isinstance(array, zarr.Array):
        raise DataError(f"{path}: no array {key} {shape}; is this a PushT replay buffer?")
    if array.ndim != (1 if columns is None else 2) or (columns is not None and array.shape[1] != columns):
        raise DataError(f"{path}: {key} has shape {array.shape}, expected {shape}")
    kind = np.integer if columns is None else np.floating
    if not np.issubdtype(array.dtype, kind):
        raise DataError(f"{path}: {key} holds {array.dtype}, expected {kind.__name__} numbers")
    try:
        missing = array.nchunks - array.nchunks_initialized
        values = np.asarray(array[:])
    except Exception as error:  # and every codec one of its own
        raise _unreadable(path, key, error) from error
    if missing:  # legal in zarr, where such chunks hold zeros; in demonstrations, the mark of half a copy
        warnings.warn(
            f"{path}: {key} lacks {missing} of its {array.nchunks} chunks, which read as zeros: an incomplete copy?",
            stacklevel=4,
        )
    return values


def _unreadable(path: Path, key: str, error: Exception) -> DataError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return DataError(f"{path}: {key} cannot be read ({reason}); copy or download it again")
