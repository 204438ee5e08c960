"""Many episodes of one policy at once: slots refilled as episodes end, one padded forward for all of them a step.

An episode's rows are a function of (policy, protocol, split, index): its seed and uniforms come from the protocol,
the forward runs at the protocol's batch size, and a reset leaves nothing behind in a slot. How many slots there are,
what ran in them before and in which order episodes start never shows in a result.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bet import tasks
from bet.arithmetic import threads
from bet.config import BinSource, Split
from bet.envs.gym import SimulationError
from bet.envs.vector import SlotVectorEnv
from bet.errors import UsageError
from bet.metrics import Outcome
from bet.policy import DRAW, Policy
from bet.protocol import Protocol, Recipe, episode_randomness, states_digest
from bet.tasks import SimulatedTask
from bet.trajectory import Trajectory

NOT_FINITE = "the policy gave an action that is not finite"
NOT_FINITE_STEP = "the simulator gave an observation or a reward that is not finite"


class End(StrEnum):
    """Why an episode ended."""

    SUCCESS = "success"
    TIME_LIMIT = "time_limit"
    TERMINATED = "terminated"
    """The task ended it without success."""
    ERROR = "error"
    """Policy or simulator gave a number that is not finite, or the episode could not be run."""


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode."""

    index: int
    seed: int
    """The environment's integer seed, uint64."""
    success: bool
    primary: float
    """The episode's share in the primary metric, in [0, 1]."""
    total_reward: float
    max_reward: float
    length: int
    end: End
    outcome: Outcome | None
    """Task columns; None after an error."""
    trajectory: Trajectory | None
    error: str | None = None
    """Why the episode could not be finished."""

    @classmethod
    def of(
        cls, task: SimulatedTask, trajectory: Trajectory, index: int, seed: int, *, terminated: bool
    ) -> "EpisodeResult":
        """What the steps of an episode amount to; `terminated` says that the task ended it, not the time limit."""
        success = trajectory.success
        return cls(
            index=index,
            seed=seed,
            success=success,
            primary=task.episode_primary(trajectory),
            total_reward=float(trajectory.rewards.sum()),
            max_reward=float(trajectory.rewards.max()),
            length=len(trajectory),
            end=End.SUCCESS if success else End.TERMINATED if terminated else End.TIME_LIMIT,
            outcome=task.outcome(trajectory),
            trajectory=trajectory,
        )


class Rollout:
    """Episodes of one policy under one protocol in `slots` slots.

    `start` fills free slots, `step` advances every running one and returns what finished. Raises `UsageError` when
    policy and protocol do not fit. Whatever a simulator raises comes through, and leaves the rollout of no use: the
    episodes that were `running` are to be run again, each of them apart to see which one it was.

    `env`: another simulator of the task than its own, of as many slots.
    `simulating` and `acting` are the seconds spent in the simulator (resets included) and in the policy.
    """

    def __init__(
        self, policy: Policy, recipe: Recipe, split: Split, slots: int, env: SlotVectorEnv | None = None
    ) -> None:
        protocol, self._starts = recipe.protocol, recipe.starts
        self.policy, self.protocol, self.split = policy, protocol, split
        if (None if self._starts is None else states_digest(self._starts)) != protocol.starts:
            raise ValueError("the protocol begins episodes in other states than those given")
        self._window = protocol.window or policy.window
        if self._window > policy.window:
            raise UsageError(f"eval.window: {self._window} is more than the {policy.window} of the policy's training")
        self.task = tasks.simulated(protocol.task)
        self.env = env or self.task.make_env(slots, policy.config.data.observation, protocol.max_steps, protocol.name)
        obs_dim, act_dim = policy.model.obs_dim, policy.model.act_dim
        there = self.env.single_observation_space.shape, self.env.single_action_space.shape
        if there != ((obs_dim,), (act_dim,)):
            raise UsageError(
                f"the policy's observations and actions have shapes {(obs_dim,)} and {(act_dim,)}, "
                f"but those of {protocol.task} ({policy.config.data.observation}) have {there[0]} and {there[1]}"
            )
        steps = protocol.max_steps
        self._index = np.full(slots, -1)  # episode in each slot; -1 is free
        self._seed = np.zeros(slots, np.uint64)
        self._elapsed = np.zeros(slots, np.int64)
        self._uniforms = np.zeros((slots, steps))
        self._observations = np.zeros((slots, steps + 1, obs_dim), np.float32)
        self._actions = np.zeros((slots, steps, act_dim), np.float32)
        self._bins = np.zeros((slots, steps), np.int64)
        self._rewards = np.zeros((slots, steps))
        self._signals = {name: np.zeros((slots, steps)) for name in self.env.signals}
        self.simulating = self.acting = 0.0

    @property
    def running(self) -> list[int]:
        """Episodes under way."""
        return self._index[self._index >= 0].tolist()

    @property
    def busy(self) -> int:
        """Slots with an episode."""
        return int((self._index >= 0).sum())

    @property
    def free(self) -> int:
        """Slots without one."""
        return len(self._index) - self.busy

    def start(self, indices: Sequence[int]) -> None:
        """Begin episodes in free slots; there must be enough of them."""
        if not indices:
            return
        slots = np.flatnonzero(self._index < 0)[: len(indices)]
        seeds: list[int | None] = [None] * len(self._index)
        for slot, index in zip(slots, indices, strict=True):
            seed, self._uniforms[slot] = episode_randomness(self.protocol, self.split, index)
            seeds[slot] = seed
            self._seed[slot] = seed
        self._index[slots] = indices
        self._elapsed[slots] = 0
        mask = np.zeros(len(self._index), dtype=bool)
        mask[slots] = True
        options: dict[str, Any] = {"reset_mask": mask}
        if self._starts is not None:
            options["states"] = np.zeros((len(mask), self.env.state_dim))
            drawn = [np.random.default_rng(int(seed)).integers(len(self._starts)) for seed in self._seed[slots]]
            options["states"][slots] = self._starts[drawn]
        began = time.perf_counter()
        observations, _ = self.env.reset(seed=seeds, options=options)
        self.simulating += time.perf_counter() - began
        self._observations[slots, 0] = observations[slots]

    def step(self) -> list[EpisodeResult]:
        """One control step of every running episode; the episodes it finished."""
        slots = np.flatnonzero(self._index >= 0)
        if len(slots) == 0:
            return []
        elapsed = self._elapsed[slots]
        began = time.perf_counter()
        actions, bins = self._act(slots, elapsed)
        acted = time.perf_counter()
        finite: NDArray[np.bool] = np.asarray(np.isfinite(actions).all(axis=1))  # (k,)
        every_slot = np.zeros((len(self._index), self.policy.model.act_dim), np.float32)
        every_slot[slots] = np.where(finite[:, None], actions, 0)
        simulated_from = time.perf_counter()
        observations, rewards, terminated, truncated, info = self.env.step(every_slot)
        self.simulating += time.perf_counter() - simulated_from
        self.acting += acted - began
        self._observations[slots, elapsed + 1] = observations[slots]
        self._actions[slots, elapsed] = actions
        self._bins[slots, elapsed] = bins
        self._rewards[slots, elapsed] = rewards[slots]
        for name, values in self._signals.items():
            values[slots, elapsed] = info[name][slots]
        self._elapsed[slots] += 1
        sound = np.isfinite(observations[slots]).all(axis=1) & np.isfinite(rewards[slots])  # (k,)
        over = terminated[slots] | truncated[slots] | ~finite | ~sound
        return [
            self._finish(slot, terminated=bool(terminated[slot]), broken=not good)
            for slot, good in zip(slots[over], (finite & sound)[over], strict=True)
        ]

    def close(self) -> None:
        self.env.close()

    def _act(
        self, slots: NDArray[np.intp], elapsed: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Actions (k, act_dim) and bins (k,) of the running slots."""
        uniforms = self._uniforms[slots, elapsed]  # (k,)
        held = None
        if self.protocol.hold_bins > 1:
            held = np.where(elapsed % self.protocol.hold_bins == 0, DRAW, self._bins[slots, elapsed - 1])  # (k,)
        if self.protocol.bins is BinSource.CODEBOOK:
            centers = self.policy.bin_centers
            drawn = (uniforms * len(centers)).astype(np.int64)
            bins = drawn if held is None else np.where(held >= 0, held, drawn)
            return centers[bins], bins
        history, lengths = self._history(slots, elapsed)
        return self.policy.act(history, lengths, uniforms, self.protocol.batch_size, held)

    def _history(
        self, slots: NDArray[np.intp], elapsed: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The last observations of each slot, left-aligned (k, W, obs_dim), and how many are real (k,)."""
        first = np.maximum(elapsed - self._window + 1, 0)
        rows = np.minimum(first[:, None] + np.arange(self.policy.window), elapsed[:, None])  # (k, W)
        return self._observations[slots[:, None], rows], elapsed - first + 1

    def _finish(self, slot: int, *, terminated: bool, broken: bool) -> EpisodeResult:
        index, length = int(self._index[slot]), int(self._elapsed[slot])
        self._index[slot] = -1
        if broken:
            seen, action = self._observations[slot, :length], self._actions[slot, length - 1]
            policys = bool(np.isfinite(seen).all()) and not np.isfinite(action).all()
            return failed(self.protocol, self.split, index, NOT_FINITE if policys else NOT_FINITE_STEP, length)
        trajectory = Trajectory(
            self._observations[slot, : length + 1].copy(),
            self._actions[slot, :length].copy(),
            self._rewards[slot, :length].copy(),
            {name: values[slot, :length].copy() for name, values in self._signals.items()},
            self._bins[slot, :length].copy(),
        )
        return EpisodeResult.of(self.task, trajectory, index, int(self._seed[slot]), terminated=terminated)


def raised(error: Exception) -> str:
    """Why an episode could not be finished whose simulator raised something."""
    said = str(error) if isinstance(error, SimulationError) else f"the simulator raised {type(error).__name__}: {error}"
    return " ".join(said.split())


def failed(protocol: Protocol, split: Split, index: int, error: str, length: int = 0) -> EpisodeResult:
    """The row of an episode that could not be finished, and why: no success, nothing scored."""
    seed, _ = episode_randomness(protocol, split, index)
    return EpisodeResult(index, seed, False, 0.0, 0.0, 0.0, length, End.ERROR, None, None, error)


def rollout(
    policy: Policy,
    recipe: Recipe,
    split: Split,
    indices: Iterable[int],
    slots: int,
    env: SlotVectorEnv | None = None,
) -> Iterator[EpisodeResult]:
    """Run the episodes of the given indices in this process, yielding each as it finishes; an `env` is closed."""
    waiting = list(indices)[::-1]
    engine = Rollout(policy, recipe, split, slots, env)
    try:
        while waiting or engine.busy:
            engine.start([waiting.pop() for _ in range(min(engine.free, len(waiting)))])
            with threads(1):
                finished = engine.step()
            yield from finished
    finally:
        engine.close()
