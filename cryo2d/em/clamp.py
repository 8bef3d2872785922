"""Class averages that are exactly flat outside a support: the constrained M-step.

The statistics of a class are a quadratic function of its average A. Up to a constant, and with
the prior that makes T, the Wiener-filtered average before any mask, its unconstrained minimum,

    J(A) = sum_k w(|k|) |A^(k) - T^(k)|^2,    w = den / W = den + prior,    prior = den (1 - W) / W

with W the Wiener weight of each ring. den has one value per ring, so that the sum over polar
samples is one over the discrete Fourier transform of the box, with w interpolated between rings.
J is minimised over images that are free inside a support and one constant c outside. The constant
frequency is not measured and has weight 0: J does not depend on c, and the averages are written
with c = 0, the solvent level of references. Inside the support nothing is multiplied by a mask.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryo2d.em.solve import Filtered, Solution, WienerSolver, half_weight
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.fourier import on_half_plane
from cryo2d.geometry.polar import PolarGrid

_LEAST_SUM = 1e-3  # least den of a ring, as a part of the class's best ring: CTF zeros
_LEAST_WIENER = 0.1  # least Wiener weight: a harder wall behind the last signal costs FRC before it
_OUTSIDE = 0.1  # the support ends where a neighbour's mask leaves less than this of the circle
_ROUND = 8  # steps of conjugate gradients between two updates of the active pixels


@dataclass(frozen=True)
class Misfit:
    """J(A) = sum_k w(|k|) |A^(k) - T^(k)|^2 for a batch of classes, scaled to max w = 1.

    Attributes:
        target: T ``[k y x]``.
        weight: w on the half plane of a real transform ``[k y x/2+1]``, 0 at frequency 0.
    """

    target: Tensor
    weight: Tensor

    @classmethod
    def of_rings(cls, grid: PolarGrid, target: Tensor, den: Tensor, wiener: Tensor) -> "Misfit":
        """The misfit of sums ``den [k s]`` and Wiener weights ``[k s]`` with minimum ``target``.

        Frequencies beyond the last ring hold no data; they get the largest weight of their class,
        which keeps the averages band-limited. A class without data gets the same weight everywhere.
        """
        most = den.amax(-1, keepdim=True)
        part = torch.where(most > 0, den / most.clamp(min=1e-30), 1.0).clamp(min=_LEAST_SUM)
        rings = part / wiener.clamp(min=_LEAST_WIENER)
        rings = rings / rings.amax(-1, keepdim=True)
        beyond = torch.ones_like(rings[:, :1])
        weight = on_half_plane(torch.cat((rings[:, :1], rings, beyond), dim=1), grid.box)
        weight[:, 0, 0] = 0.0
        return cls(target, weight)

    def __call__(self, images: Tensor) -> Tensor:
        """J ``[k]`` of images ``[k y x]``."""
        return _dot(images - self.target, self.gradient(images))[:, 0, 0]

    def gradient(self, images: Tensor) -> Tensor:
        """Half the gradient of J ``[k y x]``."""
        return self.curvature(images - self.target)

    def curvature(self, images: Tensor) -> Tensor:
        """Half the second derivative of J times images ``[k y x]``."""
        return _filter(images, self.weight)

    def inverse(self, images: Tensor) -> Tensor:
        """Images ``[k y x]`` divided by w; frequency 0 counts like its neighbour."""
        weight = self.weight.clone()
        weight[:, 0, 0] = weight[:, 0, 1]
        return _filter(images, 1.0 / weight)


def _filter(images: Tensor, weight: Tensor) -> Tensor:
    return torch.fft.irfft2(weight * torch.fft.rfft2(images), s=images.shape[-2:])


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum((-2, -1), keepdim=True)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient; 0 once there is nothing left to gain."""
    return torch.where(below > 0, above / below.clamp(min=1e-37), 0.0)


def conjugate_gradients(misfit: Misfit, free: Tensor, start: Tensor, steps: int) -> Tensor:
    """Lower J over the free pixels by preconditioned conjugate gradients.

    The preconditioner is 1 / w in Fourier space: exact without a constraint, so that only the rim
    of the support is left to the iteration and 25 steps reach single precision whatever the box.
    The number of steps is fixed: the host never waits for the device.

    Args:
        misfit: J.
        free: 1 where a pixel may change, else 0 ``[k y x]``.
        start: images to start from ``[k y x]``; 0 where not free.
        steps: number of steps.

    Returns:
        ``[k y x]``.
    """
    images = start
    residual = -free * misfit.gradient(images)
    better = free * misfit.inverse(residual)
    direction, gain = better, _dot(residual, better)
    for _ in range(steps):
        bent = free * misfit.curvature(direction)
        length = _ratio(gain, _dot(direction, bent))
        images = images + length * direction
        residual = residual - length * bent
        better = free * misfit.inverse(residual)
        before, gain = gain, _dot(residual, better)
        direction = better + _ratio(gain, before) * direction
    return images


def non_negative(misfit: Misfit, support: Tensor, start: Tensor, rounds: int) -> Tensor:
    """Lower J over images that are at least 0 inside the support and 0 outside.

    A primal-dual active set method (Hintermueller, Ito & Kunisch 2002): pixels of the support
    leave the free ones when they become negative and return when the gradient pulls them up.

    Args:
        misfit: J.
        support: 1 inside, 0 outside ``[k y x]``.
        start: images to start from ``[k y x]``.
        rounds: updates of the active set.

    Returns:
        ``[k y x]``; never worse than the start without its negative values.
    """
    first = support * start.clamp(min=0.0)
    images, free = first, support * (first > 0)
    for _ in range(rounds):
        images = conjugate_gradients(misfit, free, images * free, _ROUND)
        pulled = misfit.gradient(images) < 0
        free = support * torch.where(free > 0, images > 0, pulled)
    images = images.clamp(min=0.0)
    return torch.where((misfit(images) <= misfit(first))[:, None, None], images, first)


@dataclass(frozen=True)
class ClampedSolver(WienerSolver):
    """The same quadratic as :class:`WienerSolver`, minimised over averages with a flat solvent.

    The support is that of the masks: the circle up to its outer radius, less the neighbours.

    Args:
        grid: polar grid of the statistics.
        solvent: masks and solvent level.
        regularizer: Wiener weights per ring.
        positive: whether no pixel may be below the solvent level.
        steps: of the conjugate gradients.
        rounds: of the active set of pixels at the solvent level.
    """

    positive: bool = False
    steps: int = 25
    rounds: int = 12

    def bounded(self, raw: Filtered, den: Tensor) -> Tensor:
        """Averages ``[k y x]``, 0 outside their supports; ``den [k s]`` is their weight."""
        misfit, support = self.misfit(raw, den), self.support(raw)
        start = support * self.solvent.flatten(raw.averages, raw.masks)
        averages = conjugate_gradients(misfit, support, start, self.steps)
        if self.positive:
            averages = non_negative(misfit, support, averages, self.rounds)
        return averages

    def _halves(self, stats: SufficientStats, raw: Filtered) -> Tensor:
        """Solved for either half-set alone."""
        assert raw.halves is not None
        wiener = half_weight(raw.wiener)
        halves = [
            self.bounded(replace(raw, averages=half, wiener=wiener), den)
            for half, den in zip(raw.halves, stats.den, strict=True)
        ]
        return torch.stack(halves)

    def moved(
        self, solution: Solution, shift: Tensor, stats: SufficientStats, particle: Tensor
    ) -> Solution:
        """Solved again: a clamped average that is shifted is flat no more."""
        return self(stats, apart=solution.halves is not None, particle=particle)

    def misfit(self, raw: Filtered, den: Tensor) -> Misfit:
        """What is minimised."""
        return Misfit.of_rings(self.grid, raw.averages, den, raw.wiener)

    def support(self, raw: Filtered) -> Tensor:
        """1 where an average is free ``[k y x]``, 0 where it is solvent."""
        return (raw.masks > _OUTSIDE * self.solvent.circle.to(raw.masks.device)).float()
