"""From settings to the objects of a classification."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cryo2d.em.faint import Faint
from cryo2d.em.posterior import Expectation
from cryo2d.em.search import PoseSearch
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.preprocess import Transfer
from cryo2d.physics.solvent import SolventMask
from cryo2d.training.judge import Judge

CORNER_INNER, CORNER_OUTER = 0.85, 0.97  # default mask, as parts of the half box
FIRST_DETAIL = 1.0 / 5.5  # wavelength at which the alignment starts, as a part of the extent


@dataclass(frozen=True)
class Frame:
    """Sizes of a classification: working box, mask and the rings of every limit.

    Args:
        box: working box (pixel).
        pixel_size: of the working box (Angstrom).
        max_resolution: finest resolution of the averages (Angstrom).
        max_align_resolution: finest resolution of the alignment (Angstrom), None for the same.
        min_align_resolution: coarsest resolution of the alignment (Angstrom), None for all.
        mask_diameter: where the references' mask starts to fall (Angstrom), None for the corners.
        mask_diameter_outer: where it reaches 0 (Angstrom), None for 1.2 times the inner one.
        max_shift: largest shift (Angstrom), None for a tenth of the box.
        padding: Fourier padding.
        remove_neighbours: whether the masks leave out neighbouring particles.
    """

    box: int
    pixel_size: float
    max_resolution: float
    max_align_resolution: float | None = None
    min_align_resolution: float | None = None
    mask_diameter: float | None = None
    mask_diameter_outer: float | None = None
    max_shift: float | None = None
    padding: float = 2.0
    remove_neighbours: bool = True

    @property
    def length(self) -> float:
        """Side of the box (Angstrom)."""
        return self.box * self.pixel_size

    def ring(self, resolution: float) -> int:
        """Rings up to a resolution (Angstrom), at least 1 and at most half the box."""
        return max(1, min(self.box // 2, math.floor(self.length / resolution + 1e-6)))

    @property
    def grid(self) -> PolarGrid:
        """Polar grid of particles and statistics."""
        return PolarGrid(self.box, self.ring(self.max_resolution), padding=self.padding)

    @property
    def mask_radii(self) -> tuple[float, float]:
        """Inner and outer radius of the mask (pixel)."""
        half = self.box / 2
        if self.mask_diameter is None:
            return CORNER_INNER * half, CORNER_OUTER * half
        outer = self.mask_diameter_outer or 1.2 * self.mask_diameter
        scale = 0.5 / self.pixel_size
        return min(self.mask_diameter * scale, half - 1.0), min(outer * scale, half)

    @property
    def solvent(self) -> SolventMask:
        """Masks of the references."""
        inner, outer = self.mask_radii
        return SolventMask(self.box, inner, outer, neighbours=self.remove_neighbours)

    @property
    def search(self) -> PoseSearch:
        """Pose grids."""
        shift = 0.1 * self.box if self.max_shift is None else self.max_shift / self.pixel_size
        return PoseSearch(extent=2.0 * self.mask_radii[1], box=self.box, max_shift=shift)

    @property
    def align_rings(self) -> int:
        """Finest ring of the alignment."""
        rings = self.grid.num_rings
        return (
            min(rings, self.ring(self.max_align_resolution)) if self.max_align_resolution else rings
        )

    @property
    def first_ring(self) -> int:
        """Rings below this one are not aligned on."""
        if self.min_align_resolution is None:
            return 0
        return max(0, math.ceil(self.length / self.min_align_resolution - 1e-6) - 1)

    @property
    def first_rings(self) -> int:
        """Rings at which the resolution ramp starts."""
        extent = self.search.extent
        return max(self.first_ring + 3, round(self.box / (FIRST_DETAIL * extent)))


@dataclass(frozen=True)
class EmSettings:
    """What the E-step of an iteration depends on, apart from the model.

    Attributes:
        uncertainty: iteration -> uncertainty factor.
        rings: iteration -> rings of the alignment.
        first_ring: rings below are not aligned on.
        step_size: iteration -> step size of the online update.
        transfer: transfer function.
        expectation: how poses enter the posterior.
        faint: decides that anew once it is known what particles gain; None if it stays.
        scale_per_particle: whether contrast scales are estimated from the second iteration on.
        hard_last: whether the last iteration puts each particle into its best class alone.
        gather_junk: whether passes over all particles put outliers into the class that has most.
        independent: share of the Fourier samples that are independent.
        parting: iteration from which each half-set is aligned to its own averages.
        centring: iteration from which shifts have a prior.
        judge: how far class posteriors can be believed in the end, by averages of the other
            half-set; None for those of the assignment itself.
        perturb_poses: whether the grid of coarse rotations is offset at random.
        seed: of the random grid offsets.
    """

    uncertainty: Callable[[int], float]
    rings: Callable[[int], int]
    first_ring: int
    step_size: Callable[[int], float]
    transfer: Transfer
    expectation: Expectation
    scale_per_particle: bool
    hard_last: bool
    gather_junk: bool
    independent: float
    parting: int
    centring: int
    perturb_poses: bool
    seed: int
    judge: Judge | None = None
    faint: Faint | None = None

    def decided(self, faint: bool | None) -> Expectation:
        """How poses enter the posterior; ``faint`` is None before the particles have decided."""
        if self.faint is None or faint is None:
            return self.expectation
        return self.faint.faint if faint else self.faint.clear
