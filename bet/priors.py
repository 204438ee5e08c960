"""The trunks that the literature compares the transformer with: an MLP over the window, and an LSTM.

As in the reproduction study (github.com/skandermoalla/bet-reproduction, models/latent_generators/{mlp,rnn}.py): both
take exactly W steps, zeros on the left where there are fewer, and are read at the last. Its LSTM head was left out of
its optimiser; ours is trained, so results differ.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bet.config import ModelConfig, Trunk
from bet.model import Model, Padding, Transformer, dropout
from bet.noise import Noise


def _whole_window(observations: Tensor, window: int) -> Tensor:
    """(B, T, obs_dim) -> (B, W, obs_dim), zeros first."""
    return F.pad(observations, (0, 0, window - observations.shape[1], 0))


def _right_aligned(observations: Tensor, lengths: Tensor) -> Tensor:
    """(B, W, obs_dim) whose first (B,) steps are real -> the same with the real ones last, zeros before them."""
    steps = torch.arange(observations.shape[1], device=observations.device)
    source = steps - (observations.shape[1] - lengths[:, None])  # (B, W)
    moved = observations.gather(1, source.clamp(min=0)[..., None].expand_as(observations))
    return torch.where(source[..., None] >= 0, moved, 0)


class MLP(Model):
    """Hidden layers over the flattened window; every position's output sees the whole window."""

    padding = Padding.LEFT
    causal = False

    def __init__(self, config: ModelConfig, obs_dim: int, act_dim: int, bins: int) -> None:
        super().__init__(config, obs_dim, act_dim, bins)
        sizes = [config.window * obs_dim, *(config.layers * [config.width])]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) if config.batch_norm else nn.Identity() for size in sizes[1:])
        self.head = nn.Linear(config.width, config.window * self.outputs)

    def initialize(self, generator: torch.Generator) -> None:
        """Orthogonal matrices and zero biases (the study's models/mlp.py); batch norms begin as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)

    def _trunk(self, observations: Tensor, noise: Noise | None) -> Tensor:
        x = observations.flatten(1)  # (B, W * obs_dim)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = dropout(F.relu(norm(layer(x))), self.config.dropout, noise)
        return x  # (B, width)

    def forward(self, observations: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        y = self.head(self._trunk(_whole_window(observations, self.config.window), noise))
        return self.heads(y.unflatten(-1, (self.config.window, self.outputs))[:, -observations.shape[1] :])

    def read(self, observations: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self._trunk(_right_aligned(observations, lengths), None)
        return self.heads(F.linear(x, self.head.weight[-self.outputs :], self.head.bias[-self.outputs :]))


class LSTM(Model):
    """A linear embedding, LSTM layers, a linear head at every position."""

    padding = Padding.LEFT
    causal = True

    def __init__(self, config: ModelConfig, obs_dim: int, act_dim: int, bins: int) -> None:
        super().__init__(config, obs_dim, act_dim, bins)
        self.embed = nn.Linear(obs_dim, config.width)
        # One layer a module: torch would draw the dropout between them from its global generator.
        self.layers = nn.ModuleList(nn.LSTM(config.width, config.width, batch_first=True) for _ in range(config.layers))
        self.head = nn.Linear(config.width, self.outputs)

    def initialize(self, generator: torch.Generator) -> None:
        """PyTorch's own: uniform within 1 / sqrt(inputs) for linear layers, 1 / sqrt(width) in the LSTM."""
        for name, parameter in self.named_parameters():
            bound = 1 / math.sqrt(self.obs_dim if name.startswith("embed") else self.config.width)
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def _trunk(self, observations: Tensor, noise: Noise | None) -> Tensor:
        x = F.relu(self.embed(observations))
        for place, layer in enumerate(self.layers):
            x, _ = layer(x if place == 0 else dropout(x, self.config.dropout, noise))
        return x  # (B, W, width)

    def forward(self, observations: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        x = self._trunk(_whole_window(observations, self.config.window), noise)
        return self.heads(self.head(x[:, -observations.shape[1] :]))

    def read(self, observations: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(self.head(self._trunk(_right_aligned(observations, lengths), None)[:, -1]))


TRUNKS: Mapping[Trunk, Callable[[ModelConfig, int, int, int], Model]] = MappingProxyType(
    {Trunk.TRANSFORMER: Transformer, Trunk.MLP: MLP, Trunk.LSTM: LSTM}
)


def make_model(config: ModelConfig, obs_dim: int, act_dim: int, bins: int) -> Model:
    """The network that the settings name, its weights not yet drawn."""
    return TRUNKS[config.trunk](config, obs_dim, act_dim, bins)
