"""The policy network: a causal transformer over observations, with bin and offset heads.

Pre-LN blocks in the shape of minGPT, as in BeT (section 3.2): a linear embedding of each observation plus a learned
position, L blocks, and a head that gives, at every position, a logit and an offset for each action bin. `Model` is what
the other trunks (bet/priors.py) have in common with it.
"""

from abc import ABC, abstractmethod
from enum import Enum, auto
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bet.config import ModelConfig
from bet.noise import Noise


class Padding(Enum):
    """The side of a window that stays empty when there are fewer steps than the window holds."""

    LEFT = auto()
    RIGHT = auto()


class Model(nn.Module, ABC):
    """Normalised observations -> bin logits and, for every bin, an offset."""

    padding: ClassVar[Padding]
    """Where a training window shorter than W is padded (with zeros). Acting hides it: see `read`."""
    causal: ClassVar[bool]
    """Whether the output at a position depends on that and earlier steps alone."""
    head: nn.Linear
    """Its last rows are the outputs of the last position: bin logits, then offsets."""

    def __init__(self, config: ModelConfig, obs_dim: int, act_dim: int, bins: int) -> None:
        super().__init__()
        self.config, self.obs_dim, self.act_dim, self.bins = config, obs_dim, act_dim, bins
        self.outputs = bins * (1 + act_dim) if config.offsets else bins  # of one position

    @abstractmethod
    def initialize(self, generator: torch.Generator) -> None:
        """Draw the initial weights, from `generator` alone."""

    @abstractmethod
    def forward(self, observations: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, obs_dim) with T <= window -> logits (B, T, bins), offsets (B, T, bins, act_dim).

        `noise` turns dropout on and is the only source of its randomness.
        """

    @abstractmethod
    def read(self, observations: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What acting needs: (B, W, obs_dim) left-aligned, (B,) real steps -> (B, bins), (B, bins, act_dim).

        The values of `forward` at the last real step. Steps past the length must be finite; they do not matter.
        """

    def heads(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (..., outputs) -> logits (..., bins), offsets (..., bins, act_dim), zeros where there are none."""
        if not self.config.offsets:
            return y, y.new_zeros(*y.shape, self.act_dim)
        logits, offsets = y.split([self.bins, self.bins * self.act_dim], dim=-1)
        return logits, offsets.unflatten(-1, (self.bins, self.act_dim))


def dropout(x: Tensor, p: float, noise: Noise | None) -> Tensor:
    """Dropout whose mask comes from `noise` alone, so a training step can be repeated exactly; None: no dropout."""
    return x if noise is None or p == 0 else x * noise.mask(x.shape, p, x.device)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.p = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, width) -> (B, heads, T, width / heads)

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, T, width / heads)
        if noise is None or self.p == 0:
            q, k, v = qkv.unbind()
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            q, k, v = qkv.contiguous().unbind()  # one copy, where every product would make its own
            y = self._attend(q, k, v, noise)
        return dropout(self.project(y.transpose(1, 2).flatten(2)), self.p, noise)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, noise: Noise) -> Tensor:
        """Causal attention with dropout of its weights, (B, heads, T, width / heads); sdpa would draw that itself."""
        steps = q.shape[2]
        future = torch.full((steps, steps), float("-inf"), device=q.device).triu(1)
        scores = torch.add(future, q @ k.transpose(-2, -1), alpha=q.shape[-1] ** -0.5)  # (B, heads, T, T)
        # Over the first axis: torch takes rows as short as these one at a time, ten times slower.
        weights = scores.permute(3, 0, 1, 2).softmax(dim=0).permute(1, 2, 3, 0).contiguous()
        return dropout(weights, self.p, noise) @ v

    def read(self, x: Tensor, last: Tensor) -> Tensor:
        """Attention of position `last` (B,) alone: (B, T, width) -> (B, 1, width)."""
        rows = torch.arange(len(x), device=x.device)
        width = x.shape[-1]
        q = F.linear(x[rows, last], self.qkv.weight[:width], self.qkv.bias[:width]).unsqueeze(1)
        k, v = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
        seen = torch.arange(x.shape[1], device=x.device) <= last[:, None]  # (B, T)
        y = F.scaled_dot_product_attention(
            self._split(q), self._split(k), self._split(v), attn_mask=seen[:, None, None, :]
        )
        return self.project(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.p = config.dropout
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.contract = nn.Linear(4 * config.width, config.width)

    def _mlp(self, x: Tensor) -> Tensor:
        # The erf GELU: the tanh form gives a row different last bits at different places in a batch.
        return self.contract(F.gelu(self.expand(self.norm_mlp(x))))

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), noise)
        return x + dropout(self._mlp(x), self.p, noise)

    def read(self, x: Tensor, last: Tensor) -> Tensor:
        """The block's output at position `last` (B,) alone: (B, T, width) -> (B, width)."""
        rows = torch.arange(len(x), device=x.device)
        y = x[rows, last] + self.attention.read(self.norm_attention(x), last).squeeze(1)
        return y + self._mlp(y)


class Transformer(Model):
    padding = Padding.RIGHT
    causal = True

    def __init__(self, config: ModelConfig, obs_dim: int, act_dim: int, bins: int) -> None:
        super().__init__(config, obs_dim, act_dim, bins)
        self.embed = nn.Linear(obs_dim, config.width)
        self.position = nn.Parameter(torch.zeros(config.window, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, self.outputs, bias=False)

    def initialize(self, generator: torch.Generator) -> None:
        """minGPT's initial weights: N(0, 0.02) for matrices, zero biases and positions, unit layer norms."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and name != "position":
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("weight"):
                nn.init.ones_(parameter)
            else:
                nn.init.zeros_(parameter)

    def _embed(self, observations: Tensor) -> Tensor:
        return self.embed(observations) + self.position[: observations.shape[1]]

    def forward(self, observations: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        x = dropout(self._embed(observations), self.config.dropout, noise)
        for block in self.blocks:
            x = block(x, noise)
        return self.heads(self.head(self.norm(x)))

    def read(self, observations: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `Model.read`, with the last block computed for the last real position alone."""
        x = self._embed(observations)
        for block in self.blocks[:-1]:
            x = block(x, None)
        last_block = self.blocks[-1]
        assert isinstance(last_block, Block)
        return self.heads(self.head(self.norm(last_block.read(x, lengths - 1))))
