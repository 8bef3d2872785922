"""How sure the class of a particle is: the class posterior that is told in the end.

Averages hold the noise of their own members, and the best of many poses fits noise, too: the
posterior of the E-step is too sure. A particle is judged by averages of the other half-set, with
poses summed over. Classes that show the same view count as one: which of them a particle goes to is
chance. That takes longer than finding its class, so that of many particles a sample is judged, and
what is said of all follows from it: with p the posterior of the E-step and q the judged one,

    logit q ~ a + b logit p,

fitted by the cross entropy (Platt 1999, Advances in Large Margin Classifiers, 61-74).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cryo2d.em.marginal import Marginalise
from cryo2d.em.score import PoseScorer
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.training.superclasses import Grouping
from cryo2d.types import Assignments

SAMPLE = 1000  # particles that tell how far the posteriors of all can be believed
_ENOUGH = 20  # of them, below which nothing is fitted
_CERTAIN = 1e-6  # of p and 1 - p that float32 still tells from 0
_STEPS = 100  # of the fit


@dataclass(frozen=True)
class Judge:
    """Class posteriors by averages of the other half-set.

    Attributes:
        expectation: the E-step that judges.
        sample: so many particles are judged, by which all are calibrated; None to judge each
            particle and to tell that.
    """

    expectation: Marginalise
    sample: int | None = None

    def __call__(
        self,
        found: Assignments,
        stays: Tensor,
        images: WeightedImages,
        other: PoseScorer,
        same: Tensor,
        total: int,
    ) -> tuple[Assignments, Tensor]:
        """What was found with the judged posteriors, and those of the sample.

        Args:
            found: assignments of a batch.
            stays: particles of which something can be said: not what was moved ``[n]`` (bool).
            images: the particles.
            other: averages of the other half-set.
            same: whether two classes show the same view ``[k k]``, 0 or 1.
            total: particles of the run.

        Returns:
            The assignments, and the posteriors of a sample, NaN for the others ``[n]``.
        """
        sample = torch.full_like(found.class_posterior, torch.nan)
        if self.sample is not None:
            among = images.index % max(1, total // self.sample) == 0
            rows = (stays & among).nonzero()[:, 0]
            if len(rows):
                classes = self._classes(images[rows], other)
                sample[rows] = (classes * same[found.class_index[rows]]).sum(1)
            return found, sample
        classes = self._classes(images, other)
        own = (classes * same[found.class_index]).sum(1)
        own = torch.where(stays, own, found.class_posterior)
        ess = torch.where(stays, 1.0 / classes.square().sum(1), found.class_ess)
        return replace(found, class_posterior=own, class_ess=ess), sample

    def _classes(self, images: WeightedImages, other: PoseScorer) -> Tensor:
        """Posterior of each class ``[n k]``."""
        prior = images.image.real.new_zeros(other.coarse.num_classes)
        found = self.expectation(other, images, log_prior=prior, uncertainty=1.0).classes
        return found / found.sum(1, keepdim=True)  # rounding


def same_view(averages: Tensor, pixel_size: float) -> Tensor:
    """Whether two classes show the same view, turned or shifted ``[k k]``, 0 or 1.

    Args:
        averages: of the classes ``[k y x]``.
        pixel_size: of the averages (Angstrom).
    """
    every = np.ones(len(averages))
    label = Grouping(mirror=False).labels(averages.cpu().numpy(), every, pixel_size)
    return torch.from_numpy(label[:, None] == label).to(averages)


def calibrated(posterior: Tensor, judged: Tensor) -> Tensor:
    """Posteriors ``[n]`` as far as a judged sample lets them be believed.

    Args:
        posterior: of the E-step ``[n]``; NaN stays NaN.
        judged: of the sample, NaN for the others ``[n]``.

    Returns:
        A rising function of the posteriors ``[n]``; themselves if too few were judged.
    """
    known = ~judged.isnan() & ~posterior.isnan()
    if int(known.sum()) < _ENOUGH:
        return posterior
    logit = torch.logit(posterior.double(), eps=_CERTAIN)
    sample, target = logit[known], judged[known].double().clamp(0.0, 1.0)
    line = torch.zeros(2, dtype=logit.dtype, device=logit.device, requires_grad=True)
    solver = torch.optim.LBFGS([line], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        # a faint pull towards p itself keeps the fit finite
        pull = 1e-3 * (line - line.new_tensor((0.0, 1.0))).square().sum()
        said = line[0] + line[1] * sample
        value = binary_cross_entropy_with_logits(said, target) + pull
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    offset, slope = line.detach()
    return torch.sigmoid(offset + slope.clamp(min=0.0) * logit).to(posterior)
