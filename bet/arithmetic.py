"""How torch computes: threads and float formats decide the last bits, so whoever promises bits says which."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

# (rows, in, out) of products as small and large policies make them; libraries choose kernels by these, too.
_PRODUCTS = ((32, 2, 24), (32, 72, 288), (160, 72, 216), (320, 120, 480), (320, 480, 120), (640, 60, 64), (64, 512, 9))
_DIGITS = 8


def numerics(device: torch.device) -> str:
    """What can change a bit of what is computed here: torch, CPU capability, device (a GPU by its model), dtype, and
    what the CPU makes of a fixed computation (`kernels`).
    """
    match device.type:
        case "cuda":
            where = f"cuda {torch.cuda.get_device_name(device)}"
        case "mps":
            chip = getattr(torch.backends.mps, "get_name", str)()  # which older torch does not tell
            where = f"mps {chip}".rstrip()
        case _:
            where = str(device)
    return f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {where} float32 {kernels()}"


@cache
def kernels() -> str:
    """Digits of what the CPU computes from fixed numbers, on one thread: MKL, oneDNN and numpy choose kernels by its
    vendor and model too, of which the capability says nothing.
    """
    random, sha = np.random.default_rng(0), hashlib.sha256()

    def fixed(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.uniform(-1, 1, shape).astype(np.float32))

    with threads(1), torch.inference_mode():
        for rows, before, after in _PRODUCTS:
            out = F.linear(fixed(rows, before), fixed(after, before), fixed(after))  # (rows, after)
            for computed in (out, F.gelu(out), out.tanh(), out.double().softmax(-1), F.layer_norm(out, (after,))):
                sha.update(computed.numpy().tobytes())
        query, key, value = fixed(3, 32, 4, 10, 16)
        sha.update(F.scaled_dot_product_attention(query, key, value, is_causal=True).numpy().tobytes())
    angles = random.uniform(-10, 10, 1000)
    for function in (np.sin, np.cos, np.exp, np.tanh):
        sha.update(function(angles).tobytes())
    return sha.hexdigest()[:_DIGITS]


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
