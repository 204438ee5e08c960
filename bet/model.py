"""The policy network: a causal transformer over observations, with bin and offset heads.

Pre-LN blocks in the shape of minGPT, as in BeT (section 3.2): a linear embedding of each observation plus a learned
position, L blocks, and a head that gives, at every position, a logit and an offset for each action bin.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bet.config import ModelConfig


def _dropout(x: Tensor, p: float, noise: torch.Generator | None) -> Tensor:
    """Dropout whose mask comes from `noise` alone, so a training step can be repeated exactly; None: no dropout."""
    if noise is None or p == 0:
        return x
    return x * torch.empty_like(x).bernoulli_(1 - p, generator=noise).div_(1 - p)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.p = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, width) -> (B, heads, T, width / heads)

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        if noise is None or self.p == 0:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # sdpa would take its dropout from the global generator
            steps = x.shape[1]
            causal = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
            scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5  # (B, heads, T, T)
            weights = scores.masked_fill(~causal, float("-inf")).softmax(dim=-1)
            y = _dropout(weights, self.p, noise) @ v
        return _dropout(self.project(y.transpose(1, 2).flatten(2)), self.p, noise)

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

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), noise)
        return x + _dropout(self._mlp(x), self.p, noise)

    def read(self, x: Tensor, last: Tensor) -> Tensor:
        """The block's output at position `last` (B,) alone: (B, T, width) -> (B, width)."""
        rows = torch.arange(len(x), device=x.device)
        y = x[rows, last] + self.attention.read(self.norm_attention(x), last).squeeze(1)
        return y + self._mlp(y)


class Transformer(nn.Module):
    """Normalised observations -> bin logits and, for every bin, an offset."""

    def __init__(self, config: ModelConfig, obs_dim: int, act_dim: int, bins: int) -> None:
        super().__init__()
        self.config, self.obs_dim, self.act_dim, self.bins = config, obs_dim, act_dim, bins
        self.embed = nn.Linear(obs_dim, config.width)
        self.position = nn.Parameter(torch.zeros(config.window, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, bins * (1 + act_dim) if config.offsets else bins, bias=False)

    def initialize(self, generator: torch.Generator) -> None:
        """minGPT's initial weights: N(0, 0.02) for matrices, zero biases and positions, unit layer norms."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and name != "position":
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name.endswith("weight"):
                nn.init.ones_(parameter)
            else:
                nn.init.zeros_(parameter)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.head(self.norm(x))
        if not self.config.offsets:
            return y, y.new_zeros(*y.shape, self.act_dim)
        return y[..., : self.bins], y[..., self.bins :].unflatten(-1, (self.bins, self.act_dim))

    def _embed(self, observations: Tensor) -> Tensor:
        return self.embed(observations) + self.position[: observations.shape[1]]

    def forward(self, observations: Tensor, noise: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, obs_dim) with T <= window -> logits (B, T, bins), offsets (B, T, bins, act_dim).

        `noise` turns dropout on and is the only source of its randomness.
        """
        x = _dropout(self._embed(observations), self.config.dropout, noise)
        for block in self.blocks:
            x = block(x, noise)
        return self._heads(x)

    def read(self, observations: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What acting needs: (B, W, obs_dim) left-aligned, (B,) real steps -> (B, bins), (B, bins, act_dim).

        The values of `forward` at position `lengths - 1`, with the last block computed for that position alone.
        Steps past the length must be finite; by causality they do not matter.
        """
        x = self._embed(observations)
        for block in self.blocks[:-1]:
            x = block(x, None)
        last_block = self.blocks[-1]
        assert isinstance(last_block, Block)
        return self._heads(last_block.read(x, lengths - 1))
