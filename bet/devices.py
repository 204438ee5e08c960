"""Where training runs: a device by its name, or the best one there is.

CUDA has everything; Apple's MPS has no float64 and no process groups. What is not here is refused with how to get it.
"""

import torch

from bet.config import Precision
from bet.errors import UsageError
from bet.workers import Workers

AUTO = "auto"
_CPU, _CUDA, _MPS = "cpu", "cuda", "mps"


def available() -> list[str]:
    """Kinds of devices that torch can train on here, the best first."""
    there = {_CUDA: torch.cuda.is_available(), _MPS: torch.backends.mps.is_available(), _CPU: True}
    return [kind for kind, is_there in there.items() if is_there]


def training_device(name: str, workers: Workers, precision: Precision) -> torch.device:
    """The device that `train.device` names; of `auto` the best that is here: CUDA, then MPS, then the CPU.

    Raises `UsageError` naming the setting, with what is available or how to get the device: for a device that is not
    here, or one that cannot do what `workers` or `train.precision` ask of it.
    """
    if name == AUTO:
        name = next(kind for kind in available() if kind != _MPS or _alone(workers))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in (_CPU, _CUDA, _MPS):
        raise UsageError(f"train.device: {name!r} is none that training knows: auto, cpu, cuda, cuda:1 or mps")
    if missing := _missing(device):
        raise UsageError(
            f"train.device: {name!r} is not available here: {missing}; available: {', '.join(available())}"
        )
    if device.type == _MPS and not _alone(workers):
        raise UsageError("train.device: workers on mps cannot train together; use one, or train.device=cpu")
    if precision is Precision.TF32 and device.type != _CUDA:
        raise UsageError(f"train.precision: tf32 is arithmetic of CUDA devices, not of {device.type!r}")
    if precision is Precision.BF16 and device.type == _MPS:
        raise UsageError("train.precision: bf16 is for cpu and cuda; on mps training is in float32")
    return device


def summing(device: torch.device) -> torch.dtype:
    """What a device adds up losses in: float64, which MPS has not."""
    return torch.float32 if device.type == _MPS else torch.float64


def _alone(workers: Workers) -> bool:
    return workers.count == 1


def _missing(device: torch.device) -> str | None:
    """Why a device cannot be had, and how to get it; None where it is here."""
    if device.type == _CUDA:
        if torch.version.cuda is None and torch.version.hip is None:
            return f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch (README, Install)"
        if not torch.cuda.is_available():
            return "torch finds no CUDA device; see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
        if (device.index or 0) >= torch.cuda.device_count():
            return f"there are {torch.cuda.device_count()} CUDA devices, the first is cuda:0"
    if device.type == _MPS:
        if not torch.backends.mps.is_built():
            return "torch is built without MPS, which its builds for macOS on Apple silicon have"
        if not torch.backends.mps.is_available():
            return "MPS needs Apple silicon and macOS 14 or newer"
        if (device.index or 0) > 0:
            return "there is one MPS device, mps:0"
    return None
