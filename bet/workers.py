"""The processes that train one policy together: who has which rows of a batch, and how sums come together.

Weights and optimiser states are equal everywhere; gradients are summed, so only rounding knows how many there are.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """One of `count` processes; a process alone needs no process group."""

    rank: int
    count: int

    @classmethod
    def of_process_group(cls) -> "Workers":
        """This process in the group that `torch.distributed` was initialised with."""
        return cls(dist.get_rank(), dist.get_world_size())

    def rows(self, total: int) -> slice:
        """This worker's rows of `total`: contiguous, in order of rank, as equal as can be (perhaps none)."""
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def sum_(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their sums over the workers, the same bits on each."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


ALONE = Workers(0, 1)
