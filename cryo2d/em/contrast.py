"""How strongly the members of a class show its average.

The contrast of a particle in an average A is <z, A> / <t A, A>, with z its CTF X / sigma^2 in the
frame of the class and t the ring means of CTF^2 / sigma^2. It varies with the ice, and by noise of
variance 1 / <t A, A>.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.polar import PolarGrid

ICE = 0.1  # standard deviation of the contrast between particles, beside noise


@dataclass(frozen=True)
class Contrasts:
    """Contrast of the members of each class in its average.

    Attributes:
        mean: of the members ``[k]``; above 1 where the average is filtered.
        deviation: between them ``[k]``.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, grid: PolarGrid, stats: SufficientStats, averages: Tensor) -> Self:
        """Contrasts in some averages.

        Args:
            grid: polar grid of the averages.
            stats: sums over the members, with the rings of the averages or more.
            averages: circular harmonics ``[k m s]``.
        """
        rings = grid.num_rings
        num, den = stats.num.sum(0)[..., :rings], stats.den.sum(0)[:, :rings]
        own = grid.inner_of_harmonics(averages, averages, den).clamp(min=1e-20)
        mean = grid.inner_of_harmonics(averages, num) / own
        noise = stats.count.sum(0) / own
        return cls(mean.clamp(min=0.0), (noise + ICE**2).sqrt())

    def __getitem__(self, classes: Tensor) -> Self:
        """Those of some classes."""
        return type(self)(self.mean[classes], self.deviation[classes])

    def at(self, part: Tensor) -> Tensor:
        """Contrast below which some part of the members of each class lies ``[k]``."""
        return (self.mean + self.deviation * torch.special.ndtri(part)).clamp(min=0.0)
