"""Franka kitchen: an arm moves seven things of a kitchen, 12.5 control steps a second.

The model is Gymnasium-Robotics' (`envs/franka_kitchen`), loaded from the files that the installed package ships, and so
is the control law; what is done with them is the BeT paper's "kitchen-all" (notmahi/bet, `envs/kitchen`, on the
simulator of Relay Policy Learning, Gupta et al. 2019): initial state, observations and their noise, rewards and ends.

The original's sensors are noisy, and so, through them, is its arm: an action is a change of the joint positions that
were last *observed*. It also judges by what is observed whether something is where it is to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bet.envs.kitchen_scene import Camera, light_visuals
from bet.envs.vector import Info, SlotVectorEnv

_mujoco: Any = mujoco  # compiled, and without types

JOINTS, POSITIONS, VELOCITIES = 9, 30, 29  # numbers of the arm's joints, of all positions and of all velocities
OBS_DIM = 60  # the positions, and 30 zeros where relay policy learning has its goal
STATE_DIM = POSITIONS + VELOCITIES


@dataclass(frozen=True)
class Element:
    """One of the things to move."""

    letter: str
    """How the reproduction study abbreviates it."""
    columns: slice
    """Of observations and states."""
    goal: tuple[float, ...]

    def distances(self, observations: NDArray[np.floating]) -> NDArray[np.float64]:
        """How far it is from its goal: observations or states (..., d) -> (...)."""
        away = observations[..., self.columns].astype(np.float64) - self.goal
        return np.sqrt((away * away).sum(axis=-1))


ELEMENTS: Mapping[str, Element] = MappingProxyType(
    {
        "bottom burner": Element("b", slice(11, 13), (-0.88, -0.01)),
        "top burner": Element("t", slice(15, 17), (-0.92, -0.01)),
        "light switch": Element("l", slice(17, 19), (-0.69, -0.05)),
        "slide cabinet": Element("s", slice(19, 20), (0.37,)),
        "hinge cabinet": Element("h", slice(20, 22), (0.0, 1.45)),
        "microwave": Element("m", slice(22, 23), (-0.75,)),
        "kettle": Element("k", slice(23, 30), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
    }
)
"""By the original's names, in its order."""
TOLERANCE = 0.3  # radians and metres alike, even of a kettle's pose: nearer than this, a task is done
ENOUGH = 4  # tasks done make a success: as many as are asked of each demonstrator

ACTION_RANGE = 2.0  # radians a second (of fingers metres) for an action of 1
PHYSICS_STEPS = 40  # a control step
LIMITS = np.array(  # of the arm's controls, radians; of the fingers metres
    [(-2.9, 2.9), (-1.8, 1.8), (-2.9, 2.9), (-3.1, 0.0), (-2.9, 2.9), (0.0, 3.8), (-2.9, 2.9), (0.0, 0.04), (0.0, 0.04)]
)
# Half the width of the noise on every position: 0.1 of the amplitudes in the original's `franka_config.xml`, which are
# those of another scene. The doors have ten times the noise of the kettle's place, but its turn as much as theirs.
NOISE = 0.1 * np.array([0.1] * 9 + [0.005] * 2 + [0.0005] * 6 + [0.005] * 3 + ([0.1] * 3 + [0.005] * 3) * 2)[:POSITIONS]
START = (
    *(0.148388023, -1.76848573, 1.84390296, -2.47685760, 0.260252026, 0.712533105, 1.59515394),  # the arm
    *(0.0479267505, 0.0371350919),  # its fingers
    *(-2.66279850e-4, -5.18043486e-5, 3.12877220e-5, -4.51199853e-5),  # the bottom burners
    *(-3.90842156e-6, -4.22629655e-5, 6.28065475e-5, 4.04984708e-5),  # the top burners
    *(4.62730939e-4, -2.26906415e-4, -4.65501369e-4, -6.44129196e-3, -1.77048263e-3, 1.08009684e-3),  # light, doors
    *(-0.269397440, 0.350383255, 1.61944683, 1.00618764, 4.06395120e-3, -6.62095997e-3, -2.68278933e-4),  # the kettle
)
"""Where everything is at first, at rest."""


class KitchenVectorEnv(SlotVectorEnv):
    """The kitchen in `num_envs` slots (see `SlotVectorEnv` for resets, masks and restoring).

    Actions (n, 9), clipped to [-1, 1]: velocities of the arm's seven joints and two fingers, of 2 rad/s and m/s.
    Observations (n, 60), float32, radians and metres: the positions, and 30 zeros. States (n, 59), float64: positions
    and velocities, as MuJoCo has them, without noise.
    Every episode begins in the same state; seeds differ in the noise alone. `noise=False` leaves it out, and so does
    restoring a state without a seed: what follows depends on the state alone.
    Reward: the number of elements that have come to their goals in the step, each of them once. The episode terminates
    when all seven have.
    `info`: `success`, 1 while at least four have.

    >>> env = KitchenVectorEnv(num_envs=2)
    >>> observations, _ = env.reset(seed=[7, 8])
    >>> observations.shape
    (2, 60)
    """

    state_dim = STATE_DIM
    signals = ("success",)
    metadata = SlotVectorEnv.metadata | {"render_fps": 12}

    def __init__(self, num_envs: int, max_steps: int = 280, *, noise: bool = True) -> None:
        super().__init__(
            num_envs,
            spaces.Box(-np.inf, np.inf, shape=(OBS_DIM,), dtype=np.float32),
            spaces.Box(-1, 1, shape=(JOINTS,), dtype=np.float32),
            max_steps,
        )
        self.noise = noise
        self._model = model()
        self._seconds = PHYSICS_STEPS * self._model.opt.timestep
        self._worlds = [_mujoco.MjData(self._model) for _ in range(num_envs)]
        self._noisy = np.zeros(num_envs, dtype=bool)
        self._observed = np.zeros((num_envs, POSITIONS))
        self._done = np.zeros((num_envs, len(ELEMENTS)), dtype=bool)

    @property
    def states(self) -> NDArray[np.float64]:
        return np.array([np.concatenate([world.qpos, world.qvel]) for world in self._worlds])

    def render(self) -> tuple[NDArray[np.uint8], ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One frame (240, 320, 3) per slot. Raises `RenderError` where there is no OpenGL to draw it with."""
        camera = _camera()
        return tuple(camera.picture(state[:POSITIONS]) for state in self.states)

    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        return np.concatenate([START, np.zeros(VELOCITIES)])

    def _start(self, slot: int, seed: int | None) -> None:
        self._noisy[slot] = self.noise
        super()._start(slot, seed)

    def _restore(self, slot: int, state: NDArray[np.float64], seed: int | None) -> None:
        self._noisy[slot] = self.noise and seed is not None
        super()._restore(slot, state, seed)

    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        world = self._worlds[slot]
        _mujoco.mj_resetData(self._model, world)  # the warm start of the solver too
        world.qpos[:], world.qvel[:] = state[:POSITIONS], state[POSITIONS:]
        _mujoco.mj_forward(self._model, world)
        self._sense(slot)
        self._done[slot] = restore & at_goals(self._observe()[slot])

    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Info]:
        velocities = ACTION_RANGE * np.clip(actions, -1, 1)  # (k, 9)
        controls = np.clip(self._observed[slots, :JOINTS] + velocities * self._seconds, *LIMITS.T)
        for row, slot in enumerate(slots.tolist()):
            world = self._worlds[slot]
            world.ctrl[:] = controls[row]
            _mujoco.mj_step(self._model, world, PHYSICS_STEPS)
            self._sense(slot)
        before = self._done[slots]
        self._done[slots] |= at_goals(self._observe()[slots])
        count = self._done[slots].sum(axis=1)  # (k,)
        success = (count >= ENOUGH).astype(np.float64)
        return (count - before.sum(axis=1)).astype(np.float64), count == len(ELEMENTS), {"success": success}

    def _sense(self, slot: int) -> None:
        """Observe a slot anew."""
        self._observed[slot] = self._worlds[slot].qpos
        if self._noisy[slot]:
            generator = self._generators[slot]
            assert generator is not None
            self._observed[slot] += NOISE * generator.uniform(-1, 1, POSITIONS)

    def _observe(self) -> NDArray[np.float32]:
        return np.pad(self._observed.astype(np.float32), ((0, 0), (0, OBS_DIM - POSITIONS)))


@cache
def model() -> Any:
    """The kitchen's `MjModel`, one for the process: nobody may change it. Compiling it takes a second."""
    compiled = _mujoco.MjModel.from_xml_path(str(scene_file()))
    light_visuals(compiled)
    return compiled


def scene_file() -> Path:
    """The kitchen as MuJoCo reads it."""
    found = find_spec("gymnasium_robotics")  # not imported: all of its environments would be
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "envs" / "assets" / "kitchen_franka" / "kitchen_assets"
    return folder / "kitchen_env_model.xml"


@cache
def _camera() -> Camera:
    return Camera(model())


def at_goals(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of `ELEMENTS` are at their goals: observations or states (..., d) -> (..., 7)."""
    return np.stack([element.distances(observations) < TOLERANCE for element in ELEMENTS.values()], axis=-1)


def judged(observations: NDArray[np.floating]) -> tuple[NDArray[np.float64], Info]:
    """Rewards (T,) and `info` of an episode's T steps, by its observations (T + 1, 60) alone."""
    done = np.logical_or.accumulate(at_goals(observations)).sum(axis=1)  # (T + 1,)
    return np.diff(done).astype(np.float64), {"success": (done[1:] >= ENOUGH).astype(np.float64)}


def at_rest(observations: NDArray[np.floating]) -> NDArray[np.float64]:
    """The states (n, 59) behind observations (n, 60) without noise, if nothing moves."""
    return np.pad(observations[:, :POSITIONS].astype(np.float64), ((0, 0), (0, VELOCITIES)))
