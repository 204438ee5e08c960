"""From a snapshot of the original code to a policy, and the snapshots that a directory of it holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bet import tasks
from bet.config import ConfigError, Normalize, make_config
from bet.normalizer import Normalizer, fit_normalizer
from bet.policy import Policy
from bet.priors import make_model
from bet.snapshots.archive import Archive
from bet.snapshots.networks import network
from bet.snapshots.parts import Part
from bet.snapshots.records import IDENTITY, K_MEANS, SnapshotError
from bet.snapshots.settings import LAST, hydra_settings
from bet.wording import counted

UNKNOWN_DATA = "unknown"  # in place of the digest of the demonstrations
_NAME = re.compile(r"snapshot(?:_(\d+))?\.pt")


@dataclass(frozen=True)
class Imported:
    """A policy, and what it was made of."""

    policy: Policy
    file: Path
    sha256: str
    """Of the file."""
    epoch: int
    """As the snapshot counts it."""
    settings: Mapping[str, Any]
    """Dotted settings that came from the snapshot or from hydra's record; the others are the task's preset."""


def find_snapshots(path: Path) -> list[Path]:
    """The snapshots meant by a path: the file, or `snapshot.pt`, `snapshot_N.pt` and those in `last/` of a directory.

    By number; of one number the best (as the study saves it by its validation loss) before the last. Raises
    `SnapshotError`.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SnapshotError(f"{path}: no such file or directory")
    found = [file for place in (path, path / LAST) if place.is_dir() for file in place.iterdir()]
    found = [file for file in found if _NAME.fullmatch(file.name) and file.is_file()]
    if not found:
        raise SnapshotError(f"{path}: no snapshot.pt, snapshot_0.pt ... or {LAST}/ with such")
    return sorted(found, key=lambda file: (_number(file) or 0, file.parent != path))


def _number(file: Path) -> int | None:
    """Of the training that it belongs to, which is its seed in the study."""
    named = _NAME.fullmatch(file.name)
    return int(named[1]) if named and named[1] else None


def import_snapshot(file: Path, task: str) -> Imported:
    """One snapshot as a policy of a task.

    Raises `SnapshotError` for a file that is not one, that names anything unknown, or whose network ours cannot
    repeat; `ConfigError` for an unknown task or one with other observations or actions.
    """
    archive = Archive(file)
    tree = archive.tree
    missing = {"state_prior", "action_ae", "obs_encoding_net"} - (tree.keys() if isinstance(tree, dict) else set())
    if missing:
        raise SnapshotError(f"{file}: not a snapshot of the original code: no {', '.join(sorted(missing))}")
    Part.of(archive, "obs_encoding_net", tree["obs_encoding_net"]).expect(IDENTITY)
    bins = Part.of(archive, "action_ae", tree["action_ae"]).expect(K_MEANS)
    centers = bins.tensor("bin_centers")  # (bins, act_dim)
    prior = Part.of(archive, "state_prior", tree["state_prior"])
    made = network(prior)
    if centers.ndim != 2:
        raise bins.wrong(f"bin_centers of shape {tuple(centers.shape)}, expected (bins, numbers of an action)")
    settings: dict[str, Any] = {
        **made.settings,
        "model.offsets": prior.setting("predict_offsets", bool),
        "codebook.bins": len(centers),
        "loss.gamma": prior.number("focal_loss_gamma"),
        "loss.offset_scale": prior.number("offset_loss_scale"),
        "data.observation": _layout(task, made.obs_dim, centers.shape[1], file),
        "data.normalize": Normalize.NONE,  # the original scales neither observations nor actions
        **hydra_settings(file.parent),
    }
    if _number(file) is not None:
        settings |= {"train.seed": _number(file), "data.split_seed": _number(file)}
    try:
        config = make_config(task, settings)
        with torch.device("meta"):  # no memory for sizes that the tensors may not have
            model = make_model(config.model, made.obs_dim, centers.shape[1], len(centers))
        model.load_state_dict(dict(made.tensors), assign=True)
    except ConfigError as error:
        raise SnapshotError(f"{file}: {error}") from error
    except RuntimeError as error:
        raise SnapshotError(f"{file}: {prior.name}: {str(error).splitlines()[-1].strip()}") from error
    policy = Policy(config, model, centers, _identity(made.obs_dim), _identity(centers.shape[1]), UNKNOWN_DATA)
    epoch = tree.get("prior_epoch")
    if type(epoch) is not int or epoch < 0:
        raise SnapshotError(f"{file}: no prior_epoch")
    return Imported(policy, file, archive.sha256, epoch, settings)


def _identity(dim: int) -> Normalizer:
    return fit_normalizer(np.zeros((1, dim), np.float32), Normalize.NONE)


def _layout(task: str, obs_dim: int, act_dim: int, file: Path) -> str:
    """The layout of a task that has as many numbers. Raises `SnapshotError` where none has."""
    found = tasks.get(task)
    views = {name: found.view(name) for name in found.layouts}
    actions = len(views[found.layouts[0]].action_columns)
    if act_dim != actions:
        has = counted(act_dim, "number")
        raise SnapshotError(f"{file}: its actions have {has}, those of {task} have {actions}; another --task?")
    for name, view in views.items():
        if len(view.columns) == obs_dim:
            return str(name)
    known = ", ".join(f"{name} {len(view.columns)}" for name, view in views.items())
    raise SnapshotError(f"{file}: its observations have {counted(obs_dim, 'number')}, those of {task}: {known}")
