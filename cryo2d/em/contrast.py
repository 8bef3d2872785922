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

LEAST_SCALE, MOST_SCALE = 0.2, 5.0  # of a particle, where an average one has 1
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


def normalised(scale: Tensor, optics: Tensor, groups: int) -> Tensor:
    """Contrast scales with mean 1 in each optics group, so that they and averages stay apart.

    Args:
        scale: of the particles ``[n]``.
        optics: optics group of each ``[n]``.
        groups: number of groups.

    Returns:
        Scales ``[n]``, none beyond the least and the most.
    """
    total = scale.new_zeros(groups).index_add_(0, optics, scale)
    count = torch.bincount(optics, minlength=groups).clamp(min=1)
    return (scale / (total / count)[optics].clamp(min=1e-6)).clamp(LEAST_SCALE, MOST_SCALE)
