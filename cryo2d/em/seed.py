"""First references."""

import math

import torch
from torch import Tensor

from cryo2d.em.fine import Poses
from cryo2d.em.solve import images_of, least_squares
from cryo2d.em.stats import SufficientStats, accumulate
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.physics.solvent import SolventMask


def random_subsets(
    num_particles: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random class and rotation for each of some particles: ``[n]`` int64 and ``[n]`` radian."""
    order = torch.randperm(num_particles, generator=generator)
    psi = torch.rand(num_particles, generator=generator) * (2.0 * math.pi)
    return order % num_classes, psi


def add_to_classes(
    stats: SufficientStats,
    grid: PolarGrid,
    images: WeightedImages,
    classes: Tensor,
    psi: Tensor,
    shift: Tensor | None = None,
) -> None:
    """Add particles to given classes, in place.

    Args:
        stats: sums to add to.
        grid: polar grid of the particles.
        images: weighted particles.
        classes: of each ``[n]``.
        psi: rotations ``[n]`` (radian).
        shift: shifts ``[n 2]`` (pixel), None for 0.
    """
    device = images.image.device
    if shift is None:
        shift = torch.zeros((len(images), 2), device=device)
    row = torch.arange(len(images), device=device)
    poses = Poses(row, classes.to(device), psi.to(device), shift)
    accumulate(stats, grid, images, poses, torch.ones(len(images), device=device))


def low_passed_averages(
    stats: SufficientStats,
    grid: PolarGrid,
    solvent: SolventMask,
    *,
    rings: float,
    scale: float = 1.0,
) -> Tensor:
    """Averages ``[k y x]`` of the statistics with a Gaussian low-pass at ``rings`` cycles per box.

    Args:
        stats: sums over particles.
        grid: polar grid of the statistics.
        solvent: masks and solvent level.
        rings: the filter falls to 1/2 there.
        scale: contrast of the result.
    """
    device = stats.den.device
    falloff = torch.exp(-math.log(2.0) * (grid.radii.to(device) / rings) ** 2)
    average = least_squares(grid, stats.num.sum(0), stats.den.sum(0))
    images = images_of(grid, average * falloff)
    return scale * solvent.flatten(images, solvent.circle.to(device).expand_as(images))
