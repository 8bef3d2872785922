"""Particles that gain too little to tell their poses.

The best of M poses and classes gains log M by chance, or a little less. Where a particle gains no
more than that, its best pose is hardly better than others, and averages of best poses are of noise
that was aligned: all poses have to be summed over. That takes longer, and where views are clear it
loses some of them, so that the particles decide, once averages have taken shape.
"""

import logging
from dataclasses import dataclass

from torch import Tensor

from cryo2d.em.posterior import Expectation

log = logging.getLogger(__name__)

LEAST = 0.75  # typical gain of particles that tell their poses, as a part of log M


@dataclass(frozen=True)
class Faint:
    """Decides how the E-step takes poses.

    Attributes:
        iteration: at the beginning of which it is decided.
        faint: the E-step from then on if particles are faint.
        clear: the one if they are not.
    """

    iteration: int
    faint: Expectation
    clear: Expectation

    def __call__(self, gains: Tensor, log_choices: float) -> bool:
        """Whether particles are faint.

        Args:
            gains: log likelihood over a free blob ``[n]``; NaN where it is not known.
            log_choices: logarithm of the number of classes and poses that each is compared with.
        """
        typical, limit = float(gains.nanmedian()), LEAST * log_choices
        if not typical < limit:  # NaN where nothing was visited
            return False
        log.info(
            "The particles are too faint to tell their poses apart (%.1f gained in log likelihood, "
            "%.1f needed): averages take all poses by their weight from now on, in three to four "
            "times the time (model.force_max=true: the best pose alone).",
            typical,
            limit,
        )
        return True
