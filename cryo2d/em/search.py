"""Which poses the E-step tries: a coarse grid over everything, a fine grid round the best."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cryo2d.geometry.polar import even_size

FADED = 4.0  # log posterior below the best at which a class has hardly a weight


def shift_disc(radius: float, step: float) -> Tensor:
    """Hexagonal shifts inside a disc ``[t 2]``, the centre first; same unit as the arguments."""
    rows = math.ceil(radius / (step * math.sqrt(0.75))) + 1
    row = torch.arange(-rows, rows + 1, dtype=torch.float64)
    y, x = torch.meshgrid(row, row, indexing="ij")
    points = torch.stack((step * (x + 0.5 * y), step * math.sqrt(0.75) * y), dim=-1).reshape(-1, 2)
    length = points.norm(dim=1)
    points = points[length <= radius + 1e-6]
    return points[points.norm(dim=1).argsort(stable=True)].float()


@dataclass(frozen=True)
class PoseSearch:
    """Pose grids that follow from the particle's extent and the resolution.

    The coarse search correlates rings up to ``coarse_rings`` at every rotation and every shift of a
    disc. Its steps keep the displacement at the particle's rim below a fixed part of the finest
    wavelength. The best ``candidates`` classes of each particle are then searched again with all
    rings on a grid of ``fine_steps`` finer steps.

    Args:
        extent: diameter of the region that references may fill (pixel).
        box: box size (pixel).
        max_shift: largest shift searched (pixel).
        coarse_detail: finest wavelength of the coarse search, as a part of the extent.
        candidates: classes re-scored per particle, at most, for uncertainty factors up to 2.
        margin: how much more log likelihood the second search may find for one class than for
            another; those that need more to have a weight are not re-scored.
        fine_steps: fine steps per coarse step.
    """

    extent: float
    box: int
    max_shift: float
    coarse_detail: float = 1.0 / 12.0
    candidates: int = 8
    margin: float = 8.0
    fine_steps: int = 4

    def num_candidates(self, uncertainty: float) -> int:
        """Classes re-scored per particle: more of them once the uncertainty factor admits more."""
        return round(self.candidates * max(1.0, uncertainty / 2.0))

    def behind(self, temperature: float) -> float:
        """Coarse log likelihood below the best at which classes are not re-scored any more.

        Args:
            temperature: squared uncertainty factor.
        """
        return self.margin + FADED * temperature

    @cached_property
    def coarse_rings(self) -> int:
        """Rings of the coarse search: wavelength not below coarse_detail * extent."""
        rings = round(self.box / (self.coarse_detail * self.extent))
        return max(3, min(rings, self.box // 2))

    def rings(self, available: int) -> int:
        """Coarse rings when the resolution band ends at ``available`` rings."""
        return min(self.coarse_rings, available)

    def num_rotations(self, rings: int) -> int:
        """Rotations of the coarse search, a multiple of 4: two samples per angular period."""
        return even_size(2.0 * math.pi * rings * self.extent / self.box, 4)

    def shift_step(self, rings: int) -> float:
        """Coarse shift step (pixel): a third of the finest wavelength, at least one pixel."""
        return max(1.0, self.box / (3.0 * rings))

    def shifts(self, rings: int) -> Tensor:
        """Coarse shifts in the class frame ``[t 2]`` (pixel)."""
        return shift_disc(self.max_shift, self.shift_step(rings))
