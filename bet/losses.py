"""The two parts of the BeT loss (section 3.2): focal loss on the bin, squared error on the offset of the true bin."""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """(..., bins), (...) -> (...): -(1 - p)^gamma log p of the true bin (Lin et al. 2017); gamma 0 is cross-entropy."""
    log_p = F.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if gamma == 0:
        return -log_p
    # Clamped above 0, where x^gamma for gamma < 1 has an infinite slope and the gradient would be NaN.
    return -((-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny) ** gamma) * log_p


def offset_loss(offsets: Tensor, targets: Tensor, true_offsets: Tensor) -> Tensor:
    """(..., bins, act_dim), (...), (..., act_dim) -> (...): mean squared error of the true bin's offset."""
    index = targets[..., None, None].expand(*targets.shape, 1, offsets.shape[-1])
    return ((offsets.gather(-2, index).squeeze(-2) - true_offsets) ** 2).mean(-1)
