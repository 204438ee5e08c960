"""One finished episode, step by step: what a rollout hands to the metrics and, on request, to disk."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Trajectory:
    """T steps, and the observation after the last of them.

    Raises `ValueError` when the lengths disagree or there is no step at all.
    """

    observations: NDArray[np.float32]  # (T + 1, obs_dim)
    actions: NDArray[np.float32]  # (T, act_dim)
    rewards: NDArray[np.float64]  # (T,)
    signals: Mapping[str, NDArray[np.float64]]  # each (T,), the environment's `info`
    bins: NDArray[np.int64]  # (T,) which action bin was drawn

    def __post_init__(self) -> None:
        steps = len(self.actions)
        if steps == 0:
            raise ValueError("a trajectory has at least one step")
        lengths = {
            "observations": len(self.observations) - 1,
            "rewards": len(self.rewards),
            "bins": len(self.bins),
            **{f"signal {name!r}": len(values) for name, values in self.signals.items()},
        }
        for name, length in lengths.items():
            if length != steps:
                raise ValueError(f"{steps} actions but {name} for {length} steps")

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.actions)

    @property
    def success(self) -> bool:
        """Whether the task was solved at any step."""
        return bool((self.signals["success"] > 0).any())
