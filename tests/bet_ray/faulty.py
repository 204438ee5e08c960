"""A simulator with faults on demand, `tests.bet_ray.faulty:Faulty-v0`: a walk in the plane, and a policy for it.

Which episode meets which fault is written in a file, so that a test can change it while the workers live.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from bet import tasks
from bet.config import Normalize, Split, make_config
from bet.envs.gym import SEEDS
from bet.normalizer import fit_normalizer
from bet.policy import Policy
from bet.protocol import episode_randomness
from bet_ray.worker import RolloutWorker
from tests.bet.test_rollout import SMALL, network

FAULTY = "tests.bet_ray.faulty:Faulty-v0"
FAULTS_FILE = "BET_TEST_FAULTS"  # environment variable; without it, or without the file, all is well
STEPS = 20


class Fault(StrEnum):
    """What an episode does in its fourth step."""

    RAISE = "raise"
    DIE = "die"
    """As by a segmentation fault."""
    HANG = "hang"
    NAN = "nan"
    """The observation is not finite."""


class Faulty(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        file = Path(os.environ.get(FAULTS_FILE, "/nowhere"))
        self._fault = json.loads(file.read_text()).get(str(seed)) if file.exists() else None
        self._place = self.np_random.normal(size=2).astype(np.float32)
        self._steps = 0
        return self._place.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        self._place += action + self.np_random.normal(scale=0.1, size=2).astype(np.float32)
        seen = self._place.copy()
        match self._fault if self._steps == 4 else None:
            case Fault.RAISE:
                raise ValueError("the block left the table")
            case Fault.DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            case Fault.HANG:
                time.sleep(3600)
            case Fault.NAN:
                seen[0] = np.nan
        far = float(np.linalg.norm(self._place))
        return seen, -far, far > 30, False, {"is_success": 3 < far < 4 and self._steps > 5}


gymnasium.register("Faulty-v0", f"{__name__}:Faulty", max_episode_steps=STEPS)


def write_faults(file: Path, faults: Mapping[int, Fault]) -> None:
    """Fault of some `report` episodes, by index."""
    protocol = tasks.simulated(FAULTY).protocol
    seeds = {episode_randomness(protocol, Split.REPORT, index)[0] % SEEDS: fault for index, fault in faults.items()}
    file.write_text(json.dumps(seeds))


def walker() -> Policy:
    """Steps of several lengths, at random."""
    config = make_config(FAULTY, SMALL, {"bins": 4, "window": 3})
    unit = fit_normalizer(np.zeros((2, 2), np.float32), Normalize.NONE)
    centers = torch.tensor([[1.0, 1.0], [-1.0, -0.5], [0.0, 1.5], [0.5, -1.0]])
    return Policy(config, network(config, 2, 0), centers, unit, unit, "none")


class Lame(RolloutWorker):
    """A worker that can run on some nodes alone: here, in the first process that makes a folder."""

    def __init__(self, slots: int, lock: Path) -> None:
        lock.mkdir()
        super().__init__(slots)
