"""Sufficient statistics of the M-step: one additive value."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from cryo2d.em.fine import Poses
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import ring_power
from cryo2d.geometry.transform import rotation_phase, shift_phase
from cryo2d.physics.image import adjoint, images_at_once
from cryo2d.physics.preprocess import WeightedImages


@dataclass(frozen=True)
class SufficientStats:
    """Posterior-weighted sums over particles, in two half-sets.

    Attributes:
        num: sum p alpha CTF X / sigma^2, rotated and shifted into the class ``[h k m s]`` complex.
        den: sum p alpha^2 CTF^2 / sigma^2, ring means ``[h k s]``.
        count: sum p ``[h k]``.
        power: residual power summed over particles ``[g s]``.
        particles: particles that entered ``power`` ``[g]``.
    """

    num: Tensor
    den: Tensor
    count: Tensor
    power: Tensor
    particles: Tensor

    @classmethod
    def zeros(
        cls,
        grid: PolarGrid,
        num_classes: int,
        num_groups: int,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Statistics of no particle."""
        rings, angles = grid.num_rings, grid.num_angles
        return cls(
            torch.zeros((2, num_classes, angles, rings), dtype=torch.complex64, device=device),
            torch.zeros((2, num_classes, rings), device=device),
            torch.zeros((2, num_classes), device=device),
            torch.zeros((num_groups, rings), device=device),
            torch.zeros(num_groups, device=device),
        )

    def __add__(self, other: Self) -> Self:
        return self._combine(other, 1.0, 1.0)

    def add_(self, other: Self) -> None:
        """Add other sums in place."""
        for name, value in self.as_dict().items():
            value += getattr(other, name)

    def blend(self, other: Self, gamma: float) -> Self:
        """(1 - gamma) self + gamma other: the online update of Cappe & Moulines (2009)."""
        return self._combine(other, 1.0 - gamma, gamma)

    def scaled(self, factor: float) -> Self:
        """Every sum multiplied by a factor."""
        return type(self)(**{name: factor * value for name, value in self.as_dict().items()})

    def as_dict(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def particle(self) -> Tensor:
        """What an average particle adds to ``den`` ``[s]``."""
        return self.den.sum((0, 1)) / self.count.sum().clamp(min=1e-20)

    def of_classes(self, rows: slice) -> Self:
        """The sums of some classes, with the power of all particles."""
        num, den, count = (sums[:, rows] for sums in (self.num, self.den, self.count))
        return type(self)(num, den, count, self.power, self.particles)

    def _combine(self, other: Self, a: float, b: float) -> Self:
        mine, theirs = self.as_dict(), other.as_dict()
        return type(self)(**{name: a * mine[name] + b * theirs[name] for name in mine})

    def moved(self, grid: PolarGrid, shift: Tensor) -> Self:
        """Classes shifted by ``shift`` ``[k 2]`` (pixel): the sums follow a re-centred average."""
        rows = shift.any(1).nonzero()[:, 0]
        if not len(rows):
            return self
        num = self.num.clone()
        rings = grid.from_harmonics(num[:, rows]) * shift_phase(grid, shift[rows])
        num[:, rows] = grid.harmonics(rings)
        return type(self)(**{**self.as_dict(), "num": num})

    def turned(self, psi: Tensor) -> Self:
        """Classes rotated by ``psi`` ``[k]`` (radian): the sums follow a turned average."""
        turned = self.num * rotation_phase(psi, self.num.shape[-2])
        return type(self)(**{**self.as_dict(), "num": turned})


def accumulate(
    stats: SufficientStats,
    grid: PolarGrid,
    images: WeightedImages,
    poses: Poses,
    weight: Tensor,
    *,
    chunk: int | None = None,
) -> None:
    """Add particles to the class sums in place.

    Args:
        stats: sums to add to.
        grid: polar grid of the particles.
        images: weighted particles.
        poses: where they go, one row or several for each particle.
        weight: posterior probability of each pose ``[p]``.
        chunk: poses handled at a time, None for what suits the device.
    """
    chunk = chunk or images_at_once(images.image.device)
    for start in range(0, len(weight), chunk):
        part, share = poses[start : start + chunk], weight[start : start + chunk]
        taken = adjoint(grid, images.image[part.particle], part.psi, part.shift)
        add_taken(stats, images, part, share, taken)


def add_taken(
    stats: SufficientStats, images: WeightedImages, poses: Poses, weight: Tensor, taken: Tensor
) -> None:
    """Add particles that were taken into the frames of their classes to the class sums in place.

    Args:
        stats: sums to add to.
        images: weighted particles.
        poses: where they go.
        weight: posterior probability of each pose ``[p]``.
        taken: the particles there, circular harmonics ``[p m s]``.
    """
    row = poses.particle
    alpha = images.scale[row]
    slot = images.half[row] * stats.num.shape[1] + poses.classes
    weighted = torch.view_as_real(taken).flatten(1) * (weight * alpha)[:, None]
    torch.view_as_real(stats.num).flatten(0, 1).flatten(1).index_add_(0, slot, weighted)
    transfer = images.transfer[row] * (weight * alpha**2)[:, None]
    stats.den.flatten(0, 1).index_add_(0, slot, transfer)
    stats.count.flatten().index_add_(0, slot, weight)


def add_residual(
    stats: SufficientStats,
    grid: PolarGrid,
    images: WeightedImages,
    poses: Poses,
    references: Tensor,
    taken: Tensor | None = None,
) -> None:
    """Add the residual power |X - alpha CTF A|^2 of each particle's best pose, in place.

    It is |X|^2 - 2 alpha Re<X, CTF A> + alpha^2 |CTF A|^2, with ring means in the last term.

    Args:
        stats: sums to add to.
        grid: polar grid of the particles.
        images: weighted particles.
        poses: best pose of every particle, in their order.
        references: circular harmonics of the classes ``[k m s]``, with as many rings as were used.
        taken: the particles in the frames of their classes, circular harmonics ``[n m s]``; None
            if they are not known yet.
    """
    if taken is None:
        taken = adjoint(grid, images.image, poses.psi, poses.shift)
    rings, chunk = references.shape[-1], images_at_once(images.image.device)
    part = grid.up_to(rings)
    weight = part.harmonic_weights().to(references.device)[:, None]
    weighted = torch.view_as_real(references * weight).flatten(2)
    own = ring_power(part, references)
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        pose, alpha = poses[rows], images.scale[rows, None]
        product = torch.view_as_real(taken[rows, :, :rings]).flatten(2) * weighted[pose.classes]
        cross = product.sum(1).unflatten(1, (rings, 2)).sum(2)
        fitted = alpha * (2.0 * cross - alpha * images.transfer[rows, :rings] * own[pose.classes])
        power = images.power[rows] / grid.ring_weights.to(fitted)
        power[:, :rings] -= fitted
        stats.power.index_add_(0, images.optics[rows], power / images.precision[rows])
    stats.particles.index_add_(0, images.optics, torch.ones_like(images.scale))
