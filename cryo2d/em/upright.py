"""Filaments stand upright: the long axis of every class average along the axis of the rows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid

_STEPS = 4096  # directions in a quarter turn: 0.02 degrees
_RAY_WIDTH = math.radians(4.0)  # standard deviation of the angles that a ray takes in
_TRUST = 3.0  # weight of the second moments against the logarithm of the rays' powers


@dataclass(frozen=True)
class Upright:
    """In-plane rotations that stand class averages upright, once in a run.

    The transform of a helix lies on layer lines, as strong to the left of the axis as to the right:
    ``|F(k)|`` is its own mirror image in the axis, which fixes the axis to a part of a degree up
    to a quarter turn, even where the tube fills the box. Of the two directions left, that along
    the tube has the brighter pixels spread along it, and the more power of the transform across
    it, on the layer line through the origin, which is that of the tube's profile. Polarity stays
    as it is.

    Args:
        grid: polar grid of the averages.
        iteration: 0-based number of the iteration after which the averages are turned.
        threshold: pixels above this part of the maximum count as bright.
    """

    grid: PolarGrid
    iteration: int
    threshold: float = 0.3

    def turns(self, averages: Tensor) -> Tensor:
        """Rotations psi ``[k]`` (radian, at most a quarter turn), 0 for blank averages.

        Args:
            averages: ``[k y x]``, solvent level 0.
        """
        turn = math.pi / 2 - self.axes(averages)
        turn = turn - math.pi * torch.round(turn / math.pi)
        return torch.where(averages.abs().amax((1, 2)) > 0, turn, 0.0)

    def axes(self, averages: Tensor) -> Tensor:
        """Direction of the long axes from x (columns) to y (rows), modulo pi ``[k]`` (radian)."""
        amplitude = self.grid.sample(averages).abs()
        axis = mirror_axis(amplitude, self.grid.radii.to(averages.device))
        along, across = self._ray_power(averages, axis)
        direction, length = second_moments(averages, self.threshold)
        rays = torch.log(across.clamp(min=1e-20) / along.clamp(min=1e-20))
        certain = rays + _TRUST * length * torch.cos(2.0 * (direction - axis))
        return torch.where(certain >= 0, axis, axis + math.pi / 2) % math.pi

    def _ray_power(self, averages: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
        """Power of the transform along an axis and across it ``[k]`` each, the disc taken out."""
        box = averages.shape[-1]
        line = torch.arange(box, device=averages.device) - box // 2
        radius = torch.hypot(line[:, None].float(), line.float())
        # averages end at their mask, whose rim must not count: from the centre to it they fade
        bright = (averages.abs() > 0) * radius
        reach = bright.amax((1, 2), keepdim=True).clamp(min=1.0)
        window = torch.cos((0.5 * math.pi / reach * radius).clamp(max=0.5 * math.pi)).square()
        level = (averages * window).sum((1, 2), keepdim=True) / window.sum((1, 2), keepdim=True)
        power = self.grid.sample((averages - level) * window).abs().square().sum(2)
        angles = self.grid.angles.to(averages.device)
        found = []
        for direction in (axis, axis + math.pi / 2):
            offset = (angles - direction[:, None] + math.pi / 2) % math.pi - math.pi / 2
            weight = torch.exp(-0.5 * (offset / _RAY_WIDTH).square())
            found.append((weight * power).sum(1) / weight.sum(1))
        return found[0], found[1]


def mirror_axis(amplitude: Tensor, weights: Tensor) -> Tensor:
    """Direction in which polar samples are most nearly their own mirror image ``[k]`` (radian).

    With c_m the coefficients of exp(2 i m a) on a ring, the correlation with the mirror image in
    the axis at b is sum_m c_m^2 exp(-4 i m b): one Fourier transform gives it at every angle.

    Args:
        amplitude: values of period pi ``[k a s]``.
        weights: of the rings ``[s]``.

    Returns:
        One of the two mirror axes, from 0 to a quarter turn.
    """
    orders = torch.fft.rfft(amplitude, dim=1)
    squares = (orders.square() * weights).sum(2)
    squares[:, 0] = 0  # the mean is symmetric about everything
    likeness = torch.fft.irfft(squares, n=_STEPS, dim=1)
    return likeness.argmax(1) * (0.5 * math.pi / _STEPS)


def second_moments(averages: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Principal axis of the bright pixels and how much longer they are along it.

    Args:
        averages: ``[k y x]``.
        threshold: pixels above this part of the maximum count, by their value.

    Returns:
        Direction from x to y (radian) and (a - b) / (a + b) of the moments a > b, ``[k]`` each.
    """
    box = averages.shape[-1]
    axis = torch.arange(box, device=averages.device, dtype=averages.dtype) - box // 2
    peak = averages.amax((1, 2), keepdim=True)
    weight = torch.where(averages > threshold * peak, averages, 0.0)
    weight = weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-20)
    x, y = (weight * axis).sum((1, 2)), (weight * axis[:, None]).sum((1, 2))
    xx = (weight * axis.square()).sum((1, 2)) - x.square()
    yy = (weight * axis.square()[:, None]).sum((1, 2)) - y.square()
    xy = (weight * axis * axis[:, None]).sum((1, 2)) - x * y
    direction = 0.5 * torch.atan2(2.0 * xy, xx - yy)
    length = torch.hypot(2.0 * xy, xx - yy) / (xx + yy).clamp(min=1e-20)
    return direction, length
