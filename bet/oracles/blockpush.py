"""The scripted demonstrator of BlockPush: it pushes one block into one target, walks back, and pushes the other.

The original's (notmahi/bet, `envs/block_pushing/oracles/multimodal_push_oracle.py`, `oriented_push_oracle.py`), phase
by phase: given the observations recorded there, it gives the recorded actions. Which block goes first, and into which
target, is drawn: four orders, equally likely. It moves the effector's *target*, and sees that in place of the effector.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from math import atan2, cos, hypot, pi, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import Episodes
from bet.envs.blockpush import BLOCKS, CONTROL_SECONDS, EFFECTOR_TARGET, STATE_DIM, TARGETS, BlockPushVectorEnv

MAX_STEPS = 350  # as the original is registered
SLOTS = 32

ARRIVED = 0.001  # metres
IN_TARGET = 0.04  # metres: when the second block's turn comes
PRE_BLOCK, NEXT_TO_BLOCK, IN_BLOCK = 0.05, 0.03, 0.01  # metres behind the block's centre, seen from the target
CIRCLE, ALONG_IT = 0.025, 0.2  # metres and radians: the way around a block that turns it
ASKEW, STRAIGHT = 0.2, 0.03  # radians: a block that has to be turned, and one that has been
WALK, PUSH, TURN = 0.3, 0.35, 0.15  # metres per second

Point = tuple[float, float]


class Order(NamedTuple):
    """Which block goes first, and which target each goes to, as indices."""

    blocks: tuple[int, int]
    targets: tuple[int, int]


ORDERS = tuple(Order((first, 1 - first), (target, 1 - target)) for first in (0, 1) for target in (0, 1))


class Phase(Enum):
    TO_PRE_BLOCK = auto()
    """Walk to a point 5 cm behind the block."""
    TO_FIRST_PRE_BLOCK = auto()
    """Back to the first such point, when the first block has arrived."""
    TO_START = auto()
    """And on to where the episode began."""
    TO_BLOCK = auto()
    PUSH = auto()
    TURN_LEFT = auto()
    TURN_RIGHT = auto()


@dataclass
class Demonstrator:
    """The demonstrator in one episode."""

    order: Order
    phase: Phase = Phase.TO_PRE_BLOCK
    turn: int = 0
    """Whose it is: 0, the first block's, or 1, the second's."""
    _start: Point | None = None
    _first_pre_block: Point | None = None

    def act(self, state: NDArray[np.floating]) -> NDArray[np.float64]:
        """The action (2,) in metres for a state or observation (16,)."""
        numbers = state.tolist()
        here = tuple(numbers[EFFECTOR_TARGET])
        self._start = self._start or here
        if not self.turn and _apart(*self._poses(numbers)) < IN_TARGET:
            self.turn, self.phase = 1, Phase.TO_FIRST_PRE_BLOCK
        (x, y), speed = self._goal(here, *self._poses(numbers))
        dx, dy = x - here[0], y - here[1]
        length, longest = hypot(dx, dy), speed * CONTROL_SECONDS
        if length > longest:
            dx, dy = dx / length * longest, dy / length * longest
        return np.array([dx, dy])

    def _poses(self, numbers: list[float]) -> tuple[list[float], list[float]]:
        """x, y, yaw of the block and target whose turn it is."""
        block, target = BLOCKS[self.order.blocks[self.turn]], TARGETS[self.order.targets[self.turn]]
        return [numbers[column] for column in block], [numbers[column] for column in target]

    def _goal(self, here: Point, block: list[float], target: list[float]) -> tuple[Point, float]:
        """Where to go, and how fast. Phases follow one another within a step, in the original's order."""
        x, y, yaw = block
        apart = _apart(block, target)
        ahead = (target[0] - x) / apart, (target[1] - y) / apart
        error = _quarter(atan2(ahead[1], ahead[0]) - yaw)

        def behind(distance: float) -> Point:
            return x - distance * ahead[0], y - distance * ahead[1]

        goal, speed = here, PUSH
        if self.phase is Phase.TO_PRE_BLOCK:
            goal, speed = behind(PRE_BLOCK), WALK
            if _apart(goal, here) < ARRIVED:
                self.phase = Phase.TO_BLOCK
                self._first_pre_block = self._first_pre_block or goal
        if self.phase is Phase.TO_FIRST_PRE_BLOCK:
            assert self._start is not None
            self._first_pre_block = self._first_pre_block or self._start
            goal, speed = self._first_pre_block, WALK
            if _apart(goal, here) < ARRIVED:
                self.phase = Phase.TO_START
        if self.phase is Phase.TO_START:
            assert self._start is not None
            goal, speed = self._start, WALK
            if _apart(goal, here) < ARRIVED:
                self.phase = Phase.TO_PRE_BLOCK  # from the next step on
        if self.phase is Phase.TO_BLOCK:
            goal = behind(NEXT_TO_BLOCK)
            if abs(error) > ASKEW:
                self.phase = Phase.TURN_LEFT if error > 0 else Phase.TURN_RIGHT
            elif _apart(goal, here) < ARRIVED:
                self.phase = Phase.PUSH
        if self.phase is Phase.PUSH:
            goal = behind(IN_BLOCK)
            if abs(error) > ASKEW:
                self.phase = Phase.TO_PRE_BLOCK
        if self.phase in (Phase.TURN_LEFT, Phase.TURN_RIGHT):
            side = 1 if self.phase is Phase.TURN_LEFT else -1
            angle = atan2(here[1] - y, here[0] - x) + side * ALONG_IT
            goal, speed = (x + CIRCLE * cos(angle), y + CIRCLE * sin(angle)), TURN
            if side * error < STRAIGHT:
                self.phase = Phase.TO_PRE_BLOCK
        return goal, speed


def demonstrations(episodes: range, seed: int) -> tuple[Episodes, int]:
    """The demonstrations of these numbers, and how many of them succeed.

    Each depends on its number and the seed alone: however they are shared out, the same ones are made.

    Raises `ValueError` for no episodes.
    """
    if not episodes:
        raise ValueError("no episodes to make")
    env = BlockPushVectorEnv(min(SLOTS, len(episodes)), MAX_STEPS)
    running: list[_Running | None] = [None] * env.num_envs
    waiting, ended, succeeded = deque(episodes), dict[int, _Running](), 0
    observations = np.zeros((env.num_envs, STATE_DIM), dtype=np.float32)
    while len(ended) < len(episodes):
        free = [slot for slot, one in enumerate(running) if one is None][: len(waiting)]
        if free:
            seeds: list[int | None] = [None] * env.num_envs
            for slot in free:
                number = waiting.popleft()
                seeds[slot], order = drawn(seed, number)
                running[slot] = _Running(number, Demonstrator(order))
            mask = np.isin(np.arange(env.num_envs), free)
            observations, _ = env.reset(seed=seeds, options={"reset_mask": mask})
        actions = np.zeros((env.num_envs, 2), dtype=np.float32)
        states = env.states
        for slot, one in enumerate(running):
            if one is not None:
                actions[slot] = one.demonstrator.act(states[slot])
                one.observations.append(observations[slot])
                one.actions.append(actions[slot])
        observations, _, terminated, truncated, info = env.step(actions)
        for slot in np.flatnonzero(terminated | truncated).tolist():
            one = running[slot]
            assert one is not None
            ended[one.number], running[slot] = one, None
            succeeded += int(info["success"][slot])
    env.close()
    made = [ended[number] for number in episodes]
    together = Episodes(
        observations=np.concatenate([np.stack(one.observations) for one in made]),
        actions=np.concatenate([np.stack(one.actions) for one in made]),
        episode_ends=np.cumsum([len(one.actions) for one in made]),
        task="blockpush",
        source="blockpush demonstrations",
    )
    return together, succeeded


def drawn(seed: int, number: int) -> tuple[int, Order]:
    """The seed of a demonstration's first state, and its order."""
    random = np.random.SeedSequence(seed, spawn_key=(number,))
    order = ORDERS[np.random.default_rng(random.spawn(1)[0]).integers(len(ORDERS))]
    return int(random.generate_state(1, np.uint64)[0]), order


@dataclass
class _Running:
    number: int
    demonstrator: Demonstrator
    observations: list[NDArray[np.float32]] = field(default_factory=list)  # (16,) each
    actions: list[NDArray[np.float32]] = field(default_factory=list)  # (2,) each


def _apart(a: Point | list[float], b: Point | list[float]) -> float:
    return hypot(a[0] - b[0], a[1] - b[1])


def _quarter(angle: float) -> float:
    """An angle up to quarter turns, which a square does not show: in [-pi / 4, pi / 4]."""
    while angle > pi / 4:
        angle -= pi / 2
    while angle < -pi / 4:
        angle += pi / 2
    return angle
