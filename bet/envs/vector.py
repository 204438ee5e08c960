"""What every environment here is: a `gymnasium.vector.VectorEnv` whose slots live apart.

A slot is reset, restored and stepped as if it were alone: nothing that another slot does, nor anything this slot did
before its reset, changes a bit of its future. A slot that has not been reset, or whose episode has ended, rests:
stepping it changes nothing and costs nothing, so a caller may refill slots one by one (`AutoresetMode.DISABLED`).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from bet.errors import UsageError

Info = dict[str, Any]


class RenderError(UsageError):
    """There are no pictures of an environment; the message says why."""


class SlotVectorEnv(VectorEnv):
    """Base of the simulators: masks, seeds, states and resting slots; a simulator writes the five hooks below.

    `reset(seed=..., options={"reset_mask": mask})` resets the masked slots (all without a mask); `seed` is one integer
    (slot i gets `seed + i`) or one per slot (None: go on with the slot's own generator).
    `reset(options={"states": (n, state_dim), "reset_mask": mask})` restores states at rest; no physics step is run.
    `step` returns the usual five; `info` holds float64 arrays of shape (n,), the same names every step (`signals`).
    """

    state_dim: int
    signals: tuple[str, ...]  # names of the per-step arrays in `info`, "success" among them
    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, num_envs: int, observation_space: spaces.Box, action_space: spaces.Box, max_steps: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.num_envs = num_envs
        self.max_steps = max_steps
        self.render_mode = "rgb_array"
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._running = np.zeros(num_envs, dtype=bool)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)

    # What a simulator writes. `slots` are indices, (k,).

    @abstractmethod
    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """An initial state (state_dim,) from the task's distribution."""

    @abstractmethod
    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        """Put a slot into a state, leaving nothing behind of what ran there before.

        `restore` is True for states given by the caller, False for initial states from a seed (where the task's own
        reset may settle the physics).
        """

    @abstractmethod
    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool], Info]:
        """One control step of the slots (k,), actions (k, act_dim): rewards, terminated and each signal, all (k,)."""

    @abstractmethod
    def _observe(self) -> NDArray[np.float32]:
        """What a policy sees of every slot, (num_envs, obs_dim)."""

    @property
    @abstractmethod
    def states(self) -> NDArray[np.float64]:
        """The simulator's state of every slot, (num_envs, state_dim), as `reset(options={"states": ...})` takes it."""

    @abstractmethod
    def render(self) -> tuple[NDArray[np.uint8], ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One frame (height, width, 3) per slot."""

    # What they all share.

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], Info]:
        options = dict(options or {})
        mask = self._mask(options.pop("reset_mask", None))
        states = options.pop("states", None)
        if options:
            raise ValueError(f"unknown reset option {sorted(options)[0]!r}; known: reset_mask, states")
        if states is not None:
            states = self._checked_states(states, mask)
        for slot, slot_seed in enumerate(self._seeds(seed)):
            if not mask[slot]:
                continue
            if slot_seed is not None:
                self._generators[slot], _ = seeding.np_random(slot_seed)
            if states is not None:
                self._restore(slot, states[slot], slot_seed)
            else:
                self._start(slot, slot_seed)
        self._running |= mask
        self._elapsed[mask] = 0
        return self._observe(), {}

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, actions: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool], NDArray[np.bool], Info]:
        actions = np.asarray(actions, dtype=np.float64)  # (n, act_dim)
        expected = (self.num_envs, *(self.single_action_space.shape or ()))
        if actions.shape != expected:
            raise ValueError(f"actions have shape {actions.shape}, expected {expected}")
        slots = np.flatnonzero(self._running)
        finite = np.isfinite(actions[slots]).all(axis=1)
        if not finite.all():
            raise ValueError(f"the action of slot {slots[np.argmin(finite)]} is not finite")
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=bool)
        truncated = np.zeros(self.num_envs, dtype=bool)
        info: Info = {name: np.zeros(self.num_envs) for name in self.signals}
        if len(slots):
            rewards[slots], terminated[slots], signals = self._advance(slots, actions[slots])
            for name in self.signals:
                info[name][slots] = signals[name]
            self._elapsed[slots] += 1
            truncated[slots] = (self._elapsed[slots] >= self.max_steps) & ~terminated[slots]
            self._running[slots] = ~(terminated[slots] | truncated[slots])
        return self._observe(), rewards, terminated, truncated, info

    def _start(self, slot: int, seed: int | None) -> None:
        """Put a slot into an initial state; its generator has been seeded unless `seed` is None."""
        generator = self._generators[slot]
        if generator is None:
            generator, _ = seeding.np_random(None)
            self._generators[slot] = generator
        self._place(slot, self._draw_state(generator), restore=False)

    def _restore(self, slot: int, state: NDArray[np.float64], seed: int | None) -> None:
        """Put a slot into a state that the caller gave; its generator has been seeded unless `seed` is None."""
        self._place(slot, state, restore=True)

    def _mask(self, mask: Any) -> NDArray[np.bool]:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(f"reset_mask must be {self.num_envs} booleans, got {mask.dtype} of shape {mask.shape}")
        return mask

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} slots")
        return [None if value is None else int(value) for value in seed]

    def _checked_states(self, states: Any, mask: NDArray[np.bool]) -> NDArray[np.float64]:
        states = np.asarray(states, dtype=np.float64)
        if states.shape != (self.num_envs, self.state_dim):
            raise ValueError(f"states have shape {states.shape}, expected {(self.num_envs, self.state_dim)}")
        broken = mask & ~np.isfinite(states).all(axis=1)
        if broken.any():
            raise ValueError(f"the state given for slot {np.argmax(broken)} is not finite")
        return states
