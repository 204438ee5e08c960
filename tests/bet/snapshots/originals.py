"""Snapshots of the same pickled structure as the original code's, and its arithmetic, written anew from its behaviour.

The classes say that they live in the original's modules, which exist while a snapshot is saved and no longer.
"""

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

OBS_DIM, ACT_DIM, BINS, WINDOW = 16, 2, 6, 5
_HOMES: dict[str, list[type]] = {}


def _lives_in(module: str):
    def move(cls: type) -> type:
        cls.__module__ = module
        cls.__qualname__ = cls.__name__
        _HOMES.setdefault(module, []).append(cls)
        return cls

    return move


@contextmanager
def original_modules() -> Iterator[None]:
    """Makes the original's modules importable, as pickling a class of theirs wants them."""
    made = {}
    for home in _HOMES:
        parts = home.split(".")
        for stop in range(1, len(parts) + 1):
            made.setdefault(".".join(parts[:stop]), ModuleType(parts[stop - 1]))
    for home, classes in _HOMES.items():
        for cls in classes:
            setattr(made[home], cls.__name__, cls)
    assert not made.keys() & sys.modules.keys()
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


@_lives_in("models.libraries.mingpt.model")
class CausalSelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attn_drop, self.resid_drop = nn.Dropout(0.1), nn.Dropout(0.1)
        self.proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.tril(torch.ones(window, window))[None, None])
        self.n_head = heads

    def forward(self, x: Tensor) -> Tensor:
        """One head and one position after another."""
        size = x.shape[-1] // self.n_head
        q, k, v = self.query(x), self.key(x), self.value(x)  # (B, T, width)
        seen = []
        for at in range(x.shape[1]):
            heads = []
            for head in range(self.n_head):
                own = slice(head * size, (head + 1) * size)
                scores = (k[:, : at + 1, own] * q[:, at : at + 1, own]).sum(-1) / math.sqrt(size)  # (B, at + 1)
                weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
                heads.append((weights[..., None] * v[:, : at + 1, own]).sum(1))
            seen.append(torch.cat(heads, dim=-1))
        return self.proj(torch.stack(seen, dim=1))


@_lives_in("models.libraries.mingpt.model")
class Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads, window)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        inner = self.mlp[0](self.ln2(x))
        return x + self.mlp[2](inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))


@_lives_in("models.libraries.mingpt.model")
class GPT(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int, heads: int, layers: int, window: int) -> None:
        super().__init__()
        self.tok_emb = nn.Linear(inputs, width)
        self.discrete_input = False
        self.pos_emb = nn.Parameter(torch.zeros(1, window, width))
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*[Block(width, heads, window) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs, bias=False)
        self.block_size = window

    def forward(self, observations: Tensor) -> Tensor:
        x = self.tok_emb(observations) + self.pos_emb[:, : observations.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class Generator(nn.Module):
    """What the latent generators have in common; `outputs` is every position's raw output of a short history."""

    def __init__(self, *, offsets: bool = True, **more: Any) -> None:
        super().__init__()
        self.block_size, self.vocab_size, self.action_dim = WINDOW, BINS, ACT_DIM
        self.predict_offsets, self.offset_loss_scale, self.focal_loss_gamma = offsets, 1000.0, 2.0
        self.outputs_each = BINS * (1 + ACT_DIM) if offsets else BINS
        for name, value in more.items():
            setattr(self, name, value)

    def outputs(self, history: Tensor) -> Tensor:
        """(B, t, OBS_DIM) -> (B, t, outputs_each)"""
        raise NotImplementedError

    def last(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """The bin logits and offsets that an action is made of, as `generate_latents` and the workspace take them."""
        y = self.outputs(history)[:, -1]
        offsets = y[:, BINS:].reshape(-1, BINS, ACT_DIM) if self.predict_offsets else torch.zeros(len(y), BINS, ACT_DIM)
        return y[:, :BINS], offsets


@_lives_in("models.latent_generators.mingpt")
class MinGPT(Generator):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.model = GPT(OBS_DIM, self.outputs_each, width=24, heads=4, layers=2, window=WINDOW)
        self.kept_by_hydra = OmegaConf.create({"a": [1, "b", 0.5, None]})

    def outputs(self, history: Tensor) -> Tensor:
        return self.model(history)


@_lives_in("models.mlp")
class MLP(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(1, -1), *layers)


def _zeros_before(history: Tensor) -> Tensor:
    missing = WINDOW - history.shape[1]
    return torch.cat([torch.zeros(len(history), missing, OBS_DIM), history], dim=1)


@_lives_in("models.latent_generators.mlp")
class MLP_LG(Generator):
    def __init__(self, *, batchnorm: bool = True, depth: int = 3, **more: Any) -> None:
        super().__init__(**more)
        self.batchnorm, self.activation, self.hidden_depth = batchnorm, nn.ReLU, depth
        layers: list[nn.Module] = []
        for inputs in (WINDOW * OBS_DIM, *(depth - 1) * [32]):
            layers += [nn.Linear(inputs, 32), *([nn.BatchNorm1d(32)] if batchnorm else []), nn.ReLU(inplace=True)]
        self.model = MLP(*layers, nn.Linear(32, WINDOW * self.outputs_each))

    def outputs(self, history: Tensor) -> Tensor:
        x = _zeros_before(history).reshape(len(history), -1)
        for layer in list(self.model.trunk)[1:]:
            if isinstance(layer, nn.Linear):
                x = x @ layer.weight.T + layer.bias
            elif isinstance(layer, nn.ReLU):
                x = x.clamp(min=0)
            else:
                assert isinstance(layer, nn.BatchNorm1d)
                assert layer.running_mean is not None
                assert layer.running_var is not None
                x = (x - layer.running_mean) / (layer.running_var + 1e-5).sqrt() * layer.weight + layer.bias
        return x.reshape(-1, WINDOW, self.outputs_each)[:, -history.shape[1] :]


@_lives_in("models.latent_generators.rnn")
class LSTM_LG(Generator):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.hidden_dim = 20
        self.fc1 = nn.Sequential(nn.Linear(OBS_DIM, 20), nn.ReLU())
        self.model = nn.LSTM(20, 20, num_layers=2, batch_first=True)
        self.fc2 = nn.Linear(20, self.outputs_each)

    def outputs(self, history: Tensor) -> Tensor:
        x = self.fc1(_zeros_before(history))
        weights = dict(self.model.named_parameters())
        for layer in range(2):
            h = c = torch.zeros(len(x), 20)
            states = []
            for at in range(WINDOW):
                gates = x[:, at] @ weights[f"weight_ih_l{layer}"].T + weights[f"bias_ih_l{layer}"]
                gates = gates + h @ weights[f"weight_hh_l{layer}"].T + weights[f"bias_hh_l{layer}"]
                i, f, g, o = gates.chunk(4, dim=-1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                states.append(h)
            x = torch.stack(states, dim=1)
        return self.fc2(x)[:, -history.shape[1] :]


@_lives_in("models.action_ae.discretizers.k_means")
class KMeansDiscretizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_bins, self.device, self.action_dim, self.predict_offsets = BINS, torch.device("cpu"), ACT_DIM, True
        self.bin_centers = torch.zeros(BINS, ACT_DIM)


@_lives_in("models.latent_generators.latent_generator")
class LatentGeneratorDataParallel(nn.DataParallel):
    pass


@_lives_in("models.action_ae.generators.base")
class GeneratorDataParallel(nn.DataParallel):
    pass


GENERATORS: dict[str, type[Generator]] = {"transformer": MinGPT, "mlp": MLP_LG, "lstm": LSTM_LG}


def generator(trunk: str, seed: int = 0, **more: Any) -> Generator:
    """One whose every number matters: weights larger than the initial ones, norms that are not the identity."""
    torch.manual_seed(seed)
    made = GENERATORS[trunk](**more)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
        for name, buffer in made.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += torch.rand(buffer.shape)
    return made.eval()


def payload(prior: nn.Module, epoch: int = 7) -> dict[str, Any]:
    """What the original saves."""
    bins = KMeansDiscretizer()
    bins.bin_centers = torch.randn(BINS, ACT_DIM, generator=torch.Generator().manual_seed(1))
    return {
        "action_ae": bins,
        "obs_encoding_net": nn.Identity(),
        "epoch": 0,
        "prior_epoch": epoch,
        "state_prior": prior,
    }


def in_parallel(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The same as a training with `data_parallel: True` saves it."""
    return snapshot | {
        "action_ae": GeneratorDataParallel(snapshot["action_ae"]),
        "obs_encoding_net": nn.DataParallel(snapshot["obs_encoding_net"]),
        "state_prior": LatentGeneratorDataParallel(snapshot["state_prior"]),
    }


def save(snapshot: Any, path: Path, *, zipped: bool = True) -> Path:
    """As the original: whole objects, by `torch.save`; not `zipped` is the format of torch before 1.6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with original_modules(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old format looks for the source of every class
        torch.save(snapshot, path, _use_new_zipfile_serialization=zipped)
    return path
