"""Policies in the original of BlockPush (PyBullet) and in ours, side by side; and how fast both are, in the same run.

    pip install pybullet gym==0.26.2 gin-config six matplotlib
    git clone https://github.com/notmahi/bet
    python -m benchmarks.blockpush_original bet RUN... [--episodes 100]

The original wants packages that nobody maintains, so it is no dependency: it is imported from a checkout, as it is.
Episodes begin in other states in the two, of the same distribution; a policy draws the same bins.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.blockpush_env import block_actions
from benchmarks.pusht_env import Ours, measure
from bet import Policy, tasks
from bet.config import Split
from bet.envs.blockpush import ACTION_LIMIT, OBS_DIM, BlockPushVectorEnv
from bet.envs.vector import Info, SlotVectorEnv
from bet.protocol import Recipe
from bet.rollout import EpisodeResult, Rollout
from bet.stats import rate_interval

SLOTS = 32


class OriginalVectorEnv(SlotVectorEnv):
    """One slot of the original, which gives no states away and takes none."""

    state_dim = OBS_DIM
    signals = ("success",)

    def __init__(self, checkout: Path, max_steps: int) -> None:
        super().__init__(
            1,
            spaces.Box(-np.inf, np.inf, shape=(OBS_DIM,), dtype=np.float32),
            spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, shape=(2,), dtype=np.float32),
            max_steps,
        )
        self._env = _multimodal(checkout).BlockPushMultimodal(control_frequency=10.0)
        self._seen = np.zeros((1, OBS_DIM))

    @property
    def states(self) -> NDArray[np.float64]:
        return self._seen.copy()

    def render(self) -> Any:
        raise NotImplementedError

    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        seed = int(generator.integers(2**31))
        np.random.seed(seed)  # noqa: NPY002 - on which side targets are, the original draws there
        self._env.seed(seed)
        return _vector(self._env.reset())

    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        if restore:
            raise NotImplementedError
        self._seen[slot] = state

    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Info]:
        observation, reward, done, _ = self._env.step(actions[0])
        self._seen[0] = _vector(observation)
        return np.array([reward]), np.array([done]), {"success": np.array([float(done)])}

    def _observe(self) -> NDArray[np.float32]:
        return self._seen.astype(np.float32)


def _multimodal(checkout: Path) -> Any:
    """The original's module."""
    if not (checkout / "envs" / "block_pushing").is_dir():
        raise SystemExit(f"{checkout}: no checkout of https://github.com/notmahi/bet")
    registration: Any = importlib.import_module("gym.envs.registration")

    class Registry(dict[str, Any]):
        """As it was in the gym of the original's time."""

        @property
        def env_specs(self) -> dict[str, Any]:
            return self

    registration.registry = Registry(registration.registry)
    os.environ["ASSET_PATH"] = str(checkout)
    sys.path.insert(0, str(checkout))
    return importlib.import_module("envs.block_pushing.block_pushing_multimodal")


def _vector(observation: dict[str, Any]) -> NDArray[np.float64]:
    """The original's observation in the order of its demonstrations, (16,)."""
    return np.concatenate([np.ravel(observation[name]) for name in OBSERVED])


OBSERVED = (
    *(f"{block}_{what}" for block in ("block", "block2") for what in ("translation", "orientation")),
    *("effector_translation", "effector_target_translation"),
    *(f"{target}_{what}" for target in ("target", "target2") for what in ("translation", "orientation")),
)


def rolled_out(policy: Policy, episodes: int, slots: int, env: SlotVectorEnv | None = None) -> list[EpisodeResult]:
    """Report episodes in our simulator, or in another one."""
    rollout = Rollout(policy, Recipe(tasks.simulated("blockpush").protocol), Split.REPORT, slots)
    rollout.env = env or rollout.env
    waiting, found = list(range(episodes))[::-1], []
    while waiting or rollout.busy:
        rollout.start([waiting.pop() for _ in range(min(rollout.free, len(waiting)))])
        found += rollout.step()
    return found


def rates(results: Sequence[EpisodeResult]) -> list[str]:
    """Of each published rate, with its interval."""
    outcomes = [result.outcome for result in results]
    cells = []
    for rate in tasks.simulated("blockpush").rates.values():
        if rate.published:
            count = sum(getattr(outcome, rate.column) >= rate.count for outcome in outcomes)
            cells.append(format(rate_interval(count, len(outcomes))))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description="Policies in the original of BlockPush and in ours.")
    parser.add_argument("original", type=Path, help="checkout of https://github.com/notmahi/bet")
    parser.add_argument("runs", type=Path, nargs="*", help="policies of the task blockpush")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    console = Console(width=120, highlight=False)
    task = tasks.simulated("blockpush")
    original = OriginalVectorEnv(options.original.resolve(), task.protocol.max_steps)
    table = Table()
    for name in ("policy", "simulator", *(name for name, rate in task.rates.items() if rate.published)):
        table.add_column(name)
    for run in track(options.runs, "evaluating", console=console, transient=True):
        policy = Policy.load(run)
        for name, env, slots in (("original", original, 1), ("ours", None, SLOTS)):
            table.add_row(run.name, name, *rates(rolled_out(policy, options.episodes, slots, env)))
    if options.runs:
        console.print(table)
    times = measure(
        {
            "original": Ours(block_actions, original),
            f"ours, {SLOTS} slots": Ours(block_actions, BlockPushVectorEnv(SLOTS)),
        },
        seconds=5.0,
    )
    for name, microseconds in times.items():
        console.print(f"{name:<16}{microseconds:>9.1f} us/step{times['original'] / microseconds:>8.1f}x")


if __name__ == "__main__":
    main()
