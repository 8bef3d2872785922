import torch

from cryo2d.training.hardware import cuda_or_cpu


def test_the_accelerator_is_usable(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda_or_cpu() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_or_cpu() == "cpu"
