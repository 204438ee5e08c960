"""`numerics` names what can change a bit; on a CPU its words are part of the key of every recorded row."""

import pytest
import torch

from bet.arithmetic import numerics


def test_on_a_cpu_the_words_are_those_that_rows_were_recorded_with() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    assert numerics(torch.device("cpu")) == f"torch {torch.__version__} {capability} cpu float32"


def test_on_a_gpu_they_name_its_model_and_not_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {0: "NVIDIA H100", 1: "NVIDIA H100", 2: "NVIDIA A10G"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[device.index])
    first, second, other = (numerics(torch.device("cuda", number)) for number in models)
    assert "cuda NVIDIA H100 float32" in first
    assert first == second != other


def test_on_apples_mps_they_name_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M3 Max")
    assert numerics(torch.device("mps")).endswith(" mps Apple M3 Max float32")
