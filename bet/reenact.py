"""Recorded steps as rollouts: the simulator says what it would have said to each of them."""

from collections.abc import Mapping
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from bet.config import ConfigError
from bet.data.episodes import Episodes
from bet.measure import measure_trajectories
from bet.tasks import SimulatedTask
from bet.trajectory import Trajectory

SLOTS = 64  # steps made at once
NO_BIN = -1  # nobody drew any


def reenact(episodes: Episodes, task: SimulatedTask, layout: str) -> list[Trajectory]:
    """One trajectory for each episode: every recorded action taken once more, from the state recorded before it.

    Errors of the simulator so never add up. Rewards and signals are the simulator's, and so is the observation after
    the last action; what the observation leaves out, as velocities, starts at rest. Where observations alone say how a
    step went (`SimulatedTask.judge`), the last action of each episode is the only one that is taken.

    Raises `ConfigError` where the layout does not tell the simulator's state, `DataError` for another task's numbers.
    """
    view = task.view(layout)
    task.check(episodes, layout)
    if not view.complete:
        raise ConfigError(f"data.observation: {layout!r} does not tell the state of {task.name}'s simulator")
    last, rows = episodes.episode_ends - 1, np.arange(len(episodes.observations))
    if task.judge:
        rows = last
    states = view.scene(episodes.observations[rows])  # (k, state_dim)
    rewards, signals, after = _steps(task, layout, states, episodes.actions[rows])
    found = []
    for start, end, final in zip(
        episodes.episode_starts, episodes.episode_ends, after[np.searchsorted(rows, last)], strict=True
    ):
        observations = np.concatenate([episodes.observations[start:end], final[None]])
        if task.judge:
            said = task.judge(observations)
        else:
            said = rewards[start:end], {name: values[start:end] for name, values in signals.items()}
        found.append(Trajectory(observations, episodes.actions[start:end], *said, np.full(end - start, NO_BIN)))
    return found


def demonstrated_entropies(episodes: Episodes, task: SimulatedTask, layout: str) -> Mapping[str, float]:
    """`Measurement.entropies` of demonstrations. Raises what `reenact` does."""
    return measure_trajectories(task, reenact(episodes, task, layout)).entropies


def _steps(
    task: SimulatedTask, layout: str, states: NDArray[np.float64], actions: NDArray[np.float32]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]], NDArray[np.float32]]:
    """Rewards (k,), signals (k,) and the observations after (k, obs_dim) of one step from each state."""
    rewards = np.zeros(len(states))
    signals = {name: np.zeros(len(states)) for name in task.signals}
    after = []
    with closing(task.make_env(SLOTS, layout)) as env:
        for start in range(0, len(states), SLOTS):
            rows = np.minimum(np.arange(start, start + SLOTS), len(states) - 1)  # the last ones repeat the last
            count = min(SLOTS, len(states) - start)
            env.reset(options={"states": states[rows]})
            observations, reward, _, _, info = env.step(actions[rows])
            rewards[start : start + count] = reward[:count]
            for name, values in signals.items():
                values[start : start + count] = info[name][:count]
            after.append(observations[:count].copy())
    return rewards, signals, np.concatenate(after)
