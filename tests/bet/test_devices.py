"""Which device trains, from what torch reports of this machine; no device but the CPU is used here."""

import pytest
import torch

from bet.arithmetic import numerics
from bet.config import Precision
from bet.devices import available, summing, training_device
from bet.errors import UsageError
from bet.workers import ALONE, Workers


class Machine:
    """What torch says it was built for, and what is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.has()

    def has(self, *, cuda: int | None = None, mps: bool | None = None) -> None:
        """None: torch is built without it; 0 or False: it is built with it, and no device is there."""
        self._patch.setattr(torch.version, "cuda", None if cuda is None else "13.0")
        self._patch.setattr(torch.version, "hip", None)
        self._patch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
        self._patch.setattr(torch.cuda, "device_count", lambda: cuda or 0)
        self._patch.setattr(torch.backends.mps, "is_built", lambda: mps is not None)
        self._patch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def chosen(name: str, workers: int = 1, precision: Precision = Precision.FLOAT32) -> str:
    return str(training_device(name, Workers(0, workers), precision))


def refused(name: str, workers: int = 1, precision: Precision = Precision.FLOAT32) -> str:
    with pytest.raises(UsageError) as error:
        chosen(name, workers, precision)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_auto_takes_cuda_then_mps_then_the_cpu(machine: Machine) -> None:
    machine.has(cuda=2, mps=True)
    assert (chosen("auto"), available()) == ("cuda", ["cuda", "mps", "cpu"])
    machine.has(cuda=0, mps=True)
    assert (chosen("auto"), available()) == ("mps", ["mps", "cpu"])
    machine.has(mps=False)
    assert (chosen("auto"), available()) == ("cpu", ["cpu"])


def test_auto_leaves_mps_to_workers_that_train_alone(machine: Machine) -> None:
    machine.has(mps=True)
    assert chosen("auto", workers=2) == "cpu"
    assert "workers on mps cannot train together; use one, or train.device=cpu" in refused("mps", workers=2)
    machine.has(cuda=2)
    assert chosen("auto", workers=2) == "cuda"


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps", "mps:0"])
def test_a_device_that_is_there_is_taken_by_its_name(machine: Machine, name: str) -> None:
    machine.has(cuda=2, mps=True)
    assert chosen(name) == name


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "why"),
    [
        (None, None, "cuda", f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"),
        (0, None, "cuda", "torch finds no CUDA device; see what nvidia-smi and CUDA_VISIBLE_DEVICES say"),
        (2, None, "cuda:2", "there are 2 CUDA devices, the first is cuda:0"),
        (None, None, "mps", "torch is built without MPS, which its builds for macOS on Apple silicon have"),
        (None, False, "mps", "MPS needs Apple silicon and macOS 14 or newer"),
        (None, True, "mps:1", "there is one MPS device, mps:0"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_how_to_get_it(
    machine: Machine, cuda: int | None, mps: bool | None, name: str, why: str
) -> None:
    machine.has(cuda=cuda, mps=mps)
    message = refused(name)
    assert message.startswith(f"train.device: '{name}' is not available here: {why}")
    assert message.endswith(f"; available: {', '.join(available())}")


@pytest.mark.parametrize(
    "name", ["abacus", "gpu", "meta", "cuda:x", ""]
)  # torch knows `meta`; its tensors hold nothing
def test_a_name_of_no_device_is_refused_with_those_there_are(machine: Machine, name: str) -> None:
    assert refused(name) == f"train.device: {name!r} is none that training knows: auto, cpu, cuda, cuda:1 or mps"


def test_arithmetic_is_refused_where_it_has_no_meaning(machine: Machine) -> None:
    machine.has(cuda=1, mps=True)
    assert chosen("cuda", precision=Precision.TF32) == chosen("cuda", precision=Precision.BF16) == "cuda"
    assert chosen("cpu", precision=Precision.BF16) == "cpu"
    for name in ("cpu", "mps"):
        assert refused(name, precision=Precision.TF32) == (
            f"train.precision: tf32 is arithmetic of CUDA devices, not of {name!r}"
        )
    assert refused("mps", precision=Precision.BF16).startswith("train.precision: bf16 is for cpu and cuda")


def test_losses_are_summed_in_the_widest_numbers_a_device_has() -> None:
    assert summing(torch.device("cpu")) == summing(torch.device("cuda", 1)) == torch.float64
    assert summing(torch.device("mps")) == torch.float32


def test_this_machine_has_what_is_said_to_be_available() -> None:
    for kind in available():
        device = training_device(kind, ALONE, Precision.FLOAT32)
        assert float(torch.ones(2, device=device, dtype=summing(device)).sum()) == 2
        assert kind in numerics(device)
