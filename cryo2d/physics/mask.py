"""Soft circular masks."""

import math

import torch
from torch import Tensor


def radius_grid(box: int) -> Tensor:
    """Distance of every pixel from the box centre ``box // 2`` ``[y x]`` (pixel)."""
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    return torch.sqrt(axis[:, None] ** 2 + axis**2)


def circular_mask(box: int, inner: float, outer: float) -> Tensor:
    """Soft circle ``[y x]``: 1 up to radius ``inner``, cosine edge to 0 at ``outer`` (pixel)."""
    part = ((radius_grid(box) - inner) / max(outer - inner, 1e-6)).clamp(0.0, 1.0)
    return 0.5 * (1.0 + torch.cos(math.pi * part))
