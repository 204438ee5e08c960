"""Rollouts saved by the reproduction study: a folder of padded `.npy` arrays.

Its vectorised evaluation (github.com/skandermoalla/bet-reproduction, `workspaces/vec_base.py`; read again by its
`compute_metrics.py`) writes three arrays of E rollouts with T steps each: `obs_trajs.npy` (E, T + 1, obs_dim),
`action_trajs.npy` (E, T + 1, act_dim) and `done_at.npy` (E,): the step, counted from 1, after which the simulator first
said done, or 0 when it never did. What follows belongs to no rollout: gym resets by itself and goes on, and the last
column holds the state reached and an action that was not taken. A rollout is its first `done_at` steps, or all T.

The study's serial evaluation pickles a list per rollout instead (`obses_0.pth`), and notmahi/bet saves its actions only
(`actions_0.pth`); neither is read.

The arrays do not name the task. Dimensions tell block pushing (16, 2) from the kitchen (60, 9) and the point mass
(2, 2), whose two versions are told by where the rollouts start, (1, 2) or (0, 0).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes
from bet.data.npy import read_npy, write_npy
from bet.data.padded import pad, unpad
from bet.envs.pointmass import PointMassVersion
from bet.files import new_folder

OBSERVATIONS, ACTIONS, DONE_AT = "obs_trajs.npy", "action_trajs.npy", "done_at.npy"
_TASKS = {(16, 2): "blockpush", (60, 9): "kitchen"}  # by dimensions of observation and action
_POINT_MASS = (2, 2)
_NEAR = 0.5  # cells: the start's noise is 0.1, and the two starts are 2 apart


def load_rollouts(path: Path) -> Episodes:
    """The steps of saved rollouts up to their end. Raises `DataError` naming the file, and the rollout at fault."""
    observations = read_npy(path / OBSERVATIONS, ("E", "T + 1", "obs_dim"))
    actions = read_npy(path / ACTIONS, ("E", "T + 1", "act_dim"))
    done_at = read_npy(path / DONE_AT, ("E",))
    if not observations.shape[:2] == actions.shape[:2] == (len(done_at), observations.shape[1]):
        shapes = f"{observations.shape}, {actions.shape} and {done_at.shape}"
        raise DataError(f"{path}: {OBSERVATIONS}, {ACTIONS} and {DONE_AT} do not pair up: {shapes}")
    steps = observations.shape[1] - 1
    wrong = (done_at < 0) | (done_at > steps) | (done_at != np.round(done_at))
    if wrong.any():
        rollout = int(np.argmax(wrong))
        raise DataError(f"{path / DONE_AT}: rollout {rollout} is done at {done_at[rollout]:g}, not in 0..{steps}")
    lengths = np.where(done_at == 0, steps, done_at).astype(np.int64)
    task = _task(str(path), observations, actions)
    return Episodes(unpad(observations, lengths), unpad(actions, lengths), np.cumsum(lengths), task, str(path))


def save_rollouts(episodes: Episodes, path: Path) -> None:
    """Write episodes as rollouts that are done after their last step; zeros follow it.

    Raises `DataError` for a task whose rollouts would not be known again.
    """
    task = _task(episodes.source, episodes.observations[episodes.episode_starts][:, None], episodes.actions[:, None])
    if task != episodes.task:
        raise DataError(f"{episodes.source}: demonstrations of {episodes.task!r} would be read as {task!r}'s")
    columns = int(episodes.lengths.max()) + 1
    with new_folder(path) as folder:
        write_npy(folder / OBSERVATIONS, pad(episodes.observations, episodes, columns))
        write_npy(folder / ACTIONS, pad(episodes.actions, episodes, columns))
        write_npy(folder / DONE_AT, episodes.lengths.astype(np.float64))


def _task(source: str, observations: NDArray[np.number], actions: NDArray[np.number]) -> str:
    """The task of rollouts, told by dimensions, and by the starts for the point mass."""
    dims = observations.shape[2], actions.shape[2]
    if dims in _TASKS:
        return _TASKS[dims]
    if dims == _POINT_MASS and len(observations):
        start = np.median(observations[:, 0], axis=0)  # (2,)
        for version in PointMassVersion:
            if np.abs(start - version.maze.start).max() <= _NEAR:
                return version.value
        raise DataError(f"{source}: the rollouts start near {start.tolist()}, where neither point mass task starts")
    raise DataError(f"{source}: no task of the study observes {dims[0]} numbers and acts with {dims[1]}")
