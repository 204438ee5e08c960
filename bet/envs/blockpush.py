"""BlockPush: a round tip pushes two blocks into two targets, 10 control steps a second.

The BeT paper's flagship task (notmahi/bet, `envs/block_pushing/block_pushing_multimodal.py`, after Florence et al.
2021, "Implicit Behavioral Cloning"), there on PyBullet with a robot arm. Initial states, actions, observations,
rewards and ends are the original's. The physics is a planar MuJoCo model (`blockpush.xml`), its numbers fitted to
demonstrations recorded there: `python -m benchmarks.fit_blockpush` also says how far the two are apart.

The arm draws its tip to where the actions have added up to: in a control step the tip goes all but 9% of its way to a
point that misses the target by some 1.5 mm, depending on where it is. That law needs no arm.

PyBullet's friction acts along the motion of each corner and across it, apart from one another: a block that is pushed
along resists any change of its turning, one at rest turns easily, and one let go stops at once. Here the moment of
inertia of a block that is pressed grows with its speed.
"""

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bet.envs.blockpush_scene import (
    BLOCKS,
    EFFECTOR,
    EFFECTOR_TARGET,
    HALF_BLOCK,
    TARGETS,
    TOLERANCE,
    WORKSPACE,
    draw,
)
from bet.envs.vector import Info, SlotVectorEnv

_mujoco: Any = mujoco  # compiled, and without types

XML = Path(__file__).with_suffix(".xml")

START = (0.3, -0.4)  # of that target
PRESS = 0.0061  # metres, about the tip's radius: where it is to come nearer to a block than this, it presses it
ACTION_LIMIT = 0.1  # metres a step, of the action space; as in the original, larger actions are not clipped

YAWS = [2, 5, 12, 15]
OBS_DIM, BODIES = 16, 8  # the first eight columns move by physics
VELOCITIES = slice(16, 22)  # of the blocks, in states alone: x, y and yaw a second
STATE_DIM = 22
BLOCK_XY, TARGET_XY = np.array(BLOCKS)[:, :2], np.array(TARGETS)[:, :2]  # (2, 2)

# Fitted, metres, by `terms`: where the effector comes to rest, seen from its target (6, xy).
OFFSET = 1e-6 * np.array([(-234, 685), (-516, 84), (-65, -1230), (101, -149), (181, 274), (134, -518)])

# Fitted: a block's moment of inertia about its yaw axis at rest, and what fast sliding adds while the tip presses it,
# kg m^2; and the speed at which half of that is added, m/s. (A cube's own would be 2.7e-6.)
TURNING = np.array([4.7e-5, 1.5e-3, 0.017])

CONTROL_SECONDS = 0.1
ENTRY_REWARD, SUCCESS_REWARD = 0.49, 0.51


class BlockPushVectorEnv(SlotVectorEnv):
    """BlockPush in `num_envs` slots (see `SlotVectorEnv` for resets, masks and restoring).

    Actions (n, 2): the change of the effector's target, metres; the target stays in the workspace.
    Observations (n, 16), float32, metres and radians in [-pi, pi): x, y, yaw of both blocks, xy of the effector and of
    its target, x, y, yaw of both targets. States (n, 22), float64: the same, then the blocks' velocities.
    `states` to restore may have 16 columns, of observations: then blocks are at rest. A block that is in a target there
    has come into it before.
    Reward: 0.49 when a block comes into a target for the first time, 0.51 when both are in different ones, in place of
    those; then the episode terminates in success. (The original ends, too, when both come into the same target in the
    same step: its two 0.49 together pass for success.)
    `info`: `success` (0 or 1).

    >>> env = BlockPushVectorEnv(num_envs=2)
    >>> observations, _ = env.reset(seed=[7, 8])
    >>> observations.shape
    (2, 16)
    """

    state_dim = STATE_DIM
    signals = ("success",)
    metadata = SlotVectorEnv.metadata | {"render_fps": 10}

    def __init__(self, num_envs: int, max_steps: int = 300) -> None:
        super().__init__(
            num_envs,
            spaces.Box(-np.inf, np.inf, shape=(OBS_DIM,), dtype=np.float32),
            spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, shape=(2,), dtype=np.float32),
            max_steps,
        )
        self.model = _mujoco.MjModel.from_xml_path(str(XML))
        self._inertias = self.model.dof_M0[2:6:3]  # (2,), of the blocks' yaws: a view that the physics reads
        self._physics_steps = round(CONTROL_SECONDS / self.model.opt.timestep)
        self._worlds = [_mujoco.MjData(self.model) for _ in range(num_envs)]
        self._states = np.zeros((num_envs, STATE_DIM))
        self._entered = np.zeros((num_envs, 2, 2), dtype=bool)  # which blocks have been in which targets

    @property
    def states(self) -> NDArray[np.float64]:
        return self._states.copy()

    def render(self) -> tuple[NDArray[np.uint8], ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One frame (224, 384, 3) per slot: the table from above, the effector's start on the left."""
        return draw(self._states)

    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """The original's distribution. Its second block lies at random where x is 10 cm from the first's."""
        state = np.zeros(STATE_DIM)
        x = generator.uniform(-0.1, 0.1)
        apart = generator.uniform(-0.1, x - 0.1) if x > 0 else generator.uniform(x + 0.1, 0.1)
        for columns, place in zip(BLOCKS, (x, apart), strict=True):
            # The original's `uniform(pi)` is uniform between *1* and pi.
            state[list(columns)] = 0.4 + place, -0.2 + generator.uniform(-0.15, 0.15), generator.uniform(1.0, np.pi)
        side = 0.12 * generator.choice((-1, 1))
        for columns, place in zip(TARGETS, (side, -side), strict=True):
            yaw = np.pi + generator.uniform(-np.pi / 30, np.pi / 30)
            x, y = 0.4 + place + generator.uniform(-0.005, 0.005), 0.2 + generator.uniform(-0.0075, 0.0075)
            state[list(columns)] = x, y, yaw
        state[EFFECTOR_TARGET] = START
        state[EFFECTOR] = rest(np.array([START]))[0]
        return state

    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        world = self._worlds[slot]
        _mujoco.mj_resetDataKeyframe(self.model, world, 0)
        world.qpos[:BODIES], world.qvel[:6] = state[:BODIES], state[VELOCITIES]
        self._states[slot] = state
        self._states[slot, YAWS] = wrapped(state[YAWS])
        self._entered[slot] = restore & (block_distances(state) < TOLERANCE)

    def _checked_states(self, states: Any, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        states = np.asarray(states, dtype=np.float64)
        if states.shape == (self.num_envs, OBS_DIM):
            states = at_rest(states)
        return super()._checked_states(states, mask)

    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Info]:
        targets = np.clip(self._states[slots, EFFECTOR_TARGET] + actions, *WORKSPACE)  # (k, 2)
        bodies, velocities = np.empty((len(slots), BODIES)), np.empty((len(slots), 6))
        goals = rest(targets)
        inertias = yaw_inertias(self._states[slots], goals)
        for row, slot in enumerate(slots.tolist()):
            world = self._worlds[slot]
            world.ctrl[:], self._inertias[:] = goals[row], inertias[row]
            _mujoco.mj_step(self.model, world, self._physics_steps)
            bodies[row], velocities[row] = world.qpos[:BODIES], world.qvel[:6]
        bodies[:, YAWS[:2]] = wrapped(bodies[:, YAWS[:2]])
        self._states[slots, :BODIES], self._states[slots, VELOCITIES] = bodies, velocities
        self._states[slots, EFFECTOR_TARGET] = targets

        distances = block_distances(self._states[slots])  # (k, 2, 2)
        inside = distances < TOLERANCE
        entered = inside & ~self._entered[slots]
        self._entered[slots] |= inside
        nearest = distances.argmin(axis=2)  # (k, 2)
        success = np.all(inside.any(axis=2), axis=1) & (nearest[:, 0] != nearest[:, 1])  # (k,)
        rewards = np.where(success, SUCCESS_REWARD, ENTRY_REWARD * entered.sum(axis=(1, 2)))
        return rewards, success, {"success": success.astype(np.float64)}

    def _observe(self) -> NDArray[np.float32]:
        return self._states[:, :OBS_DIM].astype(np.float32)


def at_rest(observations: NDArray[np.floating]) -> NDArray[np.float64]:
    """The states (n, 22) behind observations (n, 16), if no block moves."""
    return np.pad(observations.astype(np.float64), ((0, 0), (0, STATE_DIM - OBS_DIM)))


def block_distances(states: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far each block is from each target, metres: states or observations (..., d) -> (..., 2 blocks, 2 targets)."""
    states = states.astype(np.float64)
    apart = states[..., BLOCK_XY][..., :, None, :] - states[..., TARGET_XY][..., None, :, :]  # (..., 2, 2, xy)
    return np.hypot(apart[..., 0], apart[..., 1])


def yaw_inertias(states: NDArray[np.float64], goals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Moments of inertia of the blocks for a control step (k, 2), from states before it (k, 22) and the tip's goals."""
    resting, sliding, half = TURNING
    x, y, yaw = np.moveaxis(states[:, VELOCITIES].reshape(-1, 2, 3), 2, 0)  # (k, 2) each
    speed = np.sqrt(x * x + y * y + (HALF_BLOCK * yaw) ** 2)
    pressed = _gaps(states, goals) < PRESS
    return resting + pressed * sliding * speed / (speed + half)


def _gaps(states: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far points (k, 2) are outside of the blocks, metres, 0 inside, (k, 2)."""
    dx, dy = np.moveaxis(points[:, None] - states[:, BLOCK_XY], 2, 0)  # (k, 2) each
    cos, sin = np.cos(states[:, YAWS[:2]]), np.sin(states[:, YAWS[:2]])
    return np.hypot(
        np.maximum(np.abs(cos * dx + sin * dy) - HALF_BLOCK, 0), np.maximum(np.abs(cos * dy - sin * dx) - HALF_BLOCK, 0)
    )


def rest(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the effector comes to rest for targets (k, 2) in metres, (k, 2)."""
    # Not a matrix product, in which a row's last bits depend on how many rows there are.
    return targets + sum(term[:, None] * offset for term, offset in zip(terms(targets).T, OFFSET, strict=True))


def terms(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the offset is linear in: 1, x, y, x^2, x y, y^2, of places scaled to about -1..1, (k, 6)."""
    x, y = (targets[:, 0] - 0.4) / 0.2, targets[:, 1] / 0.4
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def wrapped(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in [-pi, pi)."""
    return (angles + np.pi) % (2 * np.pi) - np.pi
