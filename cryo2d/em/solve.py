"""From sufficient statistics to class averages."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.prior import LocalRegularizer, Regularizer
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.fourier import fourier_shift, ring_filter
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import sample_correlation
from cryo2d.physics.solvent import SolventMask

_FLOOR = 1e-3  # least weight of a ring, as a part of the class's best ring: CTF zeros


@dataclass(frozen=True)
class Solution:
    """Class averages and what is known of their quality.

    Attributes:
        averages: ``[k y x]``, masked, solvent level 0.
        frc: half-set Fourier ring correlation inside the masks ``[k s]``.
        halves: averages of either half-set alone, inside the masks of both ``[h k y x]``; None if
            they were not asked for.
    """

    averages: Tensor
    frc: Tensor
    halves: Tensor | None = None

    def of_classes(self, rows: slice) -> "Solution":
        """Some of the classes."""
        halves = None if self.halves is None else self.halves[:, rows]
        return Solution(self.averages[rows], self.frc[rows], halves)

    @staticmethod
    def joined(parts: Sequence["Solution"]) -> "Solution":
        """All classes of several solutions, one after the other."""
        halves = [part.halves for part in parts if part.halves is not None]
        return Solution(
            torch.cat([part.averages for part in parts]),
            torch.cat([part.frc for part in parts]),
            torch.cat(halves, dim=1) if halves else None,
        )


@dataclass(frozen=True)
class Filtered:
    """Wiener-filtered class averages and what they were made with.

    Attributes:
        averages: ``[k y x]``, not masked.
        halves: the same of either half-set alone ``[h k y x]``, or None.
        flat: those inside the masks, solvent level 0, or None.
        wiener: Wiener weight of each ring ``[k s]``.
        masks: ``[k y x]``.
        local: Wiener weight of each pixel ``[k y x]``, or None.
        frc: half-set Fourier ring correlation inside the masks ``[k s]``.
    """

    averages: Tensor
    halves: Tensor | None
    flat: Tensor | None
    wiener: Tensor
    masks: Tensor
    local: Tensor | None
    frc: Tensor


def least_squares(grid: PolarGrid, num: Tensor, den: Tensor) -> Tensor:
    """Unregularised averages ``[k m s]`` num / den; 0 for a class without particles."""
    floor = _FLOOR * den.amax(-1, keepdim=True)
    return weighted(num, 1.0 / (den + floor).clamp(min=1e-20))


def weighted(harmonics: Tensor, weight: Tensor) -> Tensor:
    """Circular harmonics ``[... m s]`` with a weight ``[... s]`` on each ring."""
    # complex by real numbers: half the products of complex by complex ones
    return torch.view_as_complex(torch.view_as_real(harmonics) * weight[..., None, :, None])


def half_weight(wiener: Tensor) -> Tensor:
    """Wiener weight of one half-set: w = SSNR / (1 + SSNR) of both together is w / (2 - w)."""
    return wiener / (2.0 - wiener)


def images_of(grid: PolarGrid, harmonics: Tensor) -> Tensor:
    """Real-space images ``[k y x]`` of circular harmonics ``[k m s]``."""
    return grid.synthesize(grid.from_harmonics(harmonics))


@dataclass(frozen=True)
class WienerSolver:
    """A = w num / den with Wiener weights w from the half-sets, flat outside a soft mask.

    Args:
        grid: polar grid of the statistics.
        solvent: masks and solvent level.
        regularizer: Wiener weights per ring.
        local: Wiener weights per pixel, or None.
    """

    grid: PolarGrid
    solvent: SolventMask
    regularizer: Regularizer
    local: LocalRegularizer | None = None

    def __call__(
        self, stats: SufficientStats, *, apart: bool = False, particle: Tensor | None = None
    ) -> Solution:
        """Averages and their FRC, both inside the masks.

        Args:
            stats: sums of the half-sets.
            apart: whether to make averages of either half-set alone, too.
            particle: what an average particle adds to the sums' weight ``[s]``; None for that of
                these classes.
        """
        raw = self.filtered(stats, apart=apart, particle=particle)
        halves = self._halves(stats, raw) if apart else None
        return Solution(self.bounded(raw, stats.den.sum(0)), raw.frc, halves)

    def _halves(self, stats: SufficientStats, raw: Filtered) -> Tensor:
        """The averages of either half-set alone ``[h k y x]``, inside the masks of both."""
        assert raw.flat is not None
        return raw.flat if raw.local is None else raw.flat * raw.local

    def bounded(self, raw: Filtered, den: Tensor) -> Tensor:
        """Averages ``[k y x]`` inside their masks, flat outside; ``den [k s]`` is their weight."""
        flat = self.solvent.flatten(raw.averages, raw.masks)
        return flat if raw.local is None else flat * raw.local

    def moved(
        self, solution: Solution, shift: Tensor, stats: SufficientStats, particle: Tensor
    ) -> Solution:
        """The solution of sums that were moved by ``shift`` ``[k 2]`` (pixel) since."""
        averages, halves = fourier_shift(solution.averages, shift), solution.halves
        if halves is not None:
            halves = fourier_shift(halves, shift)
        return Solution(averages, solution.frc, halves)

    def filtered(
        self, stats: SufficientStats, *, apart: bool = False, particle: Tensor | None = None
    ) -> Filtered:
        """Averages before any mask is put on them.

        Args:
            stats: sums of the half-sets.
            apart: whether to filter those of either half-set alone, too; local weights need them.
            particle: what an average particle adds to the sums' weight ``[s]``; None for that of
                these classes.
        """
        grid, solvent = self.grid, self.solvent
        plain = images_of(grid, least_squares(grid, stats.num, stats.den).flatten(0, 1))
        plain = plain.unflatten(0, (2, -1))
        masks = solvent.masks(plain.mean(0))
        frc = sample_correlation(*(grid.sample(solvent.flatten(half, masks)) for half in plain))
        den = stats.den.sum(0)
        wiener = self.regularizer(frc, den, stats.particle if particle is None else particle)
        averages = images_of(grid, weighted(least_squares(grid, stats.num.sum(0), den), wiener))
        halves = flat = local = None
        if apart or self.local is not None:
            halves = ring_filter(plain, half_weight(wiener))
            flat = torch.stack([solvent.flatten(half, masks) for half in halves])
        if self.local is not None and flat is not None:
            local = self.local(*flat)
        return Filtered(averages, halves, flat, wiener, masks, local, frc)


@dataclass(frozen=True)
class Recenter:
    """Centre of mass of the bright pixels of each average, to be moved to the box centre.

    Args:
        threshold: pixels above this part of the maximum count.
        binary: whether they all weigh the same (else by their value).
        max_step: longest move in one iteration (pixel).
        min_step: shorter ones are not made (pixel).
    """

    threshold: float = 0.2
    binary: bool = False
    max_step: float = 3.0
    min_step: float = 0.1

    def shift(self, averages: Tensor) -> Tensor:
        """Shifts ``[k 2]`` (pixel) that centre the averages ``[k y x]``; 0 for blank ones."""
        box = averages.shape[-1]
        axis = torch.arange(box, device=averages.device, dtype=averages.dtype) - box // 2
        peak = averages.amax((1, 2))
        bright = (averages > self.threshold * peak[:, None, None]) & (peak > 0)[:, None, None]
        weight = bright.to(averages.dtype) if self.binary else averages * bright
        mass = weight.sum((1, 2)).clamp(min=1e-20)
        x = (weight * axis).sum((1, 2)) / mass
        y = (weight * axis[:, None]).sum((1, 2)) / mass
        shift = -torch.stack((x, y), dim=1)
        length = shift.norm(dim=1, keepdim=True)
        shift = shift * (self.max_step / length.clamp(min=self.max_step))
        return torch.where(length < self.min_step, 0.0, shift)
