"""From log likelihoods to class posteriors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.score import Candidates
from cryo2d.types import Assignments


def segment_softmax(logs: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Softmax of ``[p]`` values within the segments they belong to."""
    top = torch.full((num_segments,), -torch.inf, device=logs.device)
    top = top.scatter_reduce(0, segment, logs, "amax", include_self=True)
    raised = torch.exp(logs - top[segment])
    total = torch.zeros(num_segments, device=logs.device).index_add_(0, segment, raised)
    return raised / total[segment]


@dataclass(frozen=True)
class Posterior:
    """Class posterior of the particles of a batch.

    Attributes:
        candidates: poses it is defined on.
        weight: posterior probability of each candidate ``[p]``; sums to 1 for each particle.
        best: row of the most probable candidate of each particle ``[n]``.
    """

    candidates: Candidates
    weight: Tensor
    best: Tensor

    @classmethod
    def of(cls, candidates: Candidates, *, uncertainty: float) -> "Posterior":
        """p ~ exp(loglik / f^2) = exp(-chi2 / (2 f^2)), over classes; poses are maximised."""
        particle = candidates.poses.particle
        num = candidates.num_particles
        weight = segment_softmax(candidates.loglik / uncertainty**2, particle, num)
        top = torch.zeros(num, device=weight.device).scatter_reduce(0, particle, weight, "amax")
        row = torch.arange(len(weight), device=weight.device)
        last = len(weight)
        at_top = torch.where(weight == top[particle], row, last)
        best = torch.full((num,), last, device=weight.device)
        return cls(candidates, weight, best.scatter_reduce(0, particle, at_top, "amin"))

    def hard(self) -> "Posterior":
        """All weight on the best candidate."""
        weight = torch.zeros_like(self.weight)
        weight[self.best] = 1.0
        return Posterior(self.candidates, weight, self.best)

    def class_ess(self) -> Tensor:
        """Effective number of classes of each particle ``[n]``, 1 / sum p^2."""
        particle = self.candidates.poses.particle
        square = torch.zeros(self.candidates.num_particles, device=self.weight.device)
        return 1.0 / square.index_add_(0, particle, self.weight**2)

    def assignments(self, image_pow: Tensor, scale: Tensor, pixel_size: float) -> Assignments:
        """The best class and pose of each particle.

        Args:
            image_pow: sum |X|^2 / sigma^2 ``[n]``.
            scale: contrast scale used ``[n]``.
            pixel_size: of the working box (Angstrom).
        """
        found, best = self.candidates, self.best
        cross_cor, slice_pow = found.cross_cor[best], found.slice_pow[best]
        return Assignments(
            class_index=found.poses.classes[best],
            psi=found.poses.psi[best],
            shift=found.poses.shift[best] * pixel_size,
            class_posterior=self.weight[best],
            class_ess=self.class_ess(),
            pose_ess=found.pose_ess[best],
            shift_ess=found.shift_ess[best],
            image_pow=image_pow,
            cross_cor=cross_cor,
            slice_pow=slice_pow,
            alpha=scale,
            alpha_min=0.5 * cross_cor / slice_pow.clamp(min=1e-20),
        )
