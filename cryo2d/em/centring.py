"""How far particles lie from where they were picked: the prior of shifts.

Shifts of particles that are found well are spread about their picks by a Gaussian. With its
deviation s along either axis, a shift of t pixels loses ``t^2 / (2 s^2)`` of log likelihood. Noise,
ice and small molecules would else go as far as the search does. The deviation follows from the
particles themselves, as in RELION (Scheres 2012, J. Struct. Biol. 180, 519-530), but from the
better half of them and by a median, so that neither those that are hardly aligned nor junk count.
"""

import math

import torch
from torch import Tensor

LEAST = 1.0  # standard deviation (pixel), at least: how well centres are defined
BEYOND = 3.5  # standard deviations that 2 particles in 1,000 go beyond


def shift_pull(shift: Tensor, gain: Tensor) -> Tensor:
    """``1 / (2 s^2)`` (1/pixel^2, scalar) of particles at these shifts; 0 if none are known.

    Args:
        shift: of the particles ``[n 2]`` (pixel).
        gain: log likelihood of their class over anything else ``[n]``; NaN if unknown.
    """
    better = gain >= gain.nanmedian()
    # |t|^2 of a Gaussian has the median 2 s^2 log 2
    square = torch.where(better, shift.square().sum(1), torch.nan).nanmedian()
    return (math.log(2.0) / square.clamp(min=2.0 * LEAST**2 * math.log(2.0))).nan_to_num(0.0)


def reach(pull: Tensor) -> float:
    """Length of the shifts that are worth a search (pixel); infinite under a flat prior."""
    strength = float(pull)
    return BEYOND * math.sqrt(0.5 / strength) if strength > 0 else math.inf
