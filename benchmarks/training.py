"""Training windows per second: BeT's own loop over a DataLoader, ours, and what bounds both, in one run.

`python -m benchmarks.training [--rounds N] [--seconds S] [--device cuda]`, for the two published sizes, on made-up
demonstrations as many and as long as the published ones. Everyone trains the same architecture with the same batch,
loss and optimiser settings; on a CUDA device ours is also measured in its other precisions.
"""

import argparse
import math
import os
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial, wraps
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contest import THREADS, Contestant, compete, machine, prepared, ratio, standings, verdict
from bet.codebook import encode
from bet.config import Config, Precision, changed, make_config
from bet.data.episodes import Episodes
from bet.errors import UsageError
from bet.losses import focal_loss, offset_loss
from bet.model import Model
from bet.noise import Noise
from bet.training import Training

TARGET = 1.5  # for ours against BeT's loop with the number of workers that suits it best
WORKERS = (0, os.cpu_count() or 1, 32)  # of a DataLoader: none, one a CPU, BeT's own setting
UNIT = 4  # batches, the shortest turn
PROFILED = 10  # steps
MATMUL = 1024  # rows and columns of the product that measures the machine


class Kind(StrEnum):
    RIVAL = "DataLoader, BeT's network and loop"
    MIXED = "DataLoader, our network"
    OURS = "bet-ray"
    BOUND = "bounds"


RIVALS = (Kind.RIVAL, Kind.MIXED)


@dataclass(frozen=True)
class Size:
    """A published policy and its demonstrations (github.com/notmahi/bet, configs/; DESIGN.md section 7)."""

    name: str
    settings: Mapping[str, Any]
    obs_dim: int
    act_dim: int
    episodes: int
    steps: int
    """Of an episode."""

    def config(self, device: str) -> Config:
        return make_config("pointmass1", self.settings, {"train.epochs": 1000, "train.device": device})

    def demonstrations(self) -> Episodes:
        """Noise in the right shapes: speed does not depend on what is in them."""
        generator = np.random.default_rng(0)
        rows = self.episodes * self.steps
        return Episodes(
            generator.normal(size=(rows, self.obs_dim)).astype(np.float32),
            generator.normal(size=(rows, self.act_dim)).astype(np.float32),
            np.arange(1, self.episodes + 1) * self.steps,
            "pointmass1",
        )


def _settings(
    bins: int, window: int, layers: int, heads: int, width: int, offset_scale: float, batch: int
) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "codebook.bins": bins,
            "model.window": window,
            "model.layers": layers,
            "model.heads": heads,
            "model.width": width,
            "loss.offset_scale": offset_scale,
            "train.batch_size": batch,
        }
    )


SIZES = (
    Size("block pushing", _settings(24, 5, 4, 4, 72, 1e5, 256), obs_dim=16, act_dim=2, episodes=1000, steps=114),
    Size("kitchen", _settings(64, 10, 6, 6, 120, 1e3, 64), obs_dim=60, act_dim=9, episodes=566, steps=216),
)


def finish(device: torch.device) -> None:
    """Wait for what was launched: a CUDA device works behind Python's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# The rival.


class SlicedTrajectories(Dataset[tuple[Tensor, ...]]):
    """Every window of every trajectory, sliced when it is asked for (dataloaders/trajectory_loader.py)."""

    def __init__(self, trajectories: TensorDataset, steps: int, window: int) -> None:
        self.trajectories = trajectories
        self.slices = [
            (trajectory, start, start + window)
            for trajectory in range(len(trajectories))
            for start in range(steps - window)
        ]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        trajectory, start, end = self.slices[index]
        return tuple(values[start:end] for values in self.trajectories[trajectory])


class MinGPTBlock(nn.Module):
    """Pre-LN block with three projections and torch's own dropout (models/libraries/mingpt/model.py)."""

    causal: Tensor

    def __init__(self, width: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.drop_weights, self.drop_attention = nn.Dropout(dropout), nn.Dropout(dropout)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.register_buffer("causal", torch.ones(window, window).tril()[None, None])

    def _attention(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = (
            layer(x).view(batch, steps, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(-2, -1)) * (1 / math.sqrt(width // self.heads))  # (B, heads, T, T)
        weights = scores.masked_fill(self.causal[:, :, :steps, :steps] == 0, float("-inf")).softmax(dim=-1)
        y = self.drop_weights(weights) @ v
        return self.drop_attention(self.project(y.transpose(1, 2).contiguous().view(batch, steps, width)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class MinGPT(nn.Module):
    """BeT's network as published: (B, T, obs_dim) -> (B, T, outputs)."""

    def __init__(self, config: Config, obs_dim: int, outputs: int) -> None:
        super().__init__()
        model = config.model
        self.embed = nn.Linear(obs_dim, model.width)
        self.position = nn.Parameter(torch.zeros(1, model.window, model.width))
        self.drop = nn.Dropout(model.dropout)
        self.blocks = nn.Sequential(
            *(MinGPTBlock(model.width, model.heads, model.window, model.dropout) for _ in range(model.layers))
        )
        self.norm = nn.LayerNorm(model.width)
        self.head = nn.Linear(model.width, outputs, bias=False)

    def forward(self, observations: Tensor) -> Tensor:
        x = self.drop(self.embed(observations) + self.position[:, : observations.shape[1]])
        return self.head(self.norm(self.blocks(x)))


class OurNetwork(nn.Module):
    """Our network where BeT's would be: (B, T, obs_dim) -> (B, T, outputs)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.steps = model, 0

    def forward(self, observations: Tensor) -> Tensor:
        self.steps += 1
        logits, offsets = self.model(observations, Noise(self.steps, 0, len(observations)))
        return torch.cat([logits, offsets.flatten(2)], dim=-1)


class DataLoaderLoop:
    """BeT's training loop (train.py, `train_prior`), less its progress bar and its log."""

    def __init__(
        self, config: Config, dataset: SlicedTrajectories, centers: Tensor, network: nn.Module, workers: int
    ) -> None:
        self.config, self.device = config, torch.device(config.train.device)
        self.centers, self.network = centers.to(self.device), network.to(self.device)
        settings = config.train
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in network.parameters() if p.ndim == 2], "weight_decay": settings.weight_decay},
                {"params": [p for p in network.parameters() if p.ndim != 2], "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=settings.betas,
        )
        # A turn is an epoch of as many windows, so nothing is fetched before it begins. The workers stay, which is
        # kinder than BeT's loop: there they start anew in every epoch.
        self.order: list[int] = []
        self.windows = len(dataset)
        self.loader = DataLoader(
            dataset,
            settings.batch_size,
            sampler=self.order,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def run(self, work: int) -> int:
        self.order[:] = (torch.randperm(max(self.windows, work)) % self.windows)[:work].tolist()
        self.network.train()
        for observations, actions, _ in self.loader:
            self.optimizer.zero_grad(set_to_none=True)
            focal, offset = self.losses(observations.to(self.device), actions.to(self.device))
            loss = focal + offset
            loss.backward()
            assert self.config.train.grad_clip is not None
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.train.grad_clip)
            self.optimizer.step()
            for component in (focal, offset, loss):
                component.detach().cpu().item()
        finish(self.device)
        return work

    def losses(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """As models/latent_generators/mingpt.py and models/libraries/loss_fn.py compute them."""
        bins, true_offsets = encode(actions, self.centers)
        output = self.network(observations)
        count = len(self.centers)
        offsets = output[..., count:].reshape(-1, count, actions.shape[-1])  # (B * T, bins, act_dim)
        targets = bins.view(-1)
        offset = F.mse_loss(
            offsets[torch.arange(len(targets), device=self.device), targets],
            true_offsets.view(-1, actions.shape[-1]),
        )
        logits = output[..., :count].reshape(-1, count)
        counted = targets != -100
        logits, targets = logits[counted], targets[counted]
        log_p = F.log_softmax(logits, dim=-1)
        p = log_p[torch.arange(len(targets), device=self.device), targets].exp()
        focal = (1 - p) ** self.config.loss.gamma * F.nll_loss(log_p, targets, reduction="none")
        return focal.mean(), self.config.loss.offset_scale * offset


# Ours.


def train(training: Training, work: int) -> int:
    """Steps of at least that many windows, and whatever ends an epoch."""
    batch, windows = training.config.train.batch_size, 0
    while windows < work:
        place = training.steps_done % training.steps_per_epoch
        training.step()
        windows += min(batch, training.windows - place * batch)
    finish(training.device)
    return windows


# What it could reach at most.


class Bounds:
    """The network on a batch that is already there, and its arithmetic as one large matrix product."""

    def __init__(self, size: Size, config: Config, model: Model) -> None:
        self.config, self.model, self.device = config, model, torch.device(config.train.device)
        batch, window = config.train.batch_size, config.model.window
        self.observations = torch.randn(batch, window, size.obs_dim, device=self.device)
        self.bins = torch.randint(config.codebook.bins, (batch, window), device=self.device)
        self.offsets = torch.randn(batch, window, size.act_dim, device=self.device)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, fused=True)
        self.factor = torch.randn(MATMUL, MATMUL, device=self.device)
        with FlopCounterMode(display=False) as counter:
            self._gradient()
        self.flops = counter.get_total_flops() / batch
        """Floating-point operations in the matrix products of a window, forward and backward."""

    def _gradient(self) -> None:
        loss = self.config.loss
        self.optimizer.zero_grad(set_to_none=True)
        logits, offsets = self.model(self.observations, Noise(0, 0, len(self.observations)))
        focal = focal_loss(logits, self.bins, loss.gamma).mean()
        (focal + loss.offset_scale * offset_loss(offsets, self.bins, self.offsets).mean()).backward()

    def network(self, work: int) -> int:
        """Forward, backward, optimiser, with dropout."""
        batches = work // len(self.observations)
        for _ in range(batches):
            self._gradient()
            self.optimizer.step()
        finish(self.device)
        return batches * len(self.observations)

    def arithmetic(self, work: int) -> int:
        """As many floating-point operations as that many windows have."""
        each = 2 * MATMUL**3
        products = math.ceil(work * self.flops / each)
        for _ in range(products):
            torch.mm(self.factor, self.factor)
        finish(self.device)
        return round(products * each / self.flops)


# The contest.


def contestants(size: Size, device: str) -> tuple[list[Contestant], Training, Bounds]:
    """Everyone, ready to run."""
    config, episodes = size.config(device), size.demonstrations()
    training = Training(config, episodes)
    centers = training.policy().centers
    trajectories = TensorDataset(
        torch.from_numpy(episodes.observations.copy()).view(size.episodes, size.steps, size.obs_dim),
        torch.from_numpy(episodes.actions.copy()).view(size.episodes, size.steps, size.act_dim),
        torch.ones(size.episodes, size.steps),
    )
    dataset = SlicedTrajectories(trajectories, size.steps, config.model.window)
    unit = UNIT * config.train.batch_size

    def loop(network: nn.Module, workers: int) -> Callable[[int], int]:
        return DataLoaderLoop(config, dataset, centers, network, workers).run

    def model() -> Model:
        return Training(config, episodes.select(np.arange(20))).model

    outputs = config.codebook.bins * (1 + size.act_dim)
    found = [
        Contestant(Kind.RIVAL, f"{workers} workers", loop(MinGPT(config, size.obs_dim, outputs), workers), unit)
        for workers in sorted(set(WORKERS))
    ]
    found.append(Contestant(Kind.MIXED, "0 workers", loop(OurNetwork(model()), 0), unit))
    found.append(Contestant(Kind.OURS, "Training.step", partial(train, training), unit))
    others: list[dict[str, Any]] = [{"train.precision": precision} for precision in (Precision.TF32, Precision.BF16)]
    if training.device.type == "cpu":  # rivals may have all cores, too
        others: list[dict[str, Any]] = [{"train.threads": THREADS}] if THREADS > 1 else []
    for change in others:
        other = partial(train, Training(changed(config, change), episodes))
        told = ", ".join(f"{key}={value}" for key, value in change.items())
        found.append(Contestant(Kind.OURS, told, other, unit, change.get("train.threads", 1)))
    bounds = Bounds(size, config, model())
    found += [
        Contestant(Kind.BOUND, "network alone", bounds.network, unit),
        Contestant(Kind.BOUND, "its products as one large one", bounds.arithmetic, unit),
    ]
    return found, training, bounds


def show(field: Sequence[Contestant], rates: Sequence[Sequence[float]], console: Console) -> None:
    def of(kind: Kind) -> list[Sequence[float]]:
        return [found for who, found in zip(field, rates, strict=True) if who.kind is kind]

    rival, bound = max(of(Kind.RIVAL), key=statistics.median), of(Kind.BOUND)[-1]
    compared = {
        "x DataLoader": lambda found: f"{ratio(found, rival):.2f}",
        "of the bound": lambda found: f"{ratio(found, bound):.0%}",
    }
    console.print(standings(field, rates, "windows/s", compared))
    ours = max(of(Kind.OURS), key=statistics.median)
    console.print(verdict("bet-ray", ratio(ours, rival), "the best DataLoader loop", TARGET))


# Where our time goes.

MASKS = "dropout masks"
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "matrix products of layers": ("aten::mm", "aten::addmm"),
        "attention: products, softmax": (
            "aten::bmm",
            "aten::baddbmm",
            "aten::_softmax",
            "aten::_softmax_backward_data",
        ),
        "GELU": ("aten::gelu", "aten::gelu_backward"),
        "layer norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
        "copies and fills": ("aten::copy_", "aten::cat", "aten::stack", "aten::fill_", "aten::zero_"),
        "sums and products by element": ("aten::mul", "aten::mul_", "aten::add", "aten::add_", "aten::sum"),
        MASKS: (MASKS,),
        "optimiser and clipping": ("Optimizer.step#AdamW.step", "aten::_fused_adamw_", "aten::linalg_vector_norm"),
        "gather of the batch": ("aten::index",),
    }
)
REST = "the rest (loss, autograd, Python)"


def profiled(training: Training) -> dict[str, float]:
    """Group of operations -> its share of a few training steps."""
    activities, on_cuda = [ProfilerActivity.CPU], training.device.type == "cuda"
    if on_cuda:
        activities.append(ProfilerActivity.CUDA)
    draw = Noise.mask

    @wraps(draw)
    def labelled(*arguments: Any, **named: Any) -> Tensor:  # NumPy draws: torch's profiler would not see it
        with record_function(MASKS):
            return draw(*arguments, **named)

    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(patch.object(Noise, "mask", labelled))
        profiler = stack.enter_context(profile(activities=activities))
        for _ in range(PROFILED):
            training.step()
    spent = {
        event.key: event.self_device_time_total if on_cuda else event.self_cpu_time_total
        for event in profiler.key_averages()
        if event.device_type.name
        == "CPU"  # on CUDA each kernel has an event of its own beside the one that launched it
    }
    total = sum(spent.values())
    shares = {group: sum(spent.get(key, 0) for key in keys) / total for group, keys in GROUPS.items()}
    return shares | {REST: 1 - sum(shares.values())}


def show_profile(shares: Mapping[str, float], console: Console) -> None:
    table = Table("where our time goes", "share", box=None, padding=(0, 2))
    table.columns[1].justify = "right"
    for group, share in sorted(shares.items(), key=lambda item: (item[0] == REST, -item[1])):
        table.add_row(group, f"{share:.1%}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training windows per second, side by side.")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn, about")
    parser.add_argument("--device", default="cpu", help="where everyone trains: cpu, cuda, cuda:1")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "This DataLoader will create 32 worker processes")
    console = Console(width=110, highlight=False)
    console.print(f"{machine()}, torch {torch.__version__}, {options.device}")
    for size in SIZES:
        with console.status(f"{size.name}: warming up"):
            try:
                everyone, training, bounds = contestants(size, options.device)
            except UsageError as error:
                parser.error(str(error))
            contest = [prepared(one, options.seconds, rival=one.kind in RIVALS) for one in everyone]
        model, batch = training.config.model, training.config.train.batch_size
        console.print(
            f"\n{size.name}: {model.layers} layers, {model.heads} heads, width {model.width}, window {model.window}, "
            f"{training.config.codebook.bins} bins, batch {batch}; {bounds.flops / 1e6:.1f} MFLOP a window"
        )
        show([contestant for contestant, _ in contest], compete(contest, options.rounds, console), console)
        show_profile(profiled(training), console)


if __name__ == "__main__":
    main()
