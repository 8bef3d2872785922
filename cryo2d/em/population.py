"""What keeps classes alive: dead ones start again as disturbed copies of the most populous."""

from dataclasses import dataclass

import torch

from cryo2d.em.stats import SufficientStats


@dataclass(frozen=True)
class Reseed:
    """Replace classes that hardly any particle goes to.

    A class with less than ``least`` of the mean share becomes a copy of one of the most populous
    classes, disturbed by noise of the copy's own spectrum; each of the two keeps half the sums, so
    that new particles soon outweigh what they share.

    Args:
        total: online iterations of the run.
        at: when to look, as parts of the online iterations.
        least: smallest share, in units of the mean share.
        disturbance: amplitude of the noise, as a part of the copy's amplitude.
    """

    total: int
    at: tuple[float, ...] = (0.25, 0.4, 0.55)
    least: float = 0.25
    disturbance: float = 0.3

    def __call__(
        self, stats: SufficientStats, iteration: int, generator: torch.Generator
    ) -> SufficientStats:
        """Statistics with the dead classes replaced; the same object if none is."""
        if iteration not in {round(part * self.total) for part in self.at}:
            return stats
        count = stats.count.sum(0)
        dead = (count < self.least * count.mean()).nonzero()[:, 0]
        if len(dead) == 0:
            return stats
        source = count.argsort(descending=True)[: len(dead)]
        dead = dead[: len(source)]
        num, den, cnt = stats.num.clone(), stats.den.clone(), stats.count.clone()
        noise = torch.view_as_complex(
            torch.randn((*num[:, dead].shape, 2), generator=generator, device="cpu")
        ).to(num.device)
        amplitude = num[:, source].abs().square().mean(2, keepdim=True).sqrt()
        for tensor in (num, den, cnt):
            tensor[:, source] *= 0.5
            tensor[:, dead] = tensor[:, source]
        num[:, dead] += 0.5 * self.disturbance * amplitude * noise
        return SufficientStats(num, den, cnt, stats.power, stats.particles)
