"""What hydra recorded beside a snapshot: the settings of its training, under our keys."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bet.snapshots.records import SnapshotError

HYDRA = Path(".hydra") / "config.yaml"
LAST = "last"  # folder of the study's snapshots that are not its best
# Ours -> theirs: at the top level in the original, under `experiment` in the reproduction study.
_THEIRS: Mapping[str, str] = MappingProxyType(
    {
        "data.train_fraction": "train_fraction",
        "data.split_seed": "seed",  # tied to the training seed
        "train.seed": "seed",
        "train.epochs": "num_prior_epochs",
        "train.batch_size": "batch_size",
        "train.lr": "lr",
        "train.weight_decay": "weight_decay",
        "train.betas": "betas",
        "train.grad_clip": "grad_norm_clip",
    }
)
NOT_IN_A_SNAPSHOT = (*_THEIRS, "data.drop_last_window", "codebook.fit_on")
"""Settings that only hydra's record has, or nobody (the code that trained it may have been changed)."""


def hydra_settings(directory: Path) -> dict[str, Any]:
    """The settings in `.hydra/config.yaml` of a directory, of `last/` in the one above; none without that file.

    Raises `SnapshotError` naming the file.
    """
    path = (directory.absolute().parent if directory.absolute().name == LAST else directory) / HYDRA
    if not path.is_file():
        return {}
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise SnapshotError(f"{path}: expected a mapping of settings")
        # One at a time: a whole config has placeholders that only hydra can fill.
        nested = isinstance(OmegaConf.select(config, "experiment"), DictConfig)
        found = {
            ours: OmegaConf.select(config, f"experiment.{theirs}" if nested else theirs)
            for ours, theirs in _THEIRS.items()
        }
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{path}: not readable: {str(error).splitlines()[0]}") from error
    known = {
        ours: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for ours, value in found.items()
        if value is not None
    }
    if known.get("train.grad_clip") == math.inf:
        known["train.grad_clip"] = None
    return known
