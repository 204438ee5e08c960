"""`numerics` names what can change a bit; on a CPU its words are part of the key of every recorded row."""

import os
import subprocess
import sys

import pytest
import torch

from bet.arithmetic import kernels, numerics, threads


def test_on_a_cpu_they_name_torch_its_capability_and_what_it_computes() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    assert numerics(torch.device("cpu")) == f"torch {torch.__version__} {capability} cpu float32 {kernels()}"


def kernels_elsewhere(**environment: str) -> str:
    """Of another process."""
    command = [sys.executable, "-c", "from bet.arithmetic import kernels; print(kernels())"]
    return subprocess.run(
        command, env=os.environ | environment, text=True, capture_output=True, check=True
    ).stdout.strip()


def test_a_cpu_whose_libraries_choose_other_kernels_has_other_numerics_and_an_equal_one_the_same() -> None:
    assert kernels_elsewhere() == kernels()
    assert kernels_elsewhere(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41") != kernels()


def test_threads_do_not_show_in_them() -> None:
    with threads(2):
        assert kernels.__wrapped__() == kernels()


def test_on_a_gpu_they_name_its_model_and_not_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {0: "NVIDIA H100", 1: "NVIDIA H100", 2: "NVIDIA A10G"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[device.index])
    first, second, other = (numerics(torch.device("cuda", number)) for number in models)
    assert f"cuda NVIDIA H100 float32 {kernels()}" in first
    assert first == second != other


def test_on_apples_mps_they_name_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M3 Max")
    assert numerics(torch.device("mps")).endswith(f" mps Apple M3 Max float32 {kernels()}")
