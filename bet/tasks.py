"""The task registry, the one place that names a task: its simulator, protocol, demonstrations and metrics."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pymunk

from bet.config import PRESETS, ConfigError, DataConfig, did_you_mean
from bet.data import formats
from bet.data.episodes import DataError, Episodes
from bet.envs.pointmass import PointMassVectorEnv, PointMassVersion
from bet.envs.pusht import PushTVectorEnv
from bet.envs.vector import SlotVectorEnv
from bet.layouts import PushTLayout
from bet.metrics import (
    Outcome,
    PointMassOutcome,
    PushTOutcome,
    pointmass_outcome,
    pointmass_primary,
    pusht_outcome,
    pusht_primary,
    route_labels,
    route_shares,
)
from bet.oracles.pointmass import demonstrations
from bet.protocol import Protocol
from bet.trajectory import Trajectory

DATA_DIR = "BET_DATA_DIR"  # where demonstrations live; `data` in the working directory when unset
GENERATED_EPISODES = 2000  # point mass demonstrations made on the spot when no file is given


@dataclass(frozen=True)
class Task:
    """What the engine needs to know of a task."""

    name: str
    summary: str
    """One line for people."""
    layouts: tuple[str, ...]
    """Observation layouts, the default first."""
    protocol: Protocol
    outcome_type: type[Outcome]
    """Dataclass whose fields are the task's columns in the episode table."""
    outcome: Callable[[Trajectory], Outcome]
    episode_primary: Callable[[Trajectory], float]
    """An episode's share in the primary metric, in [0, 1]."""
    modes: Mapping[str, float]
    """Values of the column `route` with their demonstrated shares; empty where modes are not named. Where they are, the
    primary metric is success rate x mode coverage; elsewhere it is the mean of the episodes' shares."""
    _make_env: Callable[[int, str, int], SlotVectorEnv]
    _load: Callable[[DataConfig], Episodes]

    def make_env(self, num_envs: int, observation: str | None = None, max_steps: int | None = None) -> SlotVectorEnv:
        """A vector environment with `num_envs` slots. Raises `ConfigError` for an unknown observation layout."""
        layout = self.layouts[0] if observation is None else observation
        self._check_layout(layout)
        return self._make_env(num_envs, layout, self.protocol.max_steps if max_steps is None else max_steps)

    def load(self, data: DataConfig) -> Episodes:
        """The demonstrations that the settings name. Raises `DataError` or `ConfigError`."""
        self._check_layout(data.observation)
        episodes = self._load(data)
        if episodes.task != self.name:
            raise DataError(f"{data.path}: demonstrations of {episodes.task!r}, expected {self.name!r}")
        env = self.make_env(1, data.observation)
        for what, array, space in (
            ("observations", episodes.observations, env.single_observation_space),
            ("actions", episodes.actions, env.single_action_space),
        ):
            if array.shape[1:] != space.shape:
                raise DataError(f"{episodes.source}: {what} have shape {array.shape[1:]}, expected {space.shape}")
        return episodes

    def _check_layout(self, layout: str) -> None:
        if layout not in self.layouts:
            raise ConfigError(
                f"data.observation: {self.name} has no layout {layout!r}{did_you_mean(layout, self.layouts)}"
            )


def data_root() -> Path:
    """The folder of demonstrations: BET_DATA_DIR, else `data` in the working directory."""
    return Path(os.environ.get(DATA_DIR, "data"))


def get(name: str) -> Task:
    """The task of a name. Raises `ConfigError` with a did-you-mean."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]


def _load_pusht(data: DataConfig) -> Episodes:
    path = Path(data.path) if data.path else data_root() / "pusht" / "pusht_cchi_v7_replay.zarr"
    if not path.exists():
        raise DataError(
            f"{path}: no such demonstrations; set data.path=... or {DATA_DIR} to the folder that holds pusht/"
        )
    return formats.load(path, data.observation)


def _load_pointmass(version: PointMassVersion, data: DataConfig) -> Episodes:
    if data.path:
        return formats.load(Path(data.path), data.observation)
    return demonstrations(version, GENERATED_EPISODES, seed=0)


def _pusht_env(num_envs: int, observation: str, max_steps: int) -> SlotVectorEnv:
    return PushTVectorEnv(num_envs, PushTLayout(observation), max_steps)


def _pointmass_env(version: PointMassVersion, num_envs: int, observation: str, max_steps: int) -> SlotVectorEnv:
    return PointMassVectorEnv(num_envs, version, max_steps)


def _pointmass(version: PointMassVersion) -> Task:
    return Task(
        name=version.value,
        summary=f"walk a grid to a target by one of {len(version.maze.routes)} routes",
        layouts=("state",),
        protocol=Protocol(
            name=f"{version.value}-v1",
            task=version.value,
            env_version="1",
            max_steps=50,
            success="the target is reached",
            primary="success x mode coverage",
        ),
        outcome_type=PointMassOutcome,
        outcome=partial(pointmass_outcome, version=version),
        episode_primary=pointmass_primary,
        modes=MappingProxyType(dict(zip(route_labels(version), route_shares(version).tolist(), strict=True))),
        _make_env=partial(_pointmass_env, version),
        _load=partial(_load_pointmass, version),
    )


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="pusht",
                summary="push a T-shaped block onto its goal with a round pusher",
                layouts=tuple(PushTLayout),
                protocol=Protocol(
                    name="pusht-v1",
                    task="pusht",
                    env_version=f"1, Chipmunk {pymunk.chipmunk_version}",
                    max_steps=300,
                    success="coverage of the goal > 0.95 at any step",
                    primary="score",
                ),
                outcome_type=PushTOutcome,
                outcome=pusht_outcome,
                episode_primary=pusht_primary,
                modes=MappingProxyType({}),
                _make_env=_pusht_env,
                _load=_load_pusht,
            ),
            _pointmass(PointMassVersion.ONE),
            _pointmass(PointMassVersion.TWO),
        )
    }
)

assert TASKS.keys() == PRESETS.keys(), "every task has a preset"
