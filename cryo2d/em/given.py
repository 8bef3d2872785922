"""The E-step without a search: classes at poses that are known already."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.fine import Poses, RefinedPoses
from cryo2d.em.posterior import Posterior
from cryo2d.em.score import PoseScorer
from cryo2d.physics.image import adjoint
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.types import GivenPoses


@dataclass(frozen=True)
class KeepPoses:
    """E-step that finds the class of each particle at its given rotation and shift.

    Attributes:
        poses: of all particles.
        pixel_size: of the working box (Angstrom).
    """

    poses: GivenPoses
    pixel_size: float

    def of(self, images: WeightedImages) -> tuple[Tensor, Tensor]:
        """Rotation ``[n]`` (radian) and shift ``[n 2]`` (pixel) of a batch."""
        row, device = images.index.to(self.poses.psi.device), images.image.device
        psi, shift = self.poses.psi[row], self.poses.shift[row]
        return psi.to(device), shift.to(device) / self.pixel_size

    def __call__(
        self, scorer: PoseScorer, images: WeightedImages, *, log_prior: Tensor, uncertainty: float
    ) -> Posterior:
        """Posterior over classes.

        Args:
            scorer: references of the iteration.
            images: weighted particles.
            log_prior: log weight of each class ``[k]``.
            uncertainty: uncertainty factor f.
        """
        psi, shift = self.of(images)
        grid = scorer.grid.up_to(scorer.rings)
        aligned = adjoint(grid, images.image[:, :, : scorer.rings], psi, shift)
        weight = scorer.band * grid.harmonic_weights().to(psi)[:, None]
        references = torch.view_as_real(scorer.harmonics * weight).flatten(1)
        cross = torch.view_as_real(aligned).flatten(1) @ references.T
        particle, classes = torch.ones_like(cross).nonzero().unbind(1)
        one = torch.ones(len(particle), device=psi.device)
        poses = Poses(particle, classes, psi[particle], shift[particle])
        found = scorer.likelihood(
            images,
            RefinedPoses(poses, cross.flatten(), one, one, torch.zeros_like(one)),
            uncertainty**2 * log_prior[classes],
        )
        return Posterior.of(found, uncertainty=uncertainty)
