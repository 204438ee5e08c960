"""How torch computes: threads and float formats decide the last bits, so whoever promises bits says which."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def numerics(device: torch.device) -> str:
    """What can change a bit of what is computed here: torch, CPU capability, device (a GPU by its model), dtype."""
    match device.type:
        case "cuda":
            where = f"cuda {torch.cuda.get_device_name(device)}"
        case "mps":
            chip = getattr(torch.backends.mps, "get_name", str)()  # which older torch does not tell
            where = f"mps {chip}".rstrip()
        case _:
            where = str(device)
    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {where} float32"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads. Networks this small are no faster on two, and far slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products on CUDA; torch alone would use it in LSTMs but not in linear layers."""
    switches: tuple[Any, Any] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
