"""How much signal rings and regions of an average hold, from the agreement of its half-sets."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cryo2d.physics.solvent import gaussian


class Regularizer(Protocol):
    """Wiener weight of every class and ring."""

    def __call__(self, frc: Tensor, den: Tensor, particle: Tensor) -> Tensor:
        """Weights ``[k s]`` from FRC ``[k s]``, sums ``[k s]`` and a usual particle's ``[s]``."""
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

    def __call__(self, frc: Tensor, den: Tensor, particle: Tensor) -> Tensor:
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

    def __call__(self, frc: Tensor, den: Tensor, particle: Tensor) -> Tensor:
        """Weights ``[k s]`` from the class sums ``den [k s]`` and an average particle's ``[s]``."""
        return den / (den + self.particles * particle).clamp(min=1e-20)


@dataclass(frozen=True)
class LocalRegularizer:
    """Wiener weight of each pixel from the agreement of the half-sets around it.

    Beside a molecule an average holds noise alone, even if the mask is wide, and particles would
    align to it. With f_0 and f_1 the filtered half-set averages and G a Gaussian blur,

        F = G(f_0 f_1) / G((f_0^2 + f_1^2) / 2)

    is their local correlation, and 2F / (1 + F) the weight of both together, as on rings.

    Args:
        sigma: standard deviation of the blur (pixel): some resolution elements of the averages.
    """

    sigma: float

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Weights ``[k y x]`` in 0..1 from the averages of the half-sets ``[k y x]`` each."""
        common, each = first * second, 0.5 * (first.square() + second.square())
        common, each = gaussian(torch.cat((common, each)), self.sigma).chunk(2)
        return (2.0 * common / (common + each).clamp(min=1e-20)).clamp(0.0, 1.0)
