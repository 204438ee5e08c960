"""The scripted demonstrator of the kitchen: it does four tasks in a random order, with the arm's own joints.

It stands in for the people of Relay Policy Learning (Gupta et al. 2019), who did four tasks a demonstration by
teleoperation: four of the five that it knows (`HANDLES`), every order equally likely. It knows neither burner.
Differential inverse kinematics (mink) turns way-points of the gripper into joint velocities, once a control step.

It acts on what is *observed*, noise and all, as the policy will, and that is recorded. An action is a change of the
observed joint positions, so the demonstrator's corrects what the noise would do to the arm.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from typing import Any

import mink
import mujoco
import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import Episodes
from bet.envs.kitchen import (
    ACTION_RANGE,
    JOINTS,
    LIMITS,
    PHYSICS_STEPS,
    POSITIONS,
    START,
    KitchenVectorEnv,
    model,
    scene_file,
)
from bet.oracles.kitchen_ways import HANDLES, Way

_mujoco: Any = mujoco  # compiled, and without types

MAX_STEPS = 280
TASKS = 4  # a demonstration
ORDERS = tuple(permutations(HANDLES, TASKS))

ARM = slice(0, 7)  # of the joints; the two others are the fingers
FASTEST = 0.14  # radians ahead of a joint's position
TURNING = 5  # radians that the reference turns ahead for each metre that it is ahead
TURNED = 0.4  # radians: the gripper points where it is to
HASTE = (0.9, 1.1)  # range of a demonstration's factor on how far ahead references are
ITERATIONS = 3  # of the inverse kinematics
PLACE_COST, TURN_COST, POSTURE_COST, DAMPING = 1.0, 0.1, 0.03, 1e-4
# The gripper's axes as columns: up, right, ahead.
FORWARDS = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=np.float64)
GRIPPER = ("end_effector", "site")


class Arm:
    """The arm alone: its kinematics, and how it is driven."""

    def __init__(self) -> None:
        spec = _mujoco.MjSpec.from_file(str(scene_file()))
        for body in ("desk", "kettle"):
            spec.delete(spec.body(body))
        for key in list(spec.keys):
            spec.delete(key)
        self._model = spec.compile()
        # What the environment lets no control leave.
        ranges = self._model.jnt_range
        ranges[:] = np.clip(ranges, *(bound[:, None] for bound in LIMITS.T))
        # What an action of 1 adds to a joint's observed position.
        self._step = ACTION_RANGE * PHYSICS_STEPS * self._model.opt.timestep
        self._stiffness = self._model.actuator_gainprm[ARM, 0]
        self._world = _mujoco.MjData(self._model)
        self._inverse = mink.Configuration(self._model)
        self._frame = mink.FrameTask(*GRIPPER, PLACE_COST, TURN_COST, lm_damping=0.01)
        posture = mink.PostureTask(self._model, POSTURE_COST)
        posture.set_target(np.clip(START[:JOINTS], *ranges.T))
        self._tasks = [self._frame, posture]
        self._limits = [mink.ConfigurationLimit(self._model)]

    def gripper(self, joints: NDArray[np.float64]) -> mink.SE3:
        """Where it is in the world."""
        self._inverse.update(joints)
        return self._inverse.get_transform_frame_to_world(*GRIPPER)

    def towards(self, goal: mink.SE3, joints: NDArray[np.float64], fingers: float, lead: float) -> NDArray[np.float64]:
        """The action (9,) that moves the gripper on, from observed joints (9,), by a reference `lead` metres ahead."""
        here = self.gripper(joints)
        path, turn = goal.translation() - here.translation(), (here.rotation().inverse() @ goal.rotation()).log()
        reference = mink.SE3.from_rotation_and_translation(
            here.rotation() @ mink.SO3.exp(_at_most(turn, TURNING * lead)), here.translation() + _at_most(path, lead)
        )
        self._frame.set_target(reference)
        for _ in range(ITERATIONS):
            velocity = mink.solve_ik(self._inverse, self._tasks, 1.0, "daqp", DAMPING, limits=self._limits)
            self._inverse.integrate_inplace(velocity, 1.0)
        ahead = self._inverse.q - joints
        ahead[ARM] *= min(1.0, FASTEST / max(float(np.abs(ahead[ARM]).max()), 1e-9))
        ahead[ARM] += self._sag(joints)
        ahead[ARM.stop :] = fingers - joints[ARM.stop :]
        return np.clip(ahead / self._step, -1, 1)

    def _sag(self, joints: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far gravity pulls each joint of the arm (7,) from where it is driven."""
        self._world.qpos[:] = joints
        _mujoco.mj_forward(self._model, self._world)
        return self._world.qfrc_bias[ARM] / self._stiffness


@cache
def _arm() -> Arm:
    return Arm()


@dataclass
class Demonstrator:
    """The demonstrator in one episode."""

    order: tuple[str, ...]
    generator: np.random.Generator
    """Of its haste, and of where way-points are."""
    finished: bool = False
    _ways: Iterator[tuple[str, Way]] = field(init=False)
    _haste: float = field(init=False)
    _task: str = field(init=False)
    _way: Way | None = field(init=False, default=None)
    _goal: mink.SE3 = field(init=False)
    _steps: int = field(init=False)

    def __post_init__(self) -> None:
        self._haste = self.generator.uniform(*HASTE)
        self._ways = iter([(task, way) for task in self.order for way in HANDLES[task].ways])

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float64]:
        """The action (9,) for an observation or state; `finished` is set with the last one."""
        positions = observation[:POSITIONS].astype(np.float64)
        arm, joints = _arm(), positions[:JOINTS]
        while self._way is None or self._over(positions, arm.gripper(joints)):
            following = next(self._ways, None)
            if following is None:
                self.finished = True
                break
            self._task, self._way = following
            self._goal, self._steps = self._point(positions), 0
        assert self._way is not None
        self._steps += 1
        return arm.towards(self._goal, joints, self._way.fingers, self._haste * self._way.lead)

    def _over(self, positions: NDArray[np.float64], gripper: mink.SE3) -> bool:
        """Whether the present way has been gone."""
        way = self._way
        assert way is not None
        if way.waits or self._steps >= way.steps:
            return self._steps >= way.steps
        if way.until is not None and positions[HANDLES[self._task].progress] * np.sign(way.until) > abs(way.until):
            return True
        apart = gripper.inverse() @ self._goal
        return bool(np.linalg.norm(apart.translation()) < way.near and np.linalg.norm(apart.rotation().log()) < TURNED)

    def _point(self, positions: NDArray[np.float64]) -> mink.SE3:
        """Where the gripper goes."""
        way = self._way
        assert way is not None
        jitter = self.generator.normal(0, way.spread, 3)
        place = _handle(self._task, positions, way.stands) + way.offset + jitter
        up = mink.SO3.from_x_radians(way.pitch)
        return mink.SE3.from_rotation_and_translation(up @ mink.SO3.from_matrix(FORWARDS), place)


def demonstrations(episodes: range, seed: int) -> tuple[Episodes, int]:
    """The demonstrations of these numbers, and in how many of them four tasks are done.

    Each depends on its number and the seed alone: however they are shared out, the same ones are made. One that fails
    at a task goes on with the next. Raises `ValueError` for no episodes.
    """
    if not episodes:
        raise ValueError("no episodes to make")
    env = KitchenVectorEnv(1, MAX_STEPS)
    observations, actions, ends, succeeded = [], [], [], 0
    for number in episodes:
        first, demonstrator = drawn(seed, number)
        observation, _ = env.reset(seed=[first])
        ended, info = False, {"success": np.zeros(1)}
        while not (ended or demonstrator.finished):
            observations.append(observation[0])
            actions.append(demonstrator.act(observation[0]).astype(np.float32))
            observation, _, terminated, truncated, info = env.step(actions[-1][None])
            ended = bool(terminated[0] or truncated[0])
        ends.append(len(actions))
        succeeded += int(info["success"][0])
    env.close()
    made = Episodes(
        observations=np.stack(observations),
        actions=np.stack(actions),
        episode_ends=np.array(ends),
        task="kitchen",
        source="kitchen demonstrations",
    )
    return made, succeeded


def drawn(seed: int, number: int) -> tuple[int, Demonstrator]:
    """The seed of a demonstration's sensors, and who makes it."""
    random = np.random.SeedSequence(seed, spawn_key=(number,))
    generator = np.random.default_rng(random.spawn(1)[0])
    order = ORDERS[generator.integers(len(ORDERS))]
    return int(random.generate_state(1, np.uint64)[0]), Demonstrator(order, generator)


def _handle(task: str, positions: NDArray[np.float64], stands: tuple[float, ...] | None) -> NDArray[np.float64]:
    """Where a task's handle is in the world for positions (30,), or where it would be."""
    world, handle = _kitchen(), HANDLES[task]
    world.qpos[:] = positions
    if stands is not None:
        world.qpos[handle.columns] = stands
    _mujoco.mj_kinematics(model(), world)
    return world.site(handle.site).xpos.copy()


@cache
def _kitchen() -> Any:
    """`MjData` of the whole kitchen to look things up in."""
    return _mujoco.MjData(model())


def _at_most(vector: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))
