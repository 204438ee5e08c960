"""The demonstrations released with the BeT paper: folders of padded `.npy` arrays, one layout per task.

Block pushing is episode-major: `multimodal_push_observations.npy` (E, T, 16), `multimodal_push_actions.npy` (E, T, 2),
`multimodal_push_masks.npy` (E, T). The kitchen is time-major: `observations_seq.npy` (T, E, 60), `actions_seq.npy`
(T, E, 9), `existence_mask.npy` (T, E). A mask is 1 at the steps that exist (a prefix of the episode) and 0 after them.
Source: github.com/notmahi/bet, `dataloaders/trajectory_loader.py`; the reproduction study's is the same.

The kitchen's folder may also hold `onehot_goals.pth` (T, E, 7), the task that each step serves. BeT does not read it;
its goal-conditioned successor does (github.com/jeffacce/play-to-policy, `dataloaders/trajectory_loader.py`). `Episodes`
has no goals, so they are read by themselves: `load_kitchen_goals`.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes
from bet.data.npy import read_npy, write_npy
from bet.data.padded import pad, unpad
from bet.files import new_folder

KITCHEN_GOALS = "onehot_goals.pth"
KITCHEN_TASKS = 7


@dataclass(frozen=True)
class _Layout:
    """File names and dimensions of one release."""

    task: str
    observations: str
    actions: str
    masks: str
    obs_dim: int
    act_dim: int
    time_major: bool


class BetRelease(Enum):
    """The releases of state-based demonstrations."""

    BLOCKPUSH = _Layout(
        task="blockpush",
        observations="multimodal_push_observations.npy",
        actions="multimodal_push_actions.npy",
        masks="multimodal_push_masks.npy",
        obs_dim=16,
        act_dim=2,
        time_major=False,
    )
    KITCHEN = _Layout(
        task="kitchen",
        observations="observations_seq.npy",
        actions="actions_seq.npy",
        masks="existence_mask.npy",
        obs_dim=60,
        act_dim=9,
        time_major=True,
    )


def load_release(path: Path, release: BetRelease) -> Episodes:
    """The demonstrations in a release's folder, as float32 like the original's loader.

    Raises `DataError` naming the file, and the episode where one is at fault.
    """
    layout = release.value
    lengths, longest = _lengths(path, layout)

    def steps(name: str, dim: int) -> NDArray[np.float32]:  # (N, dim)
        array = _episode_major(path / name, layout, dim)
        if array.shape[:2] != (len(lengths), longest):
            raise DataError(
                f"{path / name}: has {array.shape[0]} episodes of up to {array.shape[1]} steps, "
                f"but {layout.masks} has {len(lengths)} of up to {longest}"
            )
        return unpad(array, lengths)

    observations, actions = steps(layout.observations, layout.obs_dim), steps(layout.actions, layout.act_dim)
    return Episodes(observations, actions, np.cumsum(lengths), layout.task, str(path))


def save_release(episodes: Episodes, path: Path, release: BetRelease) -> None:
    """Write demonstrations as a release's folder: float64, zeros past the end of an episode, no goals.

    Raises `DataError` for demonstrations of another task or of other dimensions.
    """
    layout = release.value
    if episodes.task != layout.task:
        raise DataError(f"{episodes.source}: demonstrations of {episodes.task!r}; the format holds {layout.task!r}")
    longest = int(episodes.lengths.max())
    arrays = {layout.masks: pad(np.ones((len(episodes.actions), 1), dtype=np.float32), episodes, longest)[..., 0]}
    for name, steps, dim in (
        (layout.observations, episodes.observations, layout.obs_dim),
        (layout.actions, episodes.actions, layout.act_dim),
    ):
        if steps.shape[1] != dim:
            raise DataError(f"{episodes.source}: has {steps.shape[1]} columns for {name}, which holds {dim}")
        arrays[name] = pad(steps, episodes, longest)
    with new_folder(path) as folder:
        for name, array in arrays.items():
            write_npy(folder / name, array.swapaxes(0, 1) if layout.time_major else array)


def load_kitchen_goals(path: Path) -> NDArray[np.float32]:
    """The task that each step of the kitchen demonstrations serves, (N, 7) of 0 and 1, in the order of their steps.

    Raises `DataError` naming the file when it is absent, unreadable or does not go with the demonstrations.
    """
    import torch  # here: listing formats and tasks should not wait for it

    file = path / KITCHEN_GOALS
    lengths, longest = _lengths(path, BetRelease.KITCHEN.value)
    try:
        goals = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file") from error
    except Exception as error:  # damaged files fail in as many ways as there are bytes
        raise DataError(f"{file}: not a readable tensor ({type(error).__name__})") from error
    expected = (longest, len(lengths), KITCHEN_TASKS)
    if not isinstance(goals, torch.Tensor) or tuple(goals.shape) != expected:
        what = tuple(goals.shape) if isinstance(goals, torch.Tensor) else type(goals).__name__
        raise DataError(f"{file}: holds {what}, expected a tensor of shape {expected}")
    steps = unpad(goals.float().numpy().swapaxes(0, 1), lengths)
    if not np.isin(steps, (0, 1)).all():
        raise DataError(f"{file}: holds other values than 0 and 1")
    return steps


def _lengths(path: Path, layout: _Layout) -> tuple[NDArray[np.int64], int]:
    """Steps of each episode (E,) by the mask, and how many there is room for."""
    file = path / layout.masks
    masks = _episode_major(file, layout)
    lengths = (masks != 0).sum(axis=1)
    prefix = np.arange(masks.shape[1]) < lengths[:, None]
    broken = (masks != prefix).any(axis=1) | (lengths == 0)
    if broken.any():
        episode = int(np.argmax(broken))
        raise DataError(f"{file}: episode {episode} is not ones then zeros, with a one at least")
    return lengths, masks.shape[1]


def _episode_major(file: Path, layout: _Layout, *dims: int) -> NDArray[np.number]:
    """An array of a release, (E, T, *dims) whichever way it is stored."""
    if layout.time_major:
        return read_npy(file, ("T", "E", *dims)).swapaxes(0, 1)
    return read_npy(file, ("E", "T", *dims))
