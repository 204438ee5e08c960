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
from bet.envs.vector import Info, RenderError, SlotVectorEnv
from bet.measure import measure_trajectories
from bet.protocol import Recipe
from bet.rollout import rollout

SLOTS = 32


class OriginalVectorEnv(SlotVectorEnv):
    """One slot of the original, which gives no states away and takes none."""

    state_dim = OBS_DIM
    signals = ("success",)

    def __init__(self, original: Any, max_steps: int) -> None:
        """`original`: the module."""
        super().__init__(
            1,
            spaces.Box(-np.inf, np.inf, shape=(OBS_DIM,), dtype=np.float32),
            spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, shape=(2,), dtype=np.float32),
            max_steps,
        )
        self._env = original.BlockPushMultimodal(control_frequency=10.0)
        self._seen = np.zeros((1, OBS_DIM))

    @property
    def states(self) -> NDArray[np.float64]:
        return self._seen.copy()

    def render(self) -> Any:
        raise RenderError("the original is not shown here")

    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        seed = int(generator.integers(2**31))
        np.random.seed(seed)  # noqa: NPY002 - on which side targets are, the original draws there
        self._env.seed(seed)
        return _vector(self._env.reset())

    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        if restore:
            raise NotImplementedError("the original takes no states")
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


def rates(policy: Policy, episodes: int, env: SlotVectorEnv) -> list[str]:
    """The published ones with their intervals, of report episodes in a simulator."""
    task = tasks.simulated("blockpush")
    trajectories = []
    for result in rollout(policy, Recipe(task.protocol), Split.REPORT, range(episodes), env.num_envs, env):
        assert result.trajectory is not None, result.error
        trajectories.append(result.trajectory)
    found = measure_trajectories(task, trajectories)
    return [format(found.rates[name]) for name in task.published_rates]


def main() -> None:
    parser = argparse.ArgumentParser(description="Policies in the original of BlockPush and in ours.")
    parser.add_argument("original", type=Path, help="checkout of https://github.com/notmahi/bet")
    parser.add_argument("runs", type=Path, nargs="*", help="policies of the task blockpush")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    console = Console(width=120, highlight=False)
    task = tasks.simulated("blockpush")
    original = _multimodal(options.original.resolve())
    steps = task.protocol.max_steps
    table = Table("policy", "simulator", *task.published_rates)
    for run in track(options.runs, "evaluating", console=console, transient=True):
        policy = Policy.load(run)
        for name, env in (
            ("original", OriginalVectorEnv(original, steps)),
            ("ours", BlockPushVectorEnv(SLOTS, steps)),
        ):
            table.add_row(run.name, name, *rates(policy, options.episodes, env))
    if options.runs:
        console.print(table)
    times = measure(
        {
            "original": Ours(block_actions, OriginalVectorEnv(original, steps)),
            f"ours, {SLOTS} slots": Ours(block_actions, BlockPushVectorEnv(SLOTS)),
        },
        seconds=5.0,
    )
    for name, microseconds in times.items():
        console.print(f"{name:<16}{microseconds:>9.1f} us/step{times['original'] / microseconds:>8.1f}x")


if __name__ == "__main__":
    main()
