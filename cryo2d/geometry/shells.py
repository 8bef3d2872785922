"""Fourier ring correlation and the resolution read from it."""

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid


def ring_correlation(grid: PolarGrid, first: Tensor, second: Tensor) -> Tensor:
    """Fourier ring correlation of circular harmonics ``[... m s]`` -> ``[... s]``.

    FRC(s) = sum Re(conj(F1) F2) / sqrt(sum |F1|^2 sum |F2|^2), sums over the ring
    (Saxton & Baumeister 1982); 0 where a ring is empty.
    """
    power = ring_power(grid, first) * ring_power(grid, second)
    return _correlation(_ring_product(grid, first, second), power)


def sample_correlation(first: Tensor, second: Tensor) -> Tensor:
    """The same of polar samples ``[... a s]``, which are half of each ring and tell the whole."""

    def along(one: Tensor, other: Tensor) -> Tensor:
        product = (torch.view_as_real(one) * torch.view_as_real(other)).flatten(-2)
        return product.sum(-2).unflatten(-1, (-1, 2)).sum(-1)

    return _correlation(along(first, second), along(first, first) * along(second, second))


def _correlation(cross: Tensor, power: Tensor) -> Tensor:
    return torch.where(power > 0, cross / power.clamp(min=1e-30).sqrt(), torch.zeros_like(cross))


def ring_power(grid: PolarGrid, harmonics: Tensor) -> Tensor:
    """Mean power on each ring ``[... s]`` of circular harmonics ``[... m s]``."""
    return _ring_product(grid, harmonics, harmonics)


def _ring_product(grid: PolarGrid, first: Tensor, second: Tensor) -> Tensor:
    """Re(conj(F1) F2), mean over each ring ``[... s]``, of circular harmonics ``[... m s]``."""
    one, other = (torch.view_as_real(part.resolve_conj()) for part in (first, second))
    weighted = grid.harmonic_weights().to(one) @ (one * other).flatten(-2)
    return weighted.unflatten(-1, (-1, 2)).sum(-1)


def resolution_at(frc: Tensor, frequency: Tensor, threshold: float) -> Tensor:
    """Resolution (Angstrom) where each curve first falls below a threshold, interpolated.

    Args:
        frc: ``[... s]``.
        frequency: ``[s]`` (1/Angstrom), increasing.
        threshold: 0.5 or 0.143.

    Returns:
        ``[...]``; the last ring's resolution if a curve never falls below the threshold, and the
        first ring's if it starts below.
    """
    below = frc < threshold
    first = torch.where(below.any(-1), below.int().argmax(-1), frc.shape[-1] - 1)
    before = (first - 1).clamp(min=0)
    high = frc.gather(-1, before[..., None])[..., 0]
    low = frc.gather(-1, first[..., None])[..., 0]
    part = ((high - threshold) / (high - low).clamp(min=1e-6)).clamp(0.0, 1.0)
    part = torch.where((first == 0) | ~below.any(-1), torch.ones_like(part), part)
    frequency = frequency.to(frc.device)
    return 1.0 / torch.lerp(frequency[before], frequency[first], part)
