"""Any environment that gymnasium knows by an id, as one of ours: one `gymnasium.make` per slot.

Two things that our simulators promise cannot be had here. There is no state to restore, for gymnasium has no name for
one. And that an episode depends on its seed and actions alone is up to the environment: `registered` plays one twice,
and warns where the two differ.
"""

import hashlib
import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from bet.config import ConfigError
from bet.envs.vector import Info, RenderError, SlotVectorEnv
from bet.errors import FailedRunError

log = logging.getLogger(__name__)

SEEDS = 2**31  # ours are of 64 bits; NumPy's RandomState and C++ simulators take no more than 31 or 32
SUCCESS_KEYS = (
    "success",
    "is_success",
)  # of `info`: Meta-World and Adroit have the first, Fetch and gym-pusht the other

_Result = TypeVar("_Result")


class SimulationError(FailedRunError):
    """An environment raised an exception; the message names it."""


@dataclass(frozen=True)
class SuccessRule:
    """When an episode is a success: by `info`, else by its return, else by its end."""

    key: str | None = None
    """The environment reports it here."""
    threshold: float | None = None
    """The registration's `reward_threshold`, where the environment reports nothing."""

    def __str__(self) -> str:
        if self.key is not None:
            return f"info[{self.key!r}] after any step"
        if self.threshold is not None:
            return f"return >= {self.threshold:g} at the end"
        return "the environment terminates it within the time limit"


@dataclass(frozen=True)
class Registered:
    """What an environment and its registration say."""

    spec: EnvSpec
    version: str
    """Changes with what defines the environment: its package's version or, outside of packages, its source."""
    max_steps: int
    observation_space: spaces.Box  # (obs_dim,) float32
    action_space: spaces.Box  # (act_dim,) float32
    success: SuccessRule
    render_mode: str | None
    """`rgb_array`, or None where there is no such mode."""
    fps: int
    """Frames per second of its videos."""


@cache
def registered(env_id: str) -> Registered:
    """Look an id up, `Name-v0` or `module:Name-v0`, and play an episode of random actions to see what `info` holds.

    Raises `ConfigError` for an id that gymnasium does not know, a module that cannot be imported, an environment that
    cannot be made, has no time limit or other spaces than are supported; `SimulationError` where it raises when played.
    """
    spec = _spec(env_id)
    try:
        env = _make(spec)
    except Exception as error:
        raise ConfigError(f"task {env_id}: gymnasium cannot make it: {_reason(error)}") from error
    try:
        if spec.max_episode_steps is None:
            raise ConfigError(f"task {env_id}: registered without max_episode_steps, so an episode might never end")
        observation_space, action_space = _boxes(env_id, env)
        keys, episode = _called(env_id, _played, env, action_space, spec.max_episode_steps)
        if _called(env_id, _played, env, action_space, spec.max_episode_steps)[1] != episode:
            log.warning(
                "%s: the same seed and actions gave another episode, so its rows may not repeat to the last bit", env_id
            )
        key = next((key for key in SUCCESS_KEYS if key in keys), None)
        rule = SuccessRule(key, None if key else spec.reward_threshold)
        if rule == SuccessRule():
            log.warning(
                "%s: neither info['success'] nor a reward_threshold, so an episode is a success when %s", env_id, rule
            )
        return Registered(
            spec=spec,
            version=f"{spec.id}, gymnasium {gymnasium.__version__}{_origin(env)}",
            max_steps=spec.max_episode_steps,
            observation_space=observation_space,
            action_space=action_space,
            success=rule,
            render_mode="rgb_array" if "rgb_array" in (env.metadata.get("render_modes") or ()) else None,
            fps=round(env.metadata.get("render_fps") or 10),
        )
    finally:
        env.close()


class GymVectorEnv(SlotVectorEnv):
    """A registered environment in `num_envs` slots (see `SlotVectorEnv` for resets, masks and resting slots).

    Observations (n, obs_dim): its Box, flattened, in float32. Actions (n, act_dim): its Box of one dimension; what is
    outside of it is clipped. The seed of a reset is passed on modulo 2**31. Time limit: that of the registration, or
    `max_steps`; the environment may also truncate an episode itself. Signal `success`: 1.0 by `SuccessRule`, in every
    step from then on. Restoring states is refused.

    Raises what `registered` raises, and `SimulationError` when the environment raises anything.

    >>> env = GymVectorEnv(2, "Pendulum-v1")
    >>> observations, info = env.reset(seed=[0, 1])
    >>> observations.shape, env.max_steps
    ((2, 3), 200)
    """

    state_dim = 0
    signals = ("success",)

    def __init__(self, num_envs: int, env_id: str, max_steps: int | None = None) -> None:
        about = registered(env_id)
        super().__init__(
            num_envs,
            observation_space=about.observation_space,
            action_space=about.action_space,
            max_steps=about.max_steps if max_steps is None else max_steps,
        )
        self.env_id = env_id
        self.render_mode = about.render_mode
        self.metadata = {**self.metadata, "render_fps": about.fps}
        self._rule = about.success
        # All of them can render, so that no bit can depend on whether one does. Until asked for a picture gymnasium's
        # own open no window and no GL context.
        modes = {} if about.render_mode is None else {"render_mode": about.render_mode}
        self._envs = [_called(env_id, _make, about.spec, **modes) for _ in range(num_envs)]
        self._observations = np.zeros((num_envs, *about.observation_space.shape), np.float32)
        self._returns = np.zeros(num_envs)
        self._won = np.zeros(num_envs, dtype=bool)

    def _start(self, slot: int, seed: int | None) -> None:
        self._observations[slot] = _called(self.env_id, _reset, self._envs[slot], seed)
        self._returns[slot] = 0
        self._won[slot] = False

    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool], Info]:
        rewards, terminated = np.zeros(len(slots)), np.zeros(len(slots), dtype=bool)
        for row, (slot, action) in enumerate(zip(slots, actions, strict=True)):
            observation, rewards[row], terminated[row], truncated, info = _called(
                self.env_id, _step, self._envs[slot], action
            )
            self._observations[slot] = observation
            self._returns[slot] += rewards[row]
            if truncated:
                self._elapsed[slot] = self.max_steps  # by a limit of its own: its time is up
            over = terminated[row] or self._elapsed[slot] + 1 >= self.max_steps
            self._won[slot] |= self._succeeds(info, float(self._returns[slot]), bool(terminated[row]), bool(over))
        return rewards, terminated, {"success": self._won[slots].astype(np.float64)}

    def _succeeds(self, info: Info, total: float, terminated: bool, over: bool) -> bool:
        if self._rule.key is not None:
            return bool(np.all(info.get(self._rule.key, False)))
        if self._rule.threshold is not None:
            return over and total >= self._rule.threshold
        return terminated

    def _observe(self) -> NDArray[np.float32]:
        return self._observations.copy()

    @property
    def states(self) -> NoReturn:
        raise NotImplementedError(f"{self.env_id}: gymnasium environments have no state in common")

    def _checked_states(self, states: Any, mask: NDArray[np.bool]) -> NoReturn:
        raise ValueError(f"{self.env_id}: states cannot be restored; gymnasium environments start from seeds alone")

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """One frame per slot. Use one slot where a frame takes a GL context (MuJoCo): two of them disturb each other.

        Raises `RenderError` for an environment without pictures, or whose drawing library is not installed.
        """
        if self.render_mode is None:
            raise RenderError(f"{self.env_id}: has no render mode 'rgb_array', so there are no pictures")
        try:
            return tuple(np.asarray(env.render(), dtype=np.uint8) for env in self._envs)
        except Exception as error:
            raise RenderError(f"{self.env_id}: cannot be drawn: {_reason(error)}") from error

    def close_extras(self, **kwargs: Any) -> None:
        for env in self._envs:
            env.close()


def _spec(env_id: str) -> EnvSpec:
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except ModuleNotFoundError as error:
        hint = "; run this where it lies, install it, or set PYTHONPATH" if error.name == module else ""
        raise ConfigError(f"unknown task {env_id!r}: {error}{hint}") from error
    except Exception as error:  # whatever an import may raise
        raise ConfigError(f"unknown task {env_id!r}: {_reason(error)}") from error


def _make(spec: EnvSpec, **kwargs: Any) -> gymnasium.Env:
    # Without gymnasium's time limit, for ours is the one that counts, nor its checks of the first steps.
    return gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **kwargs)


def _boxes(env_id: str, env: gymnasium.Env) -> tuple[spaces.Box, spaces.Box]:
    """The spaces of observations and actions, flat and of float32."""
    seen, done = env.observation_space, env.action_space
    if not isinstance(seen, spaces.Box):
        raise ConfigError(f"task {env_id}: observations are {type(seen).__name__}; supported is a Box, of any shape")
    if not isinstance(done, spaces.Box) or len(done.shape) != 1 or not np.issubdtype(done.dtype, np.floating):
        kind = f"a Box of shape {done.shape}, {done.dtype}" if isinstance(done, spaces.Box) else type(done).__name__
        raise ConfigError(f"task {env_id}: actions are {kind}; supported is a Box of one dimension, of floats")
    with np.errstate(over="ignore"):  # a bound at the end of float64 is none in float32
        observation, action = (
            spaces.Box(box.low.ravel().astype(np.float32), box.high.ravel().astype(np.float32), dtype=np.float32)
            for box in (seen, done)
        )
    return observation, action


def _played(env: gymnasium.Env, action_space: spaces.Box, steps: int) -> tuple[set[str], str]:
    """An episode of random actions, always the same: the keys that `info` had, and a digest of what was seen."""
    sha = hashlib.sha256(_reset(env, 0).tobytes())
    action_space.seed(0)
    keys: set[str] = set()
    for _ in range(steps):
        observation, reward, terminated, truncated, info = _step(env, action_space.sample().astype(np.float64))
        sha.update(observation.tobytes() + np.float64(reward).tobytes())
        keys |= info.keys()
        if terminated or truncated:
            break
    return keys, sha.hexdigest()


def _reset(env: gymnasium.Env, seed: int | None) -> NDArray[np.float32]:
    observation, _ = env.reset(seed=None if seed is None else seed % SEEDS)
    return np.asarray(observation, dtype=np.float32).ravel()


def _step(
    env: gymnasium.Env, action: NDArray[np.float64]
) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
    space = env.action_space
    assert isinstance(space, spaces.Box)
    clipped = np.clip(action, space.low, space.high).astype(space.dtype)
    observation, reward, terminated, truncated, info = env.step(clipped)
    return np.asarray(observation, dtype=np.float32).ravel(), float(reward), bool(terminated), bool(truncated), info


def _called(env_id: str, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """The function's result. Raises `SimulationError` in place of whatever an environment raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise SimulationError(f"{env_id} raised {_reason(error)}") from error


def _origin(env: gymnasium.Env) -> str:
    """What defines an environment, and in which version; nothing more to say of gymnasium's own."""
    module = type(env.unwrapped).__module__
    distributions = packages_distributions().get(module.partition(".")[0])
    if distributions:
        return "".join(f", {name} {version(name)}" for name in sorted({*distributions} - {"gymnasium"}))
    source = getattr(sys.modules[module], "__file__", None)
    return f", {module} {hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12]}" if source else ""


def _reason(error: Exception) -> str:
    """An exception on one line; gymnasium's own messages speak for themselves."""
    text = " ".join(str(error).split())
    return text if isinstance(error, gymnasium.error.Error) else f"{type(error).__name__}: {text}"
