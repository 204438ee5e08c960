"""PushT: a round agent pushes a T-shaped block onto its goal, 10 control steps a second of 10 physics steps each.

The physics is gym-pusht 0.1.8's to the bit, at a fraction of its cost: the same Chipmunk calls in the same order
(source: gym_pusht/envs/pusht.py and pymunk's wrappers), made on the compiled library that pymunk 6 ships. gym-pusht
also installs a collision handler; it only counts contacts, so here there is none.
"""

from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pymunk._chipmunk_cffi import ffi, lib

from bet.envs.pusht_scene import AGENT_RADIUS, BAR, STEM, WALL_RADIUS, WALLS, coverage, draw
from bet.envs.vector import Info, SlotVectorEnv
from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_observations

PHYSICS_STEPS = 10  # per control step
DT = 0.01  # seconds per physics step
STIFFNESS, DAMPING = 100.0, 20.0  # of the controller that draws the agent to its target
SUCCESS_COVERAGE = 0.95
FEW = 5  # slots: up to here Python floats beat NumPy

_IDENTITY = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)  # cpTransform
_MASS = 1.0
_MOMENT = 2 * lib.cpMomentForPoly(_MASS, 4, BAR, (0, 0), 0)  # gym-pusht takes the bar's moment for the stem as well


_Number = TypeVar("_Number", float, NDArray[np.float64])


def _velocity_path(target: _Number, position: _Number, velocity: _Number) -> list[_Number]:
    """The agent's velocity in each physics step on its way to a target: numbers or arrays, the same to the bit.

    The operations and their order are gym-pusht's, then Chipmunk's for the position it reaches.
    """
    path = []
    for _ in range(PHYSICS_STEPS):
        velocity = velocity + (STIFFNESS * (target - position) - DAMPING * velocity) * DT
        position = position + velocity * DT
        path.append(velocity)
    return path


class _World:
    """One Chipmunk space with walls, agent and block; all of it is freed with the object.

    A slot gets a new one at each reset: contacts cached in a space would otherwise change the next episode's bits.
    """

    __slots__ = ("agent", "block", "space")

    def __init__(self) -> None:
        space = lib.cpSpaceNew()
        lib.cpSpaceSetGravity(space, (0, 0))
        lib.cpSpaceSetDamping(space, 0.0)
        ground = lib.cpSpaceGetStaticBody(space)
        walls = [lib.cpSegmentShapeNew(ground, start, end, WALL_RADIUS) for start, end in WALLS]

        agent = lib.cpBodyNewKinematic()
        lib.cpBodySetPosition(agent, (256, 400))
        disc = lib.cpCircleShapeNew(agent, AGENT_RADIUS, (0, 0))

        block = lib.cpBodyNew(_MASS, _MOMENT)
        parts = [lib.cpPolyShapeNew(block, 4, corners, _IDENTITY, 0.0) for corners in (BAR, STEM)]
        centres = [lib.cpShapeGetCenterOfGravity(part) for part in parts]
        lib.cpBodySetCenterOfGravity(block, tuple(sum(getattr(c, axis) for c in centres) / 2 for axis in "xy"))
        lib.cpBodySetAngle(block, 0.0)
        lib.cpBodySetPosition(block, (256, 300))

        # The order in which shapes are added numbers them, and so orders the contacts.
        bodies, shapes = (agent, block), (*walls, disc, *parts)
        for shape in walls:
            lib.cpSpaceAddShape(space, shape)
        lib.cpSpaceAddBody(space, agent)
        lib.cpSpaceAddShape(space, disc)
        lib.cpSpaceAddBody(space, block)
        for part in parts:
            lib.cpSpaceAddShape(space, part)

        def free(space: Any) -> None:  # must not refer to the _World, or it would keep it alive
            lib.cpSpaceFree(space)  # looks at the bodies, so they go after it
            for shape in shapes:
                lib.cpShapeFree(shape)
            for body in bodies:
                lib.cpBodyFree(body)

        self.space, self.agent, self.block = ffi.gc(space, free), agent, block

    def state(self) -> tuple[float, float, float, float, float]:
        """Agent xy, block xy, block angle in [0, 2 pi)."""
        agent, block = lib.cpBodyGetPosition(self.agent), lib.cpBodyGetPosition(self.block)
        return agent.x, agent.y, block.x, block.y, lib.cpBodyGetAngle(self.block) % (2 * np.pi)


class PushTVectorEnv(SlotVectorEnv):
    """PushT in `num_envs` slots (see `SlotVectorEnv` for resets, masks and restoring).

    Actions (n, 2): where the agent should go, in pixels 0..512; like gym-pusht's they are not clipped.
    States (n, 5): agent xy, block xy in pixels, block angle in [0, 2 pi) radians, as in the published replay buffer.
    Observations: `observation` picks the columns (`PushTLayout`).
    Reward: min(coverage / 0.95, 1); the episode terminates in success when coverage of the goal exceeds 0.95.
    `info`: `success` (0 or 1) and `coverage` (0..1) of this step.

    A seeded reset equals gym-pusht's `reset(seed=...)`: as there, the angle is set after the position, which swings the
    block about its centre of mass, and one physics step is run. A restored state is the state given: angle first, at
    rest, no physics step.

    >>> env = PushTVectorEnv(num_envs=2)
    >>> observations, _ = env.reset(seed=[7, 8])
    >>> observations.shape
    (2, 6)
    """

    state_dim = 5
    signals = ("success", "coverage")
    metadata = SlotVectorEnv.metadata | {"render_fps": 10}

    def __init__(self, num_envs: int, observation: PushTLayout = PushTLayout.STATE, max_steps: int = 300) -> None:
        self.layout = PushTLayout(observation)
        super().__init__(
            num_envs,
            spaces.Box(self.layout.low, self.layout.high, dtype=np.float32),
            spaces.Box(0.0, PUSHT_SIZE, shape=(2,), dtype=np.float32),
            max_steps,
        )
        self._worlds: list[_World | None] = [None] * num_envs
        self._states = np.zeros((num_envs, 5))
        self._velocities = np.zeros((num_envs, 2))  # of the agents, pixels per second
        self._targets = np.full((num_envs, 2), np.nan)  # the last action, for pictures
        # The agent's velocity in each physics step, in memory that Chipmunk reads: rows of NumPy, structs for cffi.
        self._schedule_memory = ffi.new("cpVect[]", num_envs * PHYSICS_STEPS)
        flat = np.frombuffer(ffi.buffer(self._schedule_memory), dtype=np.float64)
        self._schedule = flat.reshape(num_envs, PHYSICS_STEPS, 2)
        self._schedule_structs = [
            [self._schedule_memory[row * PHYSICS_STEPS + step] for step in range(PHYSICS_STEPS)]
            for row in range(num_envs)
        ]

    @property
    def states(self) -> NDArray[np.float64]:
        return self._states.copy()

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """One frame (384, 384, 3) per slot, with a red cross at the agent's target."""
        return draw(self._states, targets=self._targets)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the simulations; the slots rest until they are reset."""
        self._worlds = [None] * self.num_envs
        self._running[:] = False

    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        agent_x, agent_y = generator.integers(50, 450), generator.integers(50, 450)
        block_x, block_y = generator.integers(100, 400), generator.integers(100, 400)
        return np.array([agent_x, agent_y, block_x, block_y, generator.uniform(-np.pi, np.pi)])

    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        agent_x, agent_y, block_x, block_y, angle = state.tolist()
        self._worlds[slot] = world = _World()
        lib.cpBodySetPosition(world.agent, (agent_x, agent_y))
        if restore:
            lib.cpBodySetAngle(world.block, angle)
            lib.cpBodySetPosition(world.block, (block_x, block_y))
            # Chipmunk holds a block by its centre of mass, and reads its position back up to 1e-13 px off.
            self._states[slot] = agent_x, agent_y, block_x, block_y, angle % (2 * np.pi)
        else:
            lib.cpBodySetPosition(world.block, (block_x, block_y))
            lib.cpBodySetAngle(world.block, angle)
            lib.cpSpaceStep(world.space, DT)
            self._states[slot] = world.state()
        self._velocities[slot] = 0.0
        self._targets[slot] = np.nan

    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Info]:
        self._targets[slots] = actions
        self._steer(slots, actions)
        states: list[tuple[float, ...]] = []
        step, set_velocity = lib.cpSpaceStep, lib.cpBodySetVelocity
        for slot, velocities in zip(slots.tolist(), self._schedule_structs, strict=False):
            world = self._worlds[slot]
            assert world is not None  # a running slot has been reset
            space, agent = world.space, world.agent
            for velocity in velocities:
                set_velocity(agent, velocity)
                step(space, DT)
            states.append(world.state())
        new = np.array(states)  # (k, 5)
        self._states[slots] = new
        covered = coverage(new[:, 2:])  # (k,)
        success = covered > SUCCESS_COVERAGE
        return np.minimum(covered / SUCCESS_COVERAGE, 1.0), success, {"success": success, "coverage": covered}

    def _steer(self, slots: NDArray[np.intp], targets: NDArray[np.float64]) -> None:
        """Fill the first rows of the schedule: the agents' velocities in the coming physics steps.

        The agent is kinematic: no contact moves it, so its whole path is known beforehand.
        """
        positions, velocities = self._states[slots, :2], self._velocities[slots]  # (k, 2)
        schedule = self._schedule[: len(slots)]  # (k, steps, 2)
        if len(slots) > FEW:
            schedule[:] = np.stack(_velocity_path(targets, positions, velocities), axis=1)
        else:
            starts = zip(targets.tolist(), positions.tolist(), velocities.tolist(), strict=True)
            for row, start in enumerate(starts):
                schedule[row] = list(zip(*map(_velocity_path, *start), strict=True))
        self._velocities[slots] = schedule[:, -1]

    def _observe(self) -> NDArray[np.float32]:
        return pusht_observations(self._states, self.layout)
