"""Evaluation recipes: what exactly is measured, and where the randomness of every episode comes from."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bet.config import BinSource, Frozen, Split


class Protocol(Frozen):
    """A named, frozen evaluation recipe; its `digest` is part of every episode's identity."""

    name: str
    task: str
    env_version: str
    """Changes whenever the simulator could give other bits."""
    max_steps: int
    success: str
    """The success rule, in words."""
    primary: str
    """Name of the primary metric, bounded in [0, 1]."""
    batch_size: int = 32
    """Rows of every policy forward; missing rows are padded, so a row's bits never depend on how many ran beside it."""
    sampling: str = "inverse-cdf"
    """How a bin is drawn: by inverse CDF from the episode's own uniforms."""
    seed: int = 0
    window: int | None = None
    """Observations a policy sees; None: the window it was trained with."""
    hold_bins: int = 1
    """Steps a drawn bin is kept; its offset is predicted anew at each."""
    bins: BinSource = BinSource.POLICY
    """Who draws them: the policy, or chance (every bin alike, no offset)."""
    starts: str | None = None
    """sha256 of the states that episodes begin in, one drawn for each; None: the task's own reset."""

    @property
    def variations(self) -> tuple[str, ...]:
        """What is not as usual, in words."""
        words = {
            f"window {self.window}": self.window is not None,
            f"bins held for {self.hold_bins} steps": self.hold_bins > 1,
            "bins drawn from the codebook": self.bins is BinSource.CODEBOOK,
            "started where demonstrations did": self.starts is not None,
        }
        return tuple(text for text, true in words.items() if true)


@dataclass(frozen=True, eq=False)
class Recipe:
    """A protocol and, where it names any, the states that its episodes begin in."""

    protocol: Protocol
    starts: NDArray[np.float64] | None = None  # (S, state_dim)


def states_digest(states: NDArray[np.float64]) -> str:
    """sha256 of states to begin in, (S, state_dim), as a protocol names them."""
    sha = hashlib.sha256(repr(states.shape).encode())
    sha.update(np.ascontiguousarray(states, dtype="<f8").tobytes())
    return sha.hexdigest()


_SPLIT_KEYS = {Split.TUNE: 0, Split.REPORT: 1}


def episode_randomness(protocol: Protocol, split: Split, index: int) -> tuple[int, np.ndarray]:
    """The environment's seed (uint64) and the policy's uniforms (max_steps,) in [0, 1) of one episode.

    They depend on (protocol seed, split, index) alone: every policy meets the same initial states, and 200 episodes
    extend to 1,000 without redoing any.
    """
    sequence = np.random.SeedSequence(protocol.seed, spawn_key=(_SPLIT_KEYS[split], index))
    for_env, for_policy = sequence.spawn(2)
    return int(for_env.generate_state(1, np.uint64)[0]), np.random.default_rng(for_policy).random(protocol.max_steps)
