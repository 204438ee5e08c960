"""The task registry, the one place that names a task: its demonstrations, and its simulator, protocol and metrics.

Demonstrations of any `Task` can be looked at, converted and trained on; a `SimulatedTask` can roll a policy out, too.
Any other name is a gymnasium id, and its task is made from what the environment and its registration say.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, overload

import mujoco
import numpy as np
import pymunk
import scipy
from gymnasium import spaces
from numpy.typing import NDArray

from bet.config import (
    PRESETS,
    ConfigError,
    DataConfig,
    EvalConfig,
    Start,
    did_you_mean,
    is_gymnasium_id,
    task_of,
    unknown_task,
)
from bet.data import formats
from bet.data.episodes import DataError, Episodes
from bet.envs.blockpush import BlockPushVectorEnv
from bet.envs.gym import GymVectorEnv, registered
from bet.envs.kitchen import ELEMENTS, KitchenVectorEnv, judged
from bet.envs.pointmass import PointMassVectorEnv, PointMassVersion
from bet.envs.pusht import PushTVectorEnv
from bet.envs.vector import SlotVectorEnv
from bet.layouts import PushTLayout
from bet.metrics import (
    BLOCKPUSH_ROUTES,
    BY_MODES,
    NO_ROUTE,
    SUCCESS,
    BlockPushOutcome,
    KitchenOutcome,
    Outcome,
    PointMassOutcome,
    PushTOutcome,
    blockpush_outcome,
    blockpush_primary,
    kitchen_outcome,
    kitchen_primary,
    pointmass_outcome,
    pusht_outcome,
    pusht_primary,
    route_labels,
    route_shares,
    success_primary,
)
from bet.oracles.pointmass import demonstrations
from bet.protocol import Protocol, Recipe, states_digest
from bet.trajectory import Trajectory
from bet.views import View, blockpush_view, kitchen_view, plain_view, pointmass_view, pusht_view

DATA_DIR = "BET_DATA_DIR"  # where demonstrations live; `data` in the working directory when unset
GENERATED_EPISODES = 2000  # point mass demonstrations made on the spot when no file is given
CARLA_FEATURES, CARLA_ACTIONS = 512, 2  # ResNet-18 features of the camera's picture (BeT)


EnvMaker = Callable[[int, str, int], SlotVectorEnv]
"""Of a number of slots, an observation layout and the steps of an episode."""


@dataclass(frozen=True)
class Origin:
    """Where a task's demonstrations come from."""

    source: str
    """Who made them."""
    licence: str | None
    """None: nobody's, they are made on this machine."""
    places: tuple[str, ...]
    """Where they are looked for, below `data_root()`, the first wins. None at all: they are made on the spot."""
    command: str
    """`bet-ray data ...` that gets them."""

    @property
    def path(self) -> Path | None:
        """The first place where something is, else the first."""
        paths = [data_root() / place for place in self.places]
        return next((path for path in paths if path.exists()), paths[0] if paths else None)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Demonstrations, and what their numbers mean."""

    name: str
    summary: str
    """One line for people."""
    layouts: tuple[str, ...]
    """Observation layouts, the default first."""
    origin: Origin | None = None
    """None: it comes without demonstrations."""
    modes: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Values of the column `route` with their demonstrated shares; empty where modes are not named."""
    _load: Callable[[DataConfig], Episodes]
    _view: Callable[[str], View]

    def view(self, layout: str) -> View:
        """How people read the numbers of a layout. Raises `ConfigError` for an unknown one."""
        self._check_layout(layout)
        return self._view(layout)

    def boxes(self, layout: str) -> tuple[spaces.Box, spaces.Box]:
        """The spaces of observations and of actions; without bounds where no simulator says how far they go."""
        view = self.view(layout)
        observation, action = (
            spaces.Box(-np.inf, np.inf, (len(columns),), np.float32) for columns in (view.columns, view.action_columns)
        )
        return observation, action

    def load(self, data: DataConfig) -> Episodes:
        """The demonstrations that the settings name. Raises `DataError` or `ConfigError`."""
        self._check_layout(data.observation)
        episodes = self._load(data)
        if episodes.task != self.name:
            raise DataError(f"{episodes.source}: demonstrations of {episodes.task!r}, expected {self.name!r}")
        self.check(episodes, data.observation)
        return episodes

    def check(self, episodes: Episodes, layout: str) -> None:
        """Raises `DataError` for numbers that are not this task's through a layout, `ConfigError` for no such one."""
        for what, array, space in self._numbers(episodes, layout):
            if array.shape[1:] != space.shape:
                raise DataError(f"{episodes.source}: {what} have shape {array.shape[1:]}, expected {space.shape}")

    def layout_of(self, episodes: Episodes) -> str:
        """The layout with as many columns as the observations; the default one where none has."""
        columns = episodes.observations.shape[1]
        return next((name for name in self.layouts if len(self.view(name).columns) == columns), self.layouts[0])

    def _numbers(self, episodes: Episodes, layout: str) -> list[tuple[str, NDArray[np.float32], spaces.Box]]:
        """Observations and actions, each with its name and its box."""
        arrays = episodes.observations, episodes.actions
        return list(zip(("observations", "actions"), arrays, self.boxes(layout), strict=True))

    def _check_layout(self, layout: str) -> None:
        if layout not in self.layouts:
            raise ConfigError(
                f"data.observation: {self.name} has no layout {layout!r}{did_you_mean(layout, self.layouts)}"
            )


@dataclass(frozen=True)
class Rate:
    """A share of the episodes: of those that have `count` or more in a column."""

    column: str
    count: int
    published: bool = True
    """Whether the literature's tables have it; else it is a stricter reading."""


@dataclass(frozen=True, kw_only=True)
class SimulatedTask(Task):
    """A task that policies can be rolled out in."""

    protocol: Protocol
    rates: Mapping[str, Rate] = field(default_factory=lambda: MappingProxyType({}))
    """Other metrics that are shares of the episodes."""
    legend: str = ""
    """What the names of the rates and modes mean, in a sentence each."""
    events: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What happens in an episode -> the column that holds the step, from 1, or `NEVER`."""
    first: str | None = None
    """The column that says what an episode began with, successful or not; `NO_ROUTE` where nothing was done."""
    outcome_type: type[Outcome]
    """Dataclass whose fields are the task's columns in the episode table."""
    outcome: Callable[[Trajectory], Outcome]
    sequence: str | None = None
    """The column that says what was done in which order, separated by `IN_ORDER`."""
    judge: Callable[[NDArray[np.float32]], tuple[NDArray[np.float64], Mapping[str, NDArray[np.float64]]]] | None = None
    """Observations (T + 1, obs_dim) of an episode, where they say it all, -> rewards (T,) and signals, each (T,)."""
    episode_primary: Callable[[Trajectory], float]
    """An episode's share in the primary metric, in [0, 1]."""
    _make_env: EnvMaker
    _other_protocols: tuple[tuple[Protocol, EnvMaker], ...] = ()
    """Evaluations in simulators of their own, besides the task's usual one."""
    strict_boxes: bool = False
    """Whether nothing leaves the boxes of observations and actions, so that demonstrations that do are wrong."""

    @property
    def mode_entropy(self) -> float:
        """Of the demonstrated modes, in nats; 0 without any."""
        return float(scipy.stats.entropy(list(self.modes.values()))) if self.modes else 0.0

    @property
    def by_modes(self) -> bool:
        """Whether the primary metric is success rate x mode coverage; else it is the mean of the episodes' shares."""
        return self.protocol.primary == BY_MODES

    @property
    def scored(self) -> bool:
        """Whether one episode may be worth something without success."""
        return self.protocol.primary not in (SUCCESS, BY_MODES)

    @property
    def published_rates(self) -> list[str]:
        return [name for name, rate in self.rates.items() if rate.published]

    @cached_property
    def signals(self) -> tuple[str, ...]:
        """Names of the environment's signals."""
        with closing(self.make_env(1)) as env:
            return env.signals

    def make_env(
        self,
        num_envs: int,
        observation: str | None = None,
        max_steps: int | None = None,
        protocol: str | None = None,
    ) -> SlotVectorEnv:
        """A vector environment with `num_envs` slots, as a protocol has it (None: the usual one).

        Raises `ConfigError` for an unknown observation layout or protocol.
        """
        layout = self.layouts[0] if observation is None else observation
        self._check_layout(layout)
        named, make = self._evaluation(protocol)
        return make(num_envs, layout, named.max_steps if max_steps is None else max_steps)

    def _evaluation(self, name: str | None) -> tuple[Protocol, EnvMaker]:
        """A protocol by its name, None: the usual one, and its simulator."""
        usual = self.protocol, self._make_env
        known = {protocol.name: (protocol, make) for protocol, make in (usual, *self._other_protocols)}
        if name is None:
            return usual
        if name not in known:
            raise ConfigError(f"eval.protocol: {self.name} has no protocol {name!r}{did_you_mean(name, known)}")
        return known[name]

    def boxes(self, layout: str) -> tuple[spaces.Box, spaces.Box]:
        """The spaces of the simulator's observations and actions."""
        with closing(self.make_env(1, layout)) as env:
            observation, action = env.single_observation_space, env.single_action_space
        assert isinstance(observation, spaces.Box)
        assert isinstance(action, spaces.Box)
        return observation, action

    def load(self, data: DataConfig) -> Episodes:
        """The demonstrations that the settings name. Raises `DataError` or `ConfigError`."""
        episodes = super().load(data)
        if self.strict_boxes:
            for what, array, space in self._numbers(episodes, data.observation):
                _check_inside(array, space, f"{episodes.source}: {what}")
        return episodes

    def recipe(self, wanted: EvalConfig, data: DataConfig) -> Recipe:
        """The evaluation that the settings name; `data` are the demonstrations, for where they begin.

        Raises `ConfigError` for another task's protocol, or where demonstrations do not tell the simulator's state.
        """
        protocol, _ = self._evaluation(wanted.protocol)
        starts = self._demonstrated_starts(data) if wanted.start is Start.DEMONSTRATIONS else None
        changes = {
            "window": wanted.window,
            "hold_bins": wanted.hold_bins,
            "bins": wanted.bins,
            "starts": None if starts is None else states_digest(starts),
        }
        return Recipe(protocol.model_copy(update=changes), starts)

    def _demonstrated_starts(self, data: DataConfig) -> NDArray[np.float64]:
        """The simulator's state at the beginning of every demonstration, (E, state_dim)."""
        for layout in self.layouts:
            view = self.view(layout)
            if view.complete:
                episodes = self.load(data.model_copy(update={"observation": layout}))
                return view.scene(episodes.observations[episodes.episode_starts])
        raise ConfigError(f"eval.start: demonstrations of {self.name} do not tell the simulator's state")


def data_root() -> Path:
    """The folder of demonstrations: BET_DATA_DIR, else `data` in the working directory."""
    return Path(os.environ.get(DATA_DIR, "data"))


@overload
def get(name: Literal["pusht", "blockpush", "kitchen", "pointmass1", "pointmass2"]) -> SimulatedTask: ...
@overload
def get(name: str) -> Task: ...
def get(name: str) -> Task:
    """The task of a name, preset or gymnasium id. Raises `ConfigError` with a did-you-mean, or gymnasium's reason."""
    if task_of(name) in TASKS:
        return TASKS[task_of(name)]
    if is_gymnasium_id(name):
        return _gymnasium(name)
    raise unknown_task(name)


def simulated(name: str) -> SimulatedTask:
    """As `get`, of a task to roll policies out in; besides raises `ConfigError` for one that has no simulator."""
    task = get(name)
    if not isinstance(task, SimulatedTask):
        raise ConfigError(
            f"{no_simulator(task)}: its demonstrations can be looked at and trained on, but nothing can be rolled out"
        )
    return task


def no_simulator(task: Task) -> str:
    """What is told of a task that is not simulated."""
    return f"{task.name} has no simulator yet"


def _check_inside(array: NDArray[np.float32], box: spaces.Box, what: str) -> None:
    """Raises `DataError` for the first row (N, dim) outside a box by more than rounding."""
    rounding = 1e-5 * np.maximum(1, np.abs(np.stack([box.low, box.high])))  # of an infinite bound: infinite
    with np.errstate(invalid="ignore"):
        outside = (array < box.low - rounding[0]) | (array > box.high + rounding[1])  # (N, dim)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise DataError(
            f"{what} row {row}, dimension {column}: {array[row, column]:g} is outside the environment's "
            f"{box.low[column]:g}..{box.high[column]:g}"
        )


def _load_from(origin: Origin, data: DataConfig) -> Episodes:
    path = Path(data.path) if data.path else origin.path
    assert path is not None
    if not path.exists():
        raise DataError(
            f"{path}: no such demonstrations; get them (bet-ray data {origin.command}), or set data.path=... "
            f"or {DATA_DIR} to the folder that holds {origin.places[0].partition('/')[0]}/"
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


def _pusht() -> SimulatedTask:
    origin = Origin(
        source="people (Diffusion Policy, Chi et al. 2023)",
        licence="MIT",
        places=("pusht/pusht_cchi_v7_replay.zarr",),
        command="download pusht",
    )
    return SimulatedTask(
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
        origin=origin,
        _make_env=_pusht_env,
        _load=partial(_load_from, origin),
        _view=pusht_view,
    )


def _released(name: str, source: str) -> Origin:
    """Demonstrations of the BeT paper: in `NAME/`, or where the whole release was unpacked; else those that we make."""
    places = (name, f"bet_data_release/{name}", f"{name}.parquet")
    return Origin(source=source, licence="see osf.io/983qz", places=places, command=f"generate {name}")


def _blockpush() -> SimulatedTask:
    origin = _released("blockpush", "a scripted demonstrator (BeT, Shafiullah et al. 2022)")
    routes = dict.fromkeys(BLOCKPUSH_ROUTES, 1 / len(BLOCKPUSH_ROUTES)) | {NO_ROUTE: 0.0}
    return SimulatedTask(
        name="blockpush",
        summary="push two blocks into two targets, in any order and pairing",
        layouts=("state",),
        protocol=Protocol(
            name="blockpush-v1",
            task="blockpush",
            env_version=f"1, MuJoCo {mujoco.__version__}",
            max_steps=300,
            success="both blocks are within 5 cm of different targets",
            primary="blocks pushed",
        ),
        rates=MappingProxyType(
            {f"R{count}": Rate("reached", count) for count in (1, 2)}
            | {
                f"P{count}{reading}": Rate(column, count, published=not reading)
                for column, reading in (
                    ("pushed", ""),
                    ("stayed", " stays"),
                    ("pushed_4cm", " 4 cm"),
                    ("stayed_4cm", " stays 4 cm"),
                )
                for count in (1, 2)
            }
        ),
        events=MappingProxyType(
            {
                f"{which} block {what}": f"{which}_{what}_at"
                for what in ("reached", "pushed")
                for which in ("first", "second")
            }
        ),
        first="first_push",
        legend=(
            "R1, R2: that many blocks reached. P1, P2: brought into targets; in the stricter readings they stay until "
            "the end, or come nearer than 4 cm. A route is the block that comes into a target first, and whether each "
            "block goes to the target of its own number (straight) or to the other (crossed)."
        ),
        outcome_type=BlockPushOutcome,
        outcome=blockpush_outcome,
        episode_primary=blockpush_primary,
        modes=MappingProxyType(routes),
        origin=origin,
        _make_env=lambda num_envs, _, max_steps: BlockPushVectorEnv(num_envs, max_steps),
        _load=partial(_load_from, origin),
        _view=blockpush_view,
    )


def _kitchen_env(num_envs: int, observation: str, max_steps: int, *, noise: bool) -> SlotVectorEnv:
    return KitchenVectorEnv(num_envs, max_steps, noise=noise)


def _kitchen() -> SimulatedTask:
    origin = _released("kitchen", "people (Relay Policy Learning, Gupta et al. 2019), or a scripted demonstrator")
    protocol = Protocol(
        name="kitchen-v1",
        task="kitchen",
        env_version=f"1, MuJoCo {mujoco.__version__}",
        max_steps=280,
        success="at least four of seven tasks are done: observed within 0.3 of their goals after some step",
        primary="tasks completed / 4",
    )
    noiseless = protocol.model_copy(
        update={"name": "kitchen-noiseless-v1", "env_version": f"{protocol.env_version}, sensors without noise"}
    )
    return SimulatedTask(
        name="kitchen",
        summary="move some of seven things of a kitchen with an arm, in any order",
        layouts=("state",),
        protocol=protocol,
        rates=MappingProxyType({f"p{count}": Rate("done", count) for count in range(1, 6)}),
        events=MappingProxyType({f"{name} done": f"{name.replace(' ', '_')}_at" for name in ELEMENTS}),
        sequence="sequence",
        legend="p1 to p5: that many of the seven tasks done. An episode goes on until all are, or for 280 steps.",
        outcome_type=KitchenOutcome,
        outcome=kitchen_outcome,
        judge=judged,
        episode_primary=kitchen_primary,
        origin=origin,
        _make_env=partial(_kitchen_env, noise=True),
        _other_protocols=((noiseless, partial(_kitchen_env, noise=False)),),
        _load=partial(_load_from, origin),
        _view=kitchen_view,
    )


def _pointmass(version: PointMassVersion) -> SimulatedTask:
    return SimulatedTask(
        name=version.value,
        summary=f"walk a grid to a target by one of {len(version.maze.routes)} routes",
        layouts=("state",),
        protocol=Protocol(
            name=f"{version.value}-v1",
            task=version.value,
            env_version="1",
            max_steps=50,
            success="the target is reached",
            primary=BY_MODES,
        ),
        outcome_type=PointMassOutcome,
        outcome=partial(pointmass_outcome, version=version),
        episode_primary=success_primary,
        modes=MappingProxyType(dict(zip(route_labels(version), route_shares(version).tolist(), strict=True))),
        _make_env=partial(_pointmass_env, version),
        _load=partial(_load_pointmass, version),
        origin=Origin("a scripted demonstrator", None, places=(), command=f"generate {version.value}"),
        _view=partial(pointmass_view, version),
    )


def _load_given(task: str, data: DataConfig) -> Episodes:
    if not data.path:
        raise DataError(
            f"data.path: {task} comes without demonstrations; write yours with bet.data.store.save_episodes "
            "and give data.path=FILE.parquet"
        )
    return formats.load(Path(data.path), data.observation)


def _gymnasium_env(env_id: str, num_envs: int, observation: str, max_steps: int) -> SlotVectorEnv:
    return GymVectorEnv(num_envs, env_id, max_steps)


def _gymnasium_view(env_id: str, layout: str) -> View:
    observation, action = _gymnasium(env_id).boxes(layout)
    return plain_view(spaces.flatdim(observation), spaces.flatdim(action))


@cache
def _gymnasium(env_id: str) -> SimulatedTask:
    about = registered(env_id)
    return SimulatedTask(
        name=env_id,
        summary=f"gymnasium's {about.spec.id}; a success when {about.success}",
        layouts=("state",),
        protocol=Protocol(
            name=env_id,
            task=env_id,
            env_version=about.version,
            max_steps=about.max_steps,
            success=str(about.success),
            primary=SUCCESS,
        ),
        outcome_type=Outcome,
        outcome=lambda _: Outcome(),
        episode_primary=success_primary,
        _make_env=partial(_gymnasium_env, env_id),
        _load=partial(_load_given, env_id),
        _view=partial(_gymnasium_view, env_id),
        strict_boxes=True,
    )


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            _pusht(),
            _blockpush(),
            _kitchen(),
            Task(
                name="carla",
                summary="drive a car by features of the camera's picture",
                layouts=("state",),
                _load=partial(_load_given, "carla"),
                _view=lambda _: plain_view(CARLA_FEATURES, CARLA_ACTIONS),
            ),
            _pointmass(PointMassVersion.ONE),
            _pointmass(PointMassVersion.TWO),
        )
    }
)

assert TASKS.keys() == set(map(task_of, PRESETS)), "every task of ours has a preset; gymnasium ids share one"
