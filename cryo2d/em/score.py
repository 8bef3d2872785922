"""Log likelihood of poses: the dense search, then the local search of the best classes.

For a particle with polar samples X, contrast scale alpha and noise power sigma^2, and a class
average A in the particle's frame,

    log p = alpha Re<CTF X / sigma^2, A> - alpha^2/2 |CTF A / sigma|^2 + const.

CTF and noise are put onto the image once, so that the first term is a plain inner product with a
reference that knows no CTF. The second uses ring means: it does not depend on the shift, and on the
rotation only through astigmatism.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryo2d.em.centring import reach
from cryo2d.em.coarse import CoarseBank, ImageParts
from cryo2d.em.fine import FineBank, LocalGrid, Poses, RefinedPoses
from cryo2d.em.logs import NOTHING
from cryo2d.em.search import PoseSearch
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import ring_power
from cryo2d.geometry.transform import rotate_vector
from cryo2d.physics.preprocess import WeightedImages

_LEAST = 1e-3  # contrast scales below this are no contrast


@dataclass(frozen=True)
class Candidates:
    """Poses worth a posterior, one row each; unlisted classes have no weight.

    Attributes:
        poses: refined poses.
        loglik: log likelihood gain over an empty image ``[p]``.
        evidence: that of the class, all its poses summed over ``[p]``.
        cross_cor: 2 Re<CTF X / sigma^2, A> ``[p]``.
        slice_pow: |CTF A / sigma|^2 ``[p]``.
        pose_ess: effective number of rotations ``[p]``.
        shift_ess: effective number of shifts ``[p]``.
        num_particles: particles of the batch.
    """

    poses: Poses
    loglik: Tensor
    evidence: Tensor
    cross_cor: Tensor
    slice_pow: Tensor
    pose_ess: Tensor
    shift_ess: Tensor
    num_particles: int

    def take(self, rows: Tensor) -> "Candidates":
        """Some of the rows."""
        return Candidates(
            poses=self.poses[rows],
            loglik=self.loglik[rows],
            evidence=self.evidence[rows],
            cross_cor=self.cross_cor[rows],
            slice_pow=self.slice_pow[rows],
            pose_ess=self.pose_ess[rows],
            shift_ess=self.shift_ess[rows],
            num_particles=self.num_particles,
        )


class PoseScorer:
    """The references of one iteration, ready to be compared with particles.

    Args:
        references: class averages ``[k y x]``, masked.
        grid: polar grid of the particles, all rings.
        search: pose grids.
        rings: rings in use, the finest alignment resolution.
        first_ring: rings below this are not aligned on (the high-pass).
        jitter: offset of the rotation grid in coarse steps, within half a step.
        pull: log prior of shifts, by which one of t pixels loses ``pull t^2`` (scalar); None for a
            flat one.
    """

    def __init__(
        self,
        references: Tensor,
        grid: PolarGrid,
        search: PoseSearch,
        *,
        rings: int,
        first_ring: int = 0,
        jitter: float = 0.0,
        pull: Tensor | None = None,
    ) -> None:
        device = references.device
        self.pull = torch.zeros((), device=device) if pull is None else pull
        search = replace(search, max_shift=min(search.max_shift, reach(self.pull)))
        self.grid, self.search, self.rings = grid, search, rings
        coarse = search.rings(rings)
        coarse_grid = PolarGrid(grid.box, coarse, padding=grid.padding)
        band = (torch.arange(grid.num_rings) >= first_ring).float()
        num_rotations = search.num_rotations(coarse)
        rotation_step = 2.0 * torch.pi / num_rotations
        fine_grid = grid.up_to(rings)
        self.harmonics = fine_grid.harmonics(fine_grid.sample(references))  # [k m s]
        self.coarse = CoarseBank(
            self.harmonics[:, : coarse_grid.num_angles, :coarse],
            coarse_grid,
            band=band[:coarse],
            shifts=search.shifts(coarse),
            num_rotations=num_rotations,
            offset=jitter * rotation_step,
            extent=search.extent,
        )
        thin_grid = grid.thinned(rings)
        self.fine = FineBank(
            self.harmonics[:, : thin_grid.num_angles],
            thin_grid,
            band=band[:rings],
            local=LocalGrid.covering(
                rotation_step, search.shift_step(coarse), search.fine_steps, thin_grid, device
            ),
        )
        self.band = (fine_grid.ring_weights * band[:rings]).to(device)
        self.power = ring_power(fine_grid, self.harmonics) * self.band  # [k s]

    @property
    def log_choices(self) -> float:
        """Logarithm of the number of classes and poses that the dense search compares."""
        bank = self.coarse
        return math.log(bank.num_classes * bank.num_shifts * len(bank.psi))

    def coarse_parts(self, images: WeightedImages) -> ImageParts:
        """Particles as the dense search takes them."""
        low = images.image[:, :, : self.coarse.grid.num_rings]
        return self.coarse.parts(self.grid.harmonics(low))

    def fine_samples(self, images: WeightedImages) -> Tensor:
        """Particles as the local search takes them ``[n a s]``."""
        every = self.grid.num_angles // self.fine.grid.num_angles
        return images.image[:, ::every, : self.rings].contiguous()

    def coarse_norm(self, images: WeightedImages) -> Tensor:
        """alpha^2 / 2 |CTF A / sigma|^2 ``[n k]`` over the rings of the dense search."""
        rings = self.coarse.grid.num_rings
        norm = images.transfer[:, :rings] @ self.power[:, :rings].T
        return 0.5 * images.scale[:, None] ** 2 * norm

    def image_shift(self, index: Tensor, psi: Tensor) -> Tensor:
        """Shifts of the dense search, by their index, in the frame of the image ``[... 2]``."""
        return rotate_vector(self.coarse.shifts[index], -psi)

    def log_shift(self, poses: Poses) -> Tensor:
        """Log prior of the shifts of poses ``[p]``."""
        return -self.pull * poses.shift.square().sum(1)

    def pull_on(self, scale: Tensor) -> Tensor:
        """What a shift by one pixel costs in the scores of particles of such contrast scales."""
        return self.pull / scale.clamp(min=_LEAST)

    def candidates(
        self, images: WeightedImages, *, log_prior: Tensor, uncertainty: float
    ) -> Candidates:
        """Score particles against every class and refine the best.

        Of each class the best coarse pose is refined; the others count in its evidence with what
        the dense search finds of them.

        Args:
            images: weighted particles.
            log_prior: log weight of each class ``[k]``.
            uncertainty: uncertainty factor f of the posterior ``exp(-chi2 / (2 f^2))``.
        """
        temperature = uncertainty**2
        pull = temperature * self.pull_on(images.scale)
        best = self.coarse.best(self.coarse_parts(images), pull, images.scale)
        coarse = images.scale[:, None] * best.cross - self.coarse_norm(images)
        coarse = coarse + temperature * log_prior
        count = min(self.search.num_candidates(uncertainty), coarse.shape[1])
        value, classes = (coarse + best.breadth).topk(count, dim=1)
        near = value >= value[:, :1] - self.search.behind(temperature)
        row = torch.arange(len(images), device=classes.device)
        particle = row[:, None].expand_as(classes)
        order = classes[near].argsort(stable=True)
        particle, classes = particle[near][order], classes[near][order]
        psi = best.between[particle, classes]
        shift = self.image_shift(best.shift[particle, classes], psi)
        found = self.fine.refine(
            self.fine_samples(images),
            Poses(particle, classes, psi, shift),
            images.scale,
            temperature=temperature,
            pull=pull,
        )
        prior = log_prior[found.poses.classes] + self.log_shift(found.poses)
        refined = self.likelihood(images, found, temperature * prior)
        others = best.breadth[particle, classes].expm1().clamp(min=NOTHING).log()
        others = coarse[particle, classes] + others
        return replace(refined, evidence=torch.logaddexp(refined.evidence, others))

    def slice_power(self, images: WeightedImages, poses: Poses) -> Tensor:
        """|CTF A / sigma|^2 of poses ``[p]``, which does not depend on the pose."""
        return (images.transfer[poses.particle, : self.rings] * self.power[poses.classes]).sum(1)

    def likelihood(
        self, images: WeightedImages, found: RefinedPoses, log_prior: Tensor
    ) -> Candidates:
        """Log likelihood of refined poses, with their log prior ``[p]``.

        The evidence is that of their local grids alone.
        """
        slice_pow = self.slice_power(images, found.poses)
        alpha = images.scale[found.poses.particle]
        loglik = alpha * found.cross - 0.5 * alpha**2 * slice_pow + log_prior
        return Candidates(
            poses=found.poses,
            loglik=loglik,
            evidence=loglik + found.breadth,
            cross_cor=2.0 * found.cross,
            slice_pow=slice_pow,
            pose_ess=found.pose_ess,
            shift_ess=found.shift_ess,
            num_particles=len(images),
        )
