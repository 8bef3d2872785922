"""From log likelihoods to class posteriors: the E-step."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cryo2d.em.fine import Poses
from cryo2d.em.logs import segment_argmax, segment_softmax
from cryo2d.em.score import Candidates, PoseScorer
from cryo2d.em.stats import SufficientStats, accumulate, add_taken
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.types import Assignments

_LEAST = 0.02  # posterior weights below this are not worth their part of the sums


class PosePosterior(Protocol):
    """Posterior of a batch over classes and poses."""

    def add_to(
        self,
        stats: SufficientStats,
        grid: PolarGrid,
        images: WeightedImages,
        taken: Tensor | None = None,
    ) -> None:
        """Add the particles to the class sums in place, by their weights.

        Args:
            stats: sums to add to.
            grid: polar grid of the particles.
            images: weighted particles.
            taken: the particles at the best poses of :meth:`peak`, circular harmonics
                ``[n m s]``; None if they are not known yet.
        """
        ...

    def hard(self) -> "Posterior":
        """All weight on the likeliest pose of the best class."""
        ...

    def peak(self) -> "Posterior":
        """The class posterior on one pose of each class."""
        ...

    def moved(self, apart: Tensor, k: int) -> "PosePosterior":
        """Some particles ``[n]`` (bool) wholly in one class, at their best poses."""
        ...


class Expectation(Protocol):
    """The E-step: particles and references -> posterior ``exp(-chi2 / (2 f^2))``."""

    def __call__(
        self, scorer: PoseScorer, images: WeightedImages, *, log_prior: Tensor, uncertainty: float
    ) -> PosePosterior:
        """Posterior of a batch.

        Args:
            scorer: references of the iteration.
            images: weighted particles.
            log_prior: log weight of each class ``[k]``.
            uncertainty: uncertainty factor f.
        """
        ...


def maximise(
    scorer: PoseScorer, images: WeightedImages, *, log_prior: Tensor, uncertainty: float
) -> "Posterior":
    """E-step whose classes are told by all poses, on the best of each: an :class:`Expectation`."""
    found = scorer.candidates(images, log_prior=log_prior, uncertainty=uncertainty)
    return Posterior.of(found, uncertainty=uncertainty)


@dataclass(frozen=True)
class Posterior:
    """Class posterior of the particles of a batch, one pose for each class.

    Attributes:
        candidates: poses it is defined on.
        weight: posterior probability of each candidate ``[p]``.
        best: row of the most probable candidate of each particle ``[n]``.
        sure: posterior probability of its class ``[n]``.
        class_ess: effective number of classes of each particle ``[n]``, 1 / sum p^2.
    """

    candidates: Candidates
    weight: Tensor
    best: Tensor
    sure: Tensor
    class_ess: Tensor

    @classmethod
    def of(cls, candidates: Candidates, *, uncertainty: float) -> "Posterior":
        """p ~ exp(evidence / f^2), over classes, on the best pose of each.

        Poses that are not told apart speak for their class together. Where there is one,
        p ~ exp(-chi2 / (2 f^2)).
        """
        particle, num = candidates.poses.particle, candidates.num_particles
        logs = candidates.evidence / uncertainty**2
        weight = segment_softmax(logs, particle, num)
        square = torch.zeros(num, device=weight.device).index_add_(0, particle, weight**2)
        return cls.weighted(candidates, weight, 1.0 / square)

    @classmethod
    def weighted(cls, candidates: Candidates, weight: Tensor, class_ess: Tensor) -> "Posterior":
        """Candidates with given probabilities."""
        best = segment_argmax(weight, candidates.poses.particle, candidates.num_particles)
        return cls(candidates, weight, best, weight[best], class_ess)

    def peak(self) -> "Posterior":
        """This posterior itself: each class has one pose already."""
        return self

    def hard(self) -> "Posterior":
        """All weight on the best candidate."""
        weight = torch.zeros_like(self.weight)
        weight[self.best] = 1.0
        one = torch.ones_like(self.sure)
        return Posterior(self.candidates, weight, self.best, one, one)

    def moved(self, apart: Tensor, k: int) -> "Posterior":
        """Some particles ``[n]`` (bool) wholly in one class, at their best poses.

        Their posterior stays what it is: that of the class they are put in.
        """
        poses = self.candidates.poses
        there = self.weight * (poses.classes == k)
        sure = torch.zeros_like(self.sure).index_add_(0, poses.particle, there)
        mine = apart[poses.particle]
        top = torch.zeros_like(mine)
        top[self.best] = True
        classes = torch.where(mine & top, k, poses.classes)
        weight = torch.where(mine, top.to(self.weight), self.weight)
        return Posterior(
            replace(self.candidates, poses=replace(poses, classes=classes)),
            weight,
            self.best,
            torch.where(apart, sure, self.sure),
            self.class_ess,
        )

    @property
    def gain(self) -> Tensor:
        """Log likelihood of the best candidate over an empty image ``[n]``."""
        return self.candidates.loglik[self.best]

    @property
    def best_poses(self) -> Poses:
        """The most probable pose of each particle."""
        return self.candidates.poses[self.best]

    def add_to(
        self,
        stats: SufficientStats,
        grid: PolarGrid,
        images: WeightedImages,
        taken: Tensor | None = None,
        *,
        least: float = _LEAST,
    ) -> None:
        """Add the particles to the class sums in place.

        Args:
            stats: sums to add to.
            grid: polar grid of the particles.
            images: weighted particles.
            taken: the particles at their best poses, circular harmonics ``[n m s]``; None if they
                are not known yet.
            least: weights below this are dropped and the others renormalised.
        """
        particle = self.candidates.poses.particle
        kept = torch.where(self.weight >= least, self.weight, 0.0)
        total = torch.zeros(len(images), device=kept.device).index_add_(0, particle, kept)
        kept = kept / total[particle].clamp(min=1e-20)
        if taken is not None:
            add_taken(stats, images, self.best_poses, kept[self.best], taken)
            kept = kept.index_fill(0, self.best, 0.0)
        rows = kept.nonzero()[:, 0]
        accumulate(stats, grid, images, self.candidates.poses[rows], kept[rows])

    def assignments(
        self, image_pow: Tensor, scale: Tensor, pixel_size: float, outlier: Tensor | None = None
    ) -> Assignments:
        """The best class and pose of each particle.

        Args:
            image_pow: sum |X|^2 / sigma^2 ``[n]``.
            scale: contrast scale used ``[n]``.
            pixel_size: of the working box (Angstrom).
            outlier: outlier measure ``[n]``, 0 if it was not taken.
        """
        found, best = self.candidates, self.best
        cross_cor, slice_pow = found.cross_cor[best], found.slice_pow[best]
        return Assignments(
            class_index=found.poses.classes[best],
            psi=found.poses.psi[best],
            shift=found.poses.shift[best] * pixel_size,
            class_posterior=self.sure,
            class_ess=self.class_ess,
            pose_ess=found.pose_ess[best],
            shift_ess=found.shift_ess[best],
            image_pow=image_pow,
            cross_cor=cross_cor,
            slice_pow=slice_pow,
            alpha=scale,
            alpha_min=0.5 * cross_cor / slice_pow.clamp(min=1e-20),
            outlier=torch.zeros_like(scale) if outlier is None else outlier,
        )
