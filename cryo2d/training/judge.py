"""How sure the class of a particle is: the class posterior that is told in the end.

Averages hold the noise of their own members, and the best of many poses fits noise, too: the
posterior of the E-step is too sure. A particle is judged by averages of the other half-set, with
poses summed over. Classes that show the same view count as one: which of them a particle goes to is
chance.

That takes longer than finding its class, so that of many particles a sample is judged, the more of
those whose class is not sure. First the contrast of every average in the eyes of the sample is
found, by maximum likelihood: noise that was aligned adds to those of weak views. Then the rising
curve that is nearest to the judged posteriors over those of the E-step says what is told of all
(isotonic regression; Zadrozny & Elkan 2002, Proc. 8th ACM SIGKDD, 694-699).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from cryo2d.em.likeness import Alike, Likeness
from cryo2d.em.marginal import Marginalise
from cryo2d.em.online import OnlineEM
from cryo2d.em.score import PoseScorer
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.types import Assignments

SAMPLE = 2000  # particles that tell how far the posteriors of all can be believed
CONTRASTS = (0.6, 1.0, 1.2)  # of the averages, at which the sample sees them
SURE, MORE = 0.9999, 4  # so many times as many are judged of those that are less sure
SAME = 0.0  # log odds, beyond what noise may add, of a class against another of the same view
_ENOUGH = 20  # of the sample, below which nothing is fitted
_STEPS = 100  # of the EM of the contrasts
_USUAL = 5.0  # particles that a contrast of 1 is worth beforehand


@dataclass(frozen=True)
class Judge:
    """Class posteriors by averages of the other half-set.

    Attributes:
        expectation: sums over the poses.
        sample: so many particles are judged, and more of those that are not sure, by which all are
            calibrated; None to judge each particle and to tell that.
    """

    expectation: Marginalise
    sample: int | None = None

    def begin(self, optimizer: OnlineEM, max_shift: float, total: int) -> "Judgement | None":
        """What is judged by in an iteration; None before there are averages of the half-sets.

        Args:
            optimizer: has the averages.
            max_shift: longest shift between two views that are the same (pixel).
            total: particles of the run.
        """
        stats = optimizer.stats
        if stats is None or optimizer.halves is None:
            return None
        compare = Likeness(optimizer.variety_grid.num_rings, max_shift)
        same = same_view(compare(stats, optimizer.solver, SAME), stats.count.shape[1])
        every = -(-total // self.sample) if self.sample else 1
        size = (-(-total // every), min(every, MORE)) if self.sample else (0, 0)
        seen = same.new_zeros((*size, len(same), len(CONTRASTS)))
        return Judgement(self.expectation, same, every, seen)


@dataclass
class Judgement:
    """The judgement of one iteration.

    Attributes:
        expectation: sums over the poses.
        same: whether two classes show the same view ``[k k]``, 0 or 1.
        every: particles of the run for one of the sample: the first of so many is judged, and if
            it is not sure, up to three more.
        seen: log evidence of every class at the :data:`CONTRASTS` for those particles of the
            sample ``[b j k c]``, 0 for those that were not judged; no rows if each particle is.
    """

    expectation: Marginalise
    same: Tensor
    every: int
    seen: Tensor

    def __call__(
        self, found: Assignments, images: WeightedImages, other: PoseScorer
    ) -> Assignments:
        """What was found, with the posteriors that can be told now.

        Args:
            found: assignments of a batch.
            images: the particles.
            other: averages of the other half-set.
        """
        if len(self.seen):
            most = torch.where(found.class_posterior < SURE, self.seen.shape[1], 1)
            rows = (images.index % self.every < most).nonzero()[:, 0]
            if len(rows):
                few = images[rows]
                looks = self.expectation.evidences(other, few, CONTRASTS)
                self.seen[few.index // self.every, few.index % self.every] = looks
            return found
        classes = self.expectation.evidences(other, images, (1.0,))[..., 0].softmax(1)
        own = (classes * self.same[found.class_index]).sum(1)
        return replace(found, class_posterior=own, class_ess=1.0 / classes.square().sum(1))

    def told(self, found: Mapping[str, Tensor]) -> Tensor:
        """The posteriors that are told in the end ``[n]``.

        Args:
            found: columns of the assignments of all particles.
        """
        posterior, classes = found["class_posterior"], found["class_index"]
        judged = torch.full_like(posterior, torch.nan)
        weight = torch.where(posterior < SURE, 1.0 / max(1, self.seen.shape[1]), 1.0)
        block, place = self.seen.abs().sum((2, 3)).nonzero(as_tuple=True)
        if len(block):
            of, seen = block * self.every + place, self.seen[block, place]
            sure = at_contrast(seen, contrasts(seen, weight[of])).softmax(1)
            judged[of] = (sure * self.same[classes[of]]).sum(1)
        return calibrated(posterior, judged, weight)


def same_view(alike: Alike, num_classes: int) -> Tensor:
    """Whether particles cannot tell two classes apart ``[k k]``, 0 or 1."""
    same = torch.eye(num_classes, device=alike.odds.device)
    same[alike.first, alike.second] = same[alike.second, alike.first] = 1.0
    return same


def at_contrast(seen: Tensor, contrast: Tensor) -> Tensor:
    """Log evidence ``[s k]`` with every average at a contrast ``[k]`` of its own.

    The parabola through what is known at the :data:`CONTRASTS` ``[s k c]``.
    """
    return (seen @ _parabola(seen) * torch.stack((contrast**2, contrast, contrast**0), -1)).sum(-1)


def contrasts(seen: Tensor, weight: Tensor) -> Tensor:
    """Contrast of the averages in the eyes of particles that are not in them ``[k]``.

    The maximum of the evidence, by EM over the classes of the particles; between the first and the
    last of the :data:`CONTRASTS`.

    Args:
        seen: log evidence at the :data:`CONTRASTS` ``[s k c]``.
        weight: particles that each stands for ``[s]``.
    """
    square, line = (seen @ _parabola(seen)).unbind(-1)[:2]
    contrast = seen.new_ones(seen.shape[1])
    for _ in range(_STEPS):
        member = at_contrast(seen, contrast).softmax(1) * weight[:, None]
        curve, slope = (member * square).sum(0), (member * line).sum(0)
        usual = _USUAL * (curve.abs().sum() / weight.sum()).clamp(min=1e-6)
        # the most of curve c^2 + slope c - usual (c - 1)^2
        best = 0.5 * (slope + 2.0 * usual) / (usual - curve).clamp(min=1e-6)
        contrast = best.clamp(CONTRASTS[0], CONTRASTS[-1])
    return contrast


def _parabola(like: Tensor) -> Tensor:
    """Takes values at the :data:`CONTRASTS` to the factors of c^2, c and 1 ``[c 3]``."""
    powers = torch.tensor([[c * c, c, 1.0] for c in CONTRASTS], dtype=torch.float64)
    return torch.linalg.inv(powers).T.to(like)


def calibrated(posterior: Tensor, judged: Tensor, weight: Tensor) -> Tensor:
    """Posteriors ``[n]`` as far as a judged sample lets them be believed.

    Args:
        posterior: of the E-step ``[n]``; NaN stays NaN.
        judged: of the sample, NaN for the others ``[n]``.
        weight: particles that each of the sample stands for ``[n]``.

    Returns:
        A function of the posteriors that never falls ``[n]``, from the middle of a pool of the
        regression to that of the next; the posteriors themselves if too few were judged.
    """
    known = ~judged.isnan() & ~posterior.isnan()
    if int(known.sum()) < _ENOUGH:
        return posterior
    columns = (posterior, judged, weight)
    stated, truth, share = (column[known].double().cpu().numpy() for column in columns)
    value, row = np.unique(stated, return_inverse=True)
    count = np.bincount(row, weights=share)
    pools = isotonic_regression(np.bincount(row, weights=share * truth) / count, weights=count)
    first = pools.blocks[:-1]
    # by rank, so that as many gain as lose by the straight lines
    rank = count.cumsum() - 0.5 * count
    middle = np.add.reduceat(count * rank, first) / pools.weights
    place = np.interp(posterior.double().cpu().numpy(), value, rank)
    told = torch.from_numpy(np.interp(place, middle, pools.x[first])).to(posterior)
    return torch.where(posterior.isnan(), posterior, told)
