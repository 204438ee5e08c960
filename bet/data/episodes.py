"""Demonstrations: three flat arrays, the replay-buffer format of Diffusion Policy.

Step `t` of an episode holds the observation *before* its action. Episode `e` is the rows
`episode_ends[e - 1]:episode_ends[e]` (with `episode_ends[-1]` read as 0).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bet.errors import UsageError


class DataError(UsageError):
    """The data are not what the format promises; the message names the source and the row."""


class FaultyEpisodesError(DataError):
    """Arrays that could be read break what `Episodes` promises; the message is about the first of the faults."""

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults
        """All of them, a line each."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """N steps of E demonstrations, checked once, then never written to.

    Raises `DataError` for NaN or infinite values, wrong dimensions, ends that do not rise, or empty episodes.
    """

    observations: NDArray[np.float32]  # (N, obs_dim)
    actions: NDArray[np.float32]  # (N, act_dim)
    episode_ends: NDArray[np.int64]  # (E,) exclusive, cumulative
    task: str
    source: str = field(default="episodes", compare=False)  # what error messages call these data

    def __post_init__(self) -> None:
        for name, dtype, ndim in (
            ("observations", np.float32, 2),
            ("actions", np.float32, 2),
            ("episode_ends", np.int64, 1),
        ):
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            if array.ndim != ndim:
                raise DataError(f"{self.source}: {name} has {array.ndim} dimensions, expected {ndim}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        faults = tuple(self._faults())
        if faults:
            raise FaultyEpisodesError(f"{self.source}: {faults[0]}", faults)

    def _faults(self) -> Iterator[str]:
        steps, ends = len(self.observations), self.episode_ends
        if len(self.actions) != steps:
            yield f"{steps} observations but {len(self.actions)} actions"
        if len(ends) == 0:
            yield "no episodes"
            return
        lengths = np.diff(ends, prepend=0)
        for row in np.flatnonzero(lengths <= 0):
            what = "is empty" if lengths[row] == 0 else f"ends at {ends[row]}, before it starts"
            yield f"episode {row} {what} (episode_ends must rise)"
        if ends[-1] != steps:
            yield f"the last episode ends at {ends[-1]} but there are {steps} steps"
        for name in ("observations", "actions"):
            rows = np.flatnonzero(~np.isfinite(getattr(self, name)).all(axis=1))
            numbers, first, counts = np.unique(ends.searchsorted(rows, "right"), return_index=True, return_counts=True)
            for episode, row, count in zip(numbers, rows[first], counts, strict=True):
                more = f", and {count - 1} more in the episode" if count > 1 else ""
                yield f"{name} row {row} (episode {episode}) is not finite{more}"

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def episode_starts(self) -> NDArray[np.int64]:  # (E,)
        return np.concatenate([[0], self.episode_ends[:-1]]).astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:  # (E,)
        return np.diff(self.episode_ends, prepend=0)

    @cached_property
    def digest(self) -> str:
        """sha256 of the three arrays, shapes included."""
        sha = hashlib.sha256()
        for array in (self.observations, self.actions, self.episode_ends):
            sha.update(repr(array.shape).encode())
            sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return sha.hexdigest()

    @classmethod
    def joined(cls, parts: Sequence["Episodes"]) -> "Episodes":
        """One after the other; of the first one's task and source. There is at least one."""
        return cls(
            np.concatenate([part.observations for part in parts]),
            np.concatenate([part.actions for part in parts]),
            np.cumsum(np.concatenate([part.lengths for part in parts])),
            parts[0].task,
            parts[0].source,
        )

    def select(self, episodes: NDArray[np.integer]) -> "Episodes":
        """The given episodes, in the given order."""
        starts, ends = self.episode_starts[episodes], self.episode_ends[episodes]
        rows = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        return Episodes(self.observations[rows], self.actions[rows], np.cumsum(ends - starts), self.task, self.source)

    def split(self, fraction: float, seed: int) -> tuple["Episodes", "Episodes"]:
        """Train and validation episodes, by whole episode: the same two sets for the same seed.

        Both keep at least one episode. Raises `DataError` when there is only one.
        """
        if len(self) < 2:
            raise DataError(f"{self.source}: one episode cannot be split into training and validation")
        order = np.random.default_rng(seed).permutation(len(self))
        count = min(max(round(fraction * len(self)), 1), len(self) - 1)
        return self.select(np.sort(order[:count])), self.select(np.sort(order[count:]))
