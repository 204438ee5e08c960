"""Dropout masks that do not depend on who draws them: keyed by (seed, step), then by place in the global batch.

A worker with some rows of a batch draws the masks of just these rows, so any number of workers trains with the same
masks; and a step can be repeated exactly. The bits come from a counter on the host (PCG64, which can jump), the same
for every device, and cost a fifth of `Tensor.bernoulli_`.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LEVELS = 2**16  # a mask element takes 16 random bits
_PER_WORD = 4  # elements in a 64-bit word


class Noise:
    """The masks of one step, in the order a network asks for them: rows `first` and on of a batch of `total`."""

    def __init__(self, key: int, first: int, total: int) -> None:
        self._bits = np.random.PCG64(key)
        self._first, self._total = first, total

    def mask(self, shape: Sequence[int], p: float, device: torch.device) -> Tensor:
        """(rows, ...) of zeros, with probability `p` to within 2^-16, and of what keeps the mean at 1."""
        rows, each = shape[0], math.prod(shape[1:])
        words = -(-each // _PER_WORD)  # a row begins with a new word
        self._bits.advance(self._first * words)
        drawn = self._bits.random_raw(rows * words).view(np.uint16).reshape(rows, words * _PER_WORD)[:, :each]
        self._bits.advance((self._total - self._first - rows) * words)
        dropped = min(round(p * _LEVELS), _LEVELS - 1)
        mask = np.multiply(drawn >= dropped, np.float32(_LEVELS / (_LEVELS - dropped)))
        return torch.from_numpy(mask).to(device).reshape(tuple(shape))
