"""How much signal each ring of a class average holds, from the agreement of its half-sets."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Regularizer(Protocol):
    """Wiener weight of every class and ring."""

    def __call__(self, frc: Tensor, den: Tensor, count: Tensor) -> Tensor:
        """Weights ``[k s]`` from FRC ``[k s]``, sums ``[k s]`` and counts ``[k]``."""
        ...


@dataclass(frozen=True)
class FrcRegularizer:
    """Wiener weight of each ring from the half-set FRC.

    The half-sets' FRC F gives the signal-to-noise ratio of the full average, SSNR = 2F / (1 - F),
    and the weight SSNR / (1 + SSNR) = 2F / (1 + F) (Rosenthal & Henderson 2003). Rings from the
    first one on whose smoothed FRC falls below ``floor`` hold no signal. The longest waves may fall
    below it and others not: defocus transfers little of them, and ice, gradients and micelles add
    to their noise.

    Args:
        floor: smallest FRC that counts as signal.
        longest: rings at the centre that do not end the signal.
        full: whether the weight is that of both half-sets together (2F / (1 + F)) or of one (F).
    """

    floor: float = 0.03
    longest: int = 3
    full: bool = True

    def __call__(self, frc: Tensor, den: Tensor, count: Tensor) -> Tensor:
        """Weights ``[k s]`` in 0..1 from the FRC ``[k s]``; the sums are not needed."""
        smooth = frc.clone()
        smooth[:, 1:-1] = 0.25 * frc[:, :-2] + 0.5 * frc[:, 1:-1] + 0.25 * frc[:, 2:]
        below = smooth < self.floor
        below[:, : self.longest] = False
        dead = below.cumsum(1) > 0
        part = torch.where(dead, 0.0, smooth).clamp(0.0, 0.999)
        return 2.0 * part / (1.0 + part) if self.full else part


@dataclass(frozen=True)
class CountRegularizer:
    """Wiener weight den / (den + prior): no half-sets, the prior is worth ``particles`` of them.

    Args:
        particles: strength of the prior, in particles of average weight.
    """

    particles: float = 5.0

    def __call__(self, frc: Tensor, den: Tensor, count: Tensor) -> Tensor:
        """Weights ``[k s]`` from the class sums ``den [k s]`` and counts ``[k]``."""
        one = den.sum(0) / count.sum().clamp(min=1e-20)
        return den / (den + self.particles * one).clamp(min=1e-20)
