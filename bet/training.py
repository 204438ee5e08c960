"""The training loop: the data set on the device once, a batch an index gather, everything random keyed.

Sample order is a function of (seed, epoch), dropout of (seed, step, place in the batch). A checkpoint therefore needs
no generator: weights, optimiser and the step number are the whole state, and a resumed run ends bit-identical to an
uninterrupted one. Several processes may share every batch (`Workers`): they then sum what one process would have
computed, so results differ by the rounding of float addition alone.
"""

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bet.arithmetic import tf32, threads
from bet.codebook import encode, fit_codebook
from bet.config import Config, ConfigError, FitOn, ModelConfig, Precision, Schedule, canonical_json, changed
from bet.data.episodes import Episodes
from bet.data.windows import Windows, windows_of
from bet.devices import summing, training_device
from bet.errors import FailedRunError, UsageError
from bet.files import replacing
from bet.losses import focal_loss, offset_loss
from bet.model import Model, Padding
from bet.noise import Noise
from bet.normalizer import Normalizer, fit_normalizer
from bet.policy import Policy
from bet.priors import make_model
from bet.workers import ALONE, Workers

_ORDER, _DROPOUT = 0, 1  # spawn keys of the two uses of train.seed beside the initial weights
_VALIDATION_BATCH = 1024


class TrainingDivergedError(FailedRunError):
    """The loss is no longer finite; the message names the epoch."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training windows came to; losses are means over positions."""

    epoch: int
    """Passes done, from 1."""
    train_loss: float
    train_focal: float
    train_offset: float
    val_loss: float
    val_focal: float
    val_offset: float
    val_accuracy: float
    """Share of validation positions whose likeliest bin is the true one."""
    lr: float


@dataclass(frozen=True, eq=False)
class _Tensors:
    """A data set on the device, with room past the end so that a window never reads outside."""

    observations: Tensor  # (N + W, obs_dim) normalised
    bins: Tensor  # (N + W,)
    offsets: Tensor  # (N + W, act_dim)
    starts: Tensor  # (M,)
    lengths: Tensor  # (M,)
    first: Tensor  # (M,) position in the window of the first real step
    steps: Tensor  # (W,) 0..W-1

    @classmethod
    def build(
        cls, observations: Tensor, actions: Tensor, centers: Tensor, windows: Windows, padding: Padding
    ) -> "_Tensors":
        def padded(x: Tensor) -> Tensor:
            return torch.cat([x, x.new_zeros(windows.window, *x.shape[1:])])

        device = observations.device
        bins, offsets = encode(actions, centers)
        starts = torch.from_numpy(windows.starts).to(device)
        lengths = torch.from_numpy(windows.lengths).to(device)
        first = windows.window - lengths if padding is Padding.LEFT else torch.zeros_like(lengths)
        steps = torch.arange(windows.window, device=device)
        return cls(padded(observations), padded(bins), padded(offsets), starts, lengths, first, steps)

    def gather(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sample indices (B,) -> observations (B, W, obs_dim), bins (B, W), offsets (B, W, act_dim), real (B, W)."""
        place = self.steps - self.first[samples][:, None]  # (B, W) in the episode's part of the window
        real = (place >= 0) & (place < self.lengths[samples][:, None])
        rows = (self.starts[samples][:, None] + place).clamp_(min=0)
        return self.observations[rows] * real[..., None], self.bins[rows], self.offsets[rows], real


FittedActions = tuple[Normalizer, Tensor]
"""The actions' normaliser and the bin centres (bins, act_dim), normalised."""


def fit_actions(config: Config, episodes: Episodes, train: Episodes) -> FittedActions:
    """What trainings with equal splits, `data` and `codebook` settings share; `train` are the ones to train on.

    Raises `DataError` when there are fewer distinct actions than bins.
    """
    normalizer = fit_normalizer(train.actions, config.data.normalize)
    fitted_on = episodes if config.codebook.fit_on is FitOn.ALL else train
    return normalizer, fit_codebook(normalizer.normalize(fitted_on.actions), config.codebook.bins, config.codebook.seed)


def check_workers(model: ModelConfig, count: int) -> None:
    """Raise `ConfigError` where a model cannot be trained by so many workers together."""
    if model.batch_norm and count > 1:
        raise ConfigError("model.batch_norm: its statistics need the whole batch, so train with one worker")


class Training:
    """One training run, a step at a time.

    `step()` does one optimiser step and returns the `Epoch` it completed, if it did. Losses are sums over real
    positions divided by their count. With `workers`, every one of them makes the same calls, and only one need save.
    `actions` are as `fit_actions` gives them; without, they are fitted here.

    Raises `DataError` when the data do not fit the settings, `UsageError` when the device or its arithmetic is not
    there, `ConfigError` for settings that do not go together.
    """

    def __init__(
        self, config: Config, episodes: Episodes, workers: Workers = ALONE, actions: FittedActions | None = None
    ) -> None:
        self._precision = config.train.precision
        self.device = training_device(config.train.device, workers, self._precision)
        config = changed(config, {"train.device": str(self.device)})  # where `auto` was asked for
        self.config, self.workers = config, workers
        train, validation = episodes.split(*config.split)
        observation_normalizer = fit_normalizer(train.observations, config.data.normalize)
        action_normalizer, centers = actions or fit_actions(config, episodes, train)
        centers = centers.to(self.device)

        def tensors(part: Episodes) -> _Tensors:
            return _Tensors.build(
                torch.from_numpy(observation_normalizer.normalize(part.observations)).to(self.device),
                torch.from_numpy(action_normalizer.normalize(part.actions)).to(self.device),
                centers,
                windows_of(part, config.model.window, config.data.drop_last_window),
                self.model.padding,
            )

        obs_dim, act_dim = episodes.observations.shape[1], episodes.actions.shape[1]
        self.model = make_model(config.model, obs_dim, act_dim, config.codebook.bins)
        with threads(config.train.threads):
            self.model.initialize(torch.Generator().manual_seed(config.train.seed))
        self.model.to(self.device)
        self._train, self._validation = tensors(train), tensors(validation)
        check_workers(config.model, self.workers.count)
        size = config.train.batch_size
        if config.model.batch_norm and 1 in (size, self.windows % size):
            raise ConfigError(
                f"model.batch_norm: {self.windows:,} windows by {size}: one is alone; use another train.batch_size"
            )
        self._average = copy.deepcopy(self.model) if config.train.ema else None
        self._policy = (centers, observation_normalizer, action_normalizer, episodes.digest)
        decayed = [p for n, p in self.model.named_parameters() if p.ndim == 2 and n != "position"]
        plain = [p for n, p in self.model.named_parameters() if p.ndim != 2 or n == "position"]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.train.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.train.lr,
            betas=config.train.betas,
            fused=True,
        )
        self.steps_done = 0
        # Of this epoch: focal, offset, positions.
        self._sums = torch.zeros(3, dtype=summing(self.device), device=self.device)
        self._order: Tensor | None = None
        self.history: list[Epoch] = []

    @property
    def windows(self) -> int:
        """Training windows in an epoch."""
        return len(self._train.starts)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.windows / self.config.train.batch_size)

    @property
    def epochs_done(self) -> int:
        return self.steps_done // self.steps_per_epoch

    @property
    def done(self) -> bool:
        return self.epochs_done >= self.config.train.epochs

    def step(self) -> Epoch | None:
        """One optimiser step. Raises `TrainingDivergedError` at the end of an epoch whose loss is not finite."""
        settings = self.config.train
        place = self.steps_done % self.steps_per_epoch
        if place == 0 or self._order is None:
            self._order = self._epoch_order(self.epochs_done)
        samples = self._order[place * settings.batch_size : (place + 1) * settings.batch_size]
        lr = self._lr(self.steps_done)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        with threads(settings.threads), tf32(self._precision is Precision.TF32):
            self._sums += self._descend(samples)
            if self._average is not None:
                self._follow(self._average)
            self.steps_done += 1
            return self._finish_epoch(lr) if self.steps_done % self.steps_per_epoch == 0 else None

    def _descend(self, samples: Tensor) -> Tensor:
        """Change the weights by the gradient of a batch; its focal loss, offset loss and positions, summed."""
        mine = self.workers.rows(len(samples))
        count = self._train.lengths[samples].sum()
        noise = Noise(self._key(_DROPOUT, self.steps_done), mine.start, len(samples))
        self._optimizer.zero_grad(set_to_none=True)
        if mine.start < mine.stop:
            focal, offset = self._losses(self.model, self._train, samples[mine], noise)
            ((focal + self.config.loss.offset_scale * offset) / count).backward()
        else:  # the last batch of an epoch may have fewer rows than there are workers
            focal, offset = torch.zeros(2, device=self.device)
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        focal, offset = focal.detach(), offset.detach()
        self.workers.sum_([*(p.grad for p in self.model.parameters() if p.grad is not None), focal, offset])
        if self.config.train.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
        self._optimizer.step()
        return torch.stack([one.to(summing(self.device)) for one in (focal, offset, count)])

    @torch.no_grad()
    def _follow(self, average: Model) -> None:
        """Move the average of the weights towards the weights."""
        assert self.config.train.ema is not None
        # The usual ramp: an average over few steps must not remember the initial weights.
        decay = min(self.config.train.ema, (1 + self.steps_done) / (10 + self.steps_done))
        for averaged, current in zip(average.parameters(), self.model.parameters(), strict=True):
            averaged.lerp_(current, 1 - decay)
        for averaged, current in zip(average.buffers(), self.model.buffers(), strict=True):
            averaged.copy_(current)

    def policy(self) -> Policy:
        """The policy as trained so far (a copy: training goes on without it)."""
        centers, observation_normalizer, action_normalizer, digest = self._policy
        model = copy.deepcopy(self._acting).cpu()
        return Policy(self.config, model, centers.cpu(), observation_normalizer, action_normalizer, digest)

    def save(self, path: Path) -> None:
        """Write a checkpoint; a reader never sees half of one."""
        with replacing(path) as file:
            torch.save(
                {
                    "config": self._settings,
                    "data": self._policy[-1],
                    "model": self.model.state_dict(),
                    "average": None if self._average is None else self._average.state_dict(),
                    "optimizer": self._optimizer.state_dict(),
                    "steps_done": self.steps_done,
                    "sums": self._sums,
                    "history": [asdict(epoch) for epoch in self.history],
                },
                file,
            )

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same settings and data. Raises `UsageError` naming the file."""
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            settings, data = state["config"], state["data"]
        except (OSError, EOFError, LookupError, TypeError, RuntimeError, ValueError, UnpicklingError) as error:
            raise UsageError(f"{path}: not a readable checkpoint; remove it to train again from the start") from error
        if settings != self._settings:
            raise UsageError(f"{path}: was written with other settings; remove it or train into another directory")
        if data != self._policy[-1]:
            raise UsageError(f"{path}: was written with other demonstrations; train into another directory")
        self.model.load_state_dict(state["model"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done = state["steps_done"]
        self._sums = state["sums"]
        self.history = [Epoch(**row) for row in state["history"]]
        self._order = None

    @property
    def _settings(self) -> str:
        """What a checkpoint must agree on: all settings but those of evaluation, which change no weight."""
        return canonical_json(self.config.model_dump(mode="json", exclude={"eval", "pool"}))

    @property
    def _acting(self) -> Model:
        return self.model if self._average is None else self._average

    def _key(self, use: int, number: int) -> int:
        sequence = np.random.SeedSequence(self.config.train.seed, spawn_key=(use, number))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)  # torch takes 63 bits

    def _epoch_order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._key(_ORDER, epoch))
        return torch.randperm(self.windows, generator=generator).to(self.device)

    def _lr(self, step: int) -> float:
        settings = self.config.train
        if step < settings.warmup_steps:
            return settings.lr * (step + 1) / settings.warmup_steps
        if settings.schedule is Schedule.CONSTANT:
            return settings.lr
        total = settings.epochs * self.steps_per_epoch
        progress = (step - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))

    def _losses(self, model: Model, data: _Tensors, samples: Tensor, noise: Noise | None) -> tuple[Tensor, ...]:
        """Sums over the real positions of a batch: focal loss, offset loss; in validation also positions, right bins.

        Validation (no noise) of a network that is not causal counts the last position alone: at the others it has seen
        what comes next.
        """
        observations, bins, true_offsets, real = data.gather(samples)
        if noise is None and not model.causal:
            real = real & (data.steps == len(data.steps) - 1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision is Precision.BF16):
            logits, offsets = model(observations, noise)
        focal = (focal_loss(logits.float(), bins, self.config.loss.gamma) * real).sum()
        offset = (offset_loss(offsets.float(), bins, true_offsets) * real).sum()
        if noise is not None:
            return focal, offset
        right = ((logits.argmax(-1) == bins) & real).sum()
        return focal, offset, real.sum().to(focal.dtype), right.to(focal.dtype)

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float, float]:
        """Focal loss, offset loss and accuracy over the validation windows."""
        model = self._acting.eval()
        sums = torch.zeros(4, dtype=summing(self.device), device=self.device)
        windows = len(self._validation.starts)
        mine = torch.arange(windows, device=self.device)[self.workers.rows(windows)]
        for samples in mine.split(_VALIDATION_BATCH):
            if len(samples):
                sums += torch.stack(self._losses(model, self._validation, samples, None)).to(sums.dtype)
        self.workers.sum_([sums])
        focal, offset, count, right = sums.tolist()
        return focal / count, offset / count, right / count

    def _finish_epoch(self, lr: float) -> Epoch:
        focal, offset, count = self._sums.tolist()
        self._sums.zero_()
        scale = self.config.loss.offset_scale
        train_loss = (focal + scale * offset) / count
        epoch = self.epochs_done
        val_focal, val_offset, accuracy = self._validate()
        val_loss = val_focal + scale * val_offset
        if not math.isfinite(train_loss) or not math.isfinite(val_loss):
            raise TrainingDivergedError(f"the loss is not finite in epoch {epoch}; try a smaller train.lr")
        row = Epoch(epoch, train_loss, focal / count, offset / count, val_loss, val_focal, val_offset, accuracy, lr)
        self.history.append(row)
        return row
