"""Which device a run computes on."""

import torch


def cuda_or_cpu() -> str:
    """Lightning's name of the accelerator: ``cuda`` where a CUDA device is usable, else ``cpu``.

    Lightning's own ``auto`` also picks Apple's MPS, which lacks complex arithmetic.
    """
    return "cuda" if torch.cuda.is_available() else "cpu"
