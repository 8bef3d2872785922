"""Which particles their class explains hardly better than anything would.

A particle is compared under two models of its signal: its class average at the best pose, and a
free blob, whose power on each ring is whatever the particle has. With u the particle's power on a
ring of n Fourier samples in units of the noise, the blob's log likelihood over an empty image is at
most ``n/2 (u - 1 - log u)`` where u > 1: a Gaussian of that variance. A particle of the class gains
far more from the average than from the blob. An empty image gains little from either; ice,
contaminants and clumps are all power and no likeness.

    outlier = 1 - (loglik - blob) / typical

with the median gain over particles as the typical one: 0 for most particles, 1 where the blob does
as well as the average.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 0.7  # outlier measure beyond which a particle counts as junk


def free_blob(power: Tensor, ring_weights: Tensor) -> Tensor:
    """Log likelihood of a free blob over an empty image ``[n]``.

    Args:
        power: |X|^2 / sigma^2 summed over each ring ``[n s]``.
        ring_weights: Fourier samples of each ring ``[s]``.
    """
    ratio = (power / ring_weights).clamp(min=1.0)
    return (0.5 * ring_weights * (ratio - 1.0 - ratio.log())).sum(1)


def outlier(gain: Tensor, typical: Tensor) -> Tensor:
    """1 - gain / typical ``[n]``; a typical gain that is not positive gives 0 throughout."""
    return torch.where(typical > 0, 1.0 - gain / typical.clamp(min=1e-6), 0.0)


@dataclass(frozen=True)
class GatherJunk:
    """Chooses the class that junk is gathered in.

    Args:
        limit: outlier measure beyond which a particle is junk.
        share: least part of junk among the members of such a class.
    """

    limit: float = LIMIT
    share: float = 0.5

    def chosen(self, outlier: Tensor, classes: Tensor, num_classes: int) -> int | None:
        """The class with the largest share of junk, None if it is less than ``share``.

        Args:
            outlier: of the particles ``[n]``, NaN where it is not known.
            classes: their classes ``[n]``.
            num_classes: number of classes.
        """
        known = ~outlier.isnan()
        members = torch.bincount(classes[known], minlength=num_classes)
        junk = torch.bincount(classes[known & (outlier > self.limit)], minlength=num_classes)
        share = junk / members.clamp(min=1)
        best = int(share.argmax())
        return best if num_classes > 1 and float(share[best]) > self.share else None
