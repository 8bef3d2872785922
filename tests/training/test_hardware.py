from datetime import timedelta

import pytest
import torch

from cryo2d.training.hardware import SharedParticles, cuda_or_cpu, number_of, strategy


def test_the_accelerator_is_usable(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda_or_cpu() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_or_cpu() == "cpu"


@pytest.mark.parametrize(
    ("devices", "gpus", "expected"),
    [(1, 4, 1), (3, 0, 3), ([2], 4, 1), ([0, 3], 4, 2), ("auto", 4, 4), ("auto", 0, 1)],
)
def test_a_process_for_each_device(devices, gpus, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert number_of(devices) == expected
    chosen = strategy(devices, timeout=2.0)
    assert isinstance(chosen, SharedParticles) == (expected > 1)
    if isinstance(chosen, SharedParticles):
        assert chosen._timeout == timedelta(minutes=2)
