"""What keeps classes alive: dead ones start again as disturbed copies of the most populous."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.stats import SufficientStats


@dataclass(frozen=True)
class Reseed:
    """Replace classes that hardly any particle goes to.

    A class with less than ``least`` of the mean share becomes a copy of a populous class, disturbed
    by noise of the copy's own amplitude. Source and copies share the sums in equal parts, so that
    new particles soon outweigh what they have in common.

    Args:
        total: online iterations of the run.
        at: when to look, as parts of the online iterations.
        least: smallest share, in units of the mean share.
        last_least: the same at the last online iteration, so that no class stays empty.
        disturbance: amplitude of the noise, as a part of the copy's amplitude.
    """

    total: int
    at: tuple[float, ...] = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
    least: float = 0.3
    last_least: float = 0.1
    disturbance: float = 0.3

    def __call__(
        self, stats: SufficientStats, recent: Tensor, iteration: int, generator: torch.Generator
    ) -> SufficientStats:
        """Statistics with the dead classes replaced; the same object if none is.

        Args:
            stats: running sums, which remember a class for long after it died.
            recent: posterior mass of each class in this iteration alone ``[k]``.
            iteration: its 0-based number.
            generator: random numbers.
        """
        if iteration == self.total - 1:
            least = self.last_least
        elif iteration in {round(part * self.total) for part in self.at}:
            least = self.least
        else:
            return stats
        count = stats.count.sum(0)
        is_dead = recent < least * recent.mean()
        dead = is_dead.nonzero()[:, 0]
        if len(dead) == 0:
            return stats
        living = (~is_dead).nonzero()[:, 0]
        order = living[count[living].argsort(descending=True)]
        source = order[torch.arange(len(dead), device=order.device) % len(order)]
        share = 1.0 / (1.0 + torch.bincount(source, minlength=len(count)))
        num, den, cnt = stats.num.clone(), stats.den.clone(), stats.count.clone()
        num *= share[:, None, None]
        den *= share[:, None]
        cnt *= share
        for tensor in (num, den, cnt):
            tensor[:, dead] = tensor[:, source]
        noise = torch.view_as_complex(torch.randn((*num[:, dead].shape, 2), generator=generator))
        amplitude = num[:, source].abs().square().mean(2, keepdim=True).sqrt()
        step = self.disturbance * amplitude * noise.to(num.device)
        num[:, dead] += step
        # the source moves the other way, so that neither is the better copy
        num.index_add_(1, source, -step / (1.0 / share[source] - 1.0)[:, None, None])
        return SufficientStats(num, den, cnt, stats.power, stats.particles)
