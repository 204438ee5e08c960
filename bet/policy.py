"""A policy: normalisers, network and codebook; loaded, saved and asked for actions as one thing.

On disk it is a directory of `policy.json` and `weights.safetensors`; nothing is unpickled to load one.
"""

import hashlib
import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from bet.arithmetic import numerics, tf32
from bet.codebook import decode
from bet.config import Config, Trunk, canonical_json, validation_message
from bet.errors import UsageError
from bet.files import replacing
from bet.model import Model
from bet.normalizer import Normalizer
from bet.priors import make_model

CENTERS = "codebook.centers"
POLICY_JSON = "policy.json"
WEIGHTS = "weights.safetensors"
DRAW = -1  # in place of a held bin
BEST = "best"  # in a run's policies/: the name of the best policy directory below it


# Settings of a network that do not act.
_IDLE = {
    Trunk.TRANSFORMER: {"dropout", "batch_norm"},
    Trunk.MLP: {"dropout", "heads"},
    Trunk.LSTM: {"dropout", "heads", "batch_norm"},
}


class PolicyError(UsageError):
    """A policy cannot be read; the message names the file."""


class Policy:
    """A Behavior Transformer that acts.

    `model(observations)` takes normalised observations (B, T, obs_dim) and returns bin logits (B, T, bins) and offsets
    (B, T, bins, act_dim), in normalised action units.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        centers: Tensor,
        observation_normalizer: Normalizer,
        action_normalizer: Normalizer,
        dataset_digest: str,
    ) -> None:
        self.config = config
        self.model = model.eval().requires_grad_(False)
        self.centers = centers  # (bins, act_dim) normalised
        self.observation_normalizer = observation_normalizer
        self.action_normalizer = action_normalizer
        self.dataset_digest = dataset_digest

    @property
    def window(self) -> int:
        return self.config.model.window

    @property
    def device(self) -> torch.device:
        return self.centers.device

    def to(self, device: str | torch.device) -> "Policy":
        self.model.to(device)
        self.centers = self.centers.to(device)
        return self

    @property
    def bin_centers(self) -> NDArray[np.float32]:
        """Centres of the action bins in data units, (bins, act_dim)."""
        return self.action_normalizer.denormalize(self.centers.cpu().numpy())

    @property
    def numerics(self) -> str:
        """What can change a bit of what this policy does here: torch, CPU capability, device, dtype."""
        return numerics(self.device)

    @torch.inference_mode()
    def act(
        self,
        history: NDArray[np.float32],
        lengths: NDArray[np.integer],
        uniforms: NDArray[np.float64],
        batch_size: int = 32,
        held: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Raw observations (B, W, obs_dim), left-aligned, (B,) real steps, (B,) uniforms in [0, 1) -> actions
        (B, act_dim) in data units and their bins (B,): drawn, or where `held` (B,) is not negative, that one.

        Forwards run at exactly `batch_size` rows, padded, so that a row's bits depend neither on B nor on the others.
        """
        count = len(history)
        if count > batch_size:
            parts = [slice(start, start + batch_size) for start in range(0, count, batch_size)]
            kept = np.full(count, DRAW) if held is None else held
            acted = [self.act(history[p], lengths[p], uniforms[p], batch_size, kept[p]) for p in parts]
            return np.concatenate([a for a, _ in acted]), np.concatenate([b for _, b in acted])
        observations = np.zeros((batch_size, *history.shape[1:]), np.float32)  # (batch_size, W, obs_dim)
        real = np.arange(history.shape[1]) < np.asarray(lengths)[:, None]  # (B, W)
        observations[:count] = np.where(real[..., None], self.observation_normalizer.normalize(history), 0)
        last = np.ones(batch_size, np.int64)
        last[:count] = lengths
        drawn = np.zeros(batch_size)
        drawn[:count] = uniforms
        with tf32(allowed=False):
            logits, offsets = self.model.read(
                torch.from_numpy(observations).to(self.device), torch.from_numpy(last).to(self.device)
            )
        logits, offsets = logits.cpu(), offsets.cpu()  # sums over the bins are not deterministic on CUDA, says torch
        cdf = logits.double().softmax(-1).cumsum(-1)  # (batch_size, bins)
        threshold = torch.from_numpy(drawn)[:, None] * cdf[:, -1:]
        bins = torch.searchsorted(cdf, threshold, right=True).squeeze(-1).clamp_(max=cdf.shape[-1] - 1)
        if held is not None:
            kept = torch.full((batch_size,), DRAW)
            kept[:count] = torch.from_numpy(held)
            bins = torch.where(kept >= 0, kept, bins)
        actions = decode(bins, offsets[torch.arange(batch_size), bins], self.centers.cpu())
        actions = torch.where(cdf[:, -1:].isfinite(), actions, torch.nan)[:count].numpy()
        return self.action_normalizer.denormalize(actions), bins[:count].numpy()

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors[CENTERS] = self.centers
        return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}

    @cached_property
    def digest(self) -> str:
        """sha256 of what acts: task, network shape, normalisers, observation layout, and the tensors in name order."""
        what_acts = {
            "task": self.config.task,
            "model": self.config.model.model_dump(mode="json", exclude=_IDLE[self.config.model.trunk]),
            "bins": self.config.codebook.bins,
            "observation": self.config.data.observation,
            "observation_normalizer": self.observation_normalizer.to_json(),
            "action_normalizer": self.action_normalizer.to_json(),
        }
        sha = hashlib.sha256(canonical_json(what_acts).encode())
        for name, tensor in self._tensors.items():
            sha.update(f"{name}{tuple(tensor.shape)}".encode())
            sha.update(tensor.numpy().tobytes())
        return sha.hexdigest()

    def pack(self) -> tuple[bytes, bytes]:
        """The contents of `policy.json` and `weights.safetensors`."""
        about = {
            "config": self.config.model_dump(mode="json"),
            "obs_dim": self.model.obs_dim,
            "act_dim": self.model.act_dim,
            "observation_normalizer": self.observation_normalizer.to_json(),
            "action_normalizer": self.action_normalizer.to_json(),
            "dataset_digest": self.dataset_digest,
            "policy_digest": self.digest,
            "versions": {name: version(name) for name in ("bet-ray", "torch", "scikit-learn", "numpy")},
        }
        return json.dumps(about, indent=2, sort_keys=True).encode(), save_tensors(self._tensors)

    @classmethod
    def unpack(cls, about: bytes, weights: bytes, source: str = "policy") -> Self:
        """The inverse of `pack`. Raises `PolicyError` naming the file of `source` that is damaged."""
        file = POLICY_JSON
        try:
            tree = json.loads(about)
            config = Config.model_validate(tree["config"])
            model = make_model(config.model, tree["obs_dim"], tree["act_dim"], config.codebook.bins)
            observation_normalizer = Normalizer.from_json(tree["observation_normalizer"])
            action_normalizer = Normalizer.from_json(tree["action_normalizer"])
            dataset_digest, expected = tree["dataset_digest"], tree["policy_digest"]
            file = WEIGHTS
            tensors = load_tensors(weights)
            centers = tensors.pop(CENTERS)
            model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
        except ValidationError as error:
            raise PolicyError(f"{source}/{file}: not a policy's: {validation_message(error, Config)}") from error
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise PolicyError(f"{source}/{file}: not a policy's: {str(error).splitlines()[0]}") from error
        policy = cls(config, model, centers, observation_normalizer, action_normalizer, dataset_digest)
        if policy.digest != expected:
            raise PolicyError(f"{source}/{WEIGHTS}: does not match the digest in {POLICY_JSON}; one was changed")
        return policy

    def save(self, directory: Path) -> None:
        """Write the policy directory; `policy.json` comes last, so a directory with one is whole."""
        about, weights = self.pack()
        for name, content in ((WEIGHTS, weights), (POLICY_JSON, about)):
            with replacing(directory / name) as file:
                file.write(content)

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """The policy of a policy directory, or the best one of a run directory.

        Raises `PolicyError` naming the directory or file that is missing or damaged.
        """
        directory = resolve(Path(path))
        try:
            about, weights = (directory / POLICY_JSON).read_bytes(), (directory / WEIGHTS).read_bytes()
        except OSError as error:
            raise PolicyError(f"{error.filename}: {error.strerror}") from error
        return cls.unpack(about, weights, str(directory))


def resolve(path: Path) -> Path:
    """The policy directory meant by a path: itself, or the best of a run. Raises `PolicyError`."""
    if (path / POLICY_JSON).is_file():
        return path
    best = path / "policies" / BEST
    if best.is_file():
        return best.parent / best.read_text().strip()
    if not path.exists():
        raise PolicyError(f"{path}: no such run or policy directory")
    raise PolicyError(
        f"{path}: neither a policy (no {POLICY_JSON}) nor a run with a trained policy (no policies/{BEST})"
    )
