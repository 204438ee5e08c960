"""Affine maps between data units and the network's, fitted on the training split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bet.config import Normalize


@dataclass(frozen=True, eq=False)
class Normalizer:
    """normalised = (raw - shift) / scale, per dimension."""

    shift: NDArray[np.float32]  # (dim,)
    scale: NDArray[np.float32]  # (dim,) positive

    def normalize(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return (raw - self.shift) / self.scale

    def denormalize(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        return normalised * self.scale + self.shift

    def to_json(self) -> dict[str, list[float]]:
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, tree: dict[str, list[float]]) -> "Normalizer":
        return cls(np.asarray(tree["shift"], np.float32), np.asarray(tree["scale"], np.float32))


def fit_normalizer(values: NDArray[np.float32], kind: Normalize) -> Normalizer:
    """The normaliser of a kind for values (N, dim); a constant dimension is centred and left in its own unit."""
    dim = values.shape[1]
    if kind is Normalize.NONE:
        return Normalizer(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    low, high = values.min(axis=0), values.max(axis=0)
    half = (high - low) / 2
    return Normalizer(((high + low) / 2).astype(np.float32), np.where(half > 0, half, 1).astype(np.float32))
