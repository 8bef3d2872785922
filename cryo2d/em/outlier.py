"""Which particles their class explains hardly better than anything would.

A particle is compared under two models of its signal: its class average at the best pose, and a
free blob, whose power on each ring is whatever the particle has. With u the particle's power on a
ring of n Fourier samples in units of the noise, the blob's log likelihood over an empty image is at
most ``n/2 (u - 1 - log u)`` where u > 1: a Gaussian of that variance. A particle of the class gains
far more from the average than from the blob. An empty image gains little from either; ice,
contaminants and clumps are all power and no likeness.

    outlier = 1 - (loglik - blob) / typical

with the median gain of the class's members as the typical one, or that of all particles if it is
less: 0 for most particles, 1 where the blob does as well as the average. Gains grow with the size
of a molecule, so that small particles are measured by their own class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 0.65  # outlier measure beyond which a particle counts as junk
BLOB = 2.0  # variance of the gain that noise gives the free blob
NOISE = 2.5  # standard deviations below the typical gain that noise hardly takes a particle
USUAL = 0.8  # share of the junk whose gain is what junk gains
_ENOUGH = 10  # members that tell what is typical of a class


def free_blob(power: Tensor, ring_weights: Tensor) -> Tensor:
    """Log likelihood of a free blob over an empty image ``[n]``.

    Args:
        power: |X|^2 / sigma^2 summed over each ring ``[n s]``.
        ring_weights: independent Fourier samples of each ring ``[s]``.
    """
    ratio = (power / ring_weights).clamp(min=1.0)
    return (0.5 * ring_weights * (ratio - 1.0 - ratio.log())).sum(1)


def outlier(gain: Tensor, typical: Tensor) -> Tensor:
    """1 - gain / typical ``[n]``; 0 where the typical gain is not positive."""
    return torch.where(typical > 0, 1.0 - gain / typical.clamp(min=1e-6), 0.0)


def is_junk(gain: Tensor, typical: Tensor) -> Tensor:
    """Whether a particle is no member of its class ``[n]`` (bool).

    Its outlier measure is beyond ``LIMIT``, and noise does not explain that: the log likelihood
    that an average of expected gain g adds to an empty image has the variance 2 g, and that of the
    blob varies as well.
    """
    unexplained = gain < typical - NOISE * (2.0 * typical.clamp(min=0.0) + BLOB).sqrt()
    return (outlier(gain, typical) > LIMIT) & unexplained


@dataclass(frozen=True)
class Gathering:
    """Where junk goes.

    Attributes:
        into: the class that takes it in.
        stay: classes of junk, which keep theirs, so that none is emptied ``[k]`` (bool).
        known: classes of which it is known what their members gain ``[k]`` (bool).
        usual: what few of those in the classes of junk gain more than (scalar).
        log_prior: log weight of each class ``[k]``: -inf for one that was emptied for junk.
    """

    into: int
    stay: Tensor
    known: Tensor
    usual: Tensor
    log_prior: Tensor

    def takes(self, gain: Tensor, typical: Tensor, classes: Tensor) -> Tensor:
        """Which particles it takes in ``[n]`` (bool).

        Those that are no members of their class; of classes begun anew, of which nothing is known
        yet, those that gain what junk gains.

        Args:
            gain: over a free blob ``[n]``.
            typical: of the class of each ``[n]``.
            classes: class of each ``[n]``.
        """
        apart = torch.where(self.known[classes], is_junk(gain, typical), gain < self.usual)
        return apart & ~self.stay[classes]


@dataclass(frozen=True)
class Gains:
    """Gains over a free blob of the members of each class.

    Attributes:
        overall: median of all particles.
        own: median of each class ``[k]``; ``overall`` for classes without members.
        counts: members of each class ``[k]``.
        gain: of each particle ``[n]``.
        member: class of each particle ``[n]``.
    """

    overall: Tensor
    own: Tensor
    counts: Tensor
    gain: Tensor
    member: Tensor

    @classmethod
    def of(cls, gain: Tensor, classes: Tensor, num_classes: int) -> "Gains":
        """Medians of the particles whose gain ``[n]`` is not NaN, by their class ``[n]``."""
        known = ~gain.isnan()
        gain, classes = gain[known], classes[known]
        order = classes.argsort(stable=True)
        counts = torch.bincount(classes, minlength=num_classes)
        parts = gain[order].split(counts.tolist())
        overall = gain.median()
        medians = [part.median() if len(part) else overall for part in parts]
        return cls(overall, torch.stack(medians), counts, gain, classes)

    @property
    def outliers(self) -> int:
        """Particles that are no members of their class."""
        return int(is_junk(self.gain, self.typical[self.member]).sum())

    @property
    def known(self) -> Tensor:
        """Which classes have members enough to tell what is typical of them ``[k]`` (bool)."""
        return self.counts >= _ENOUGH

    @property
    def classes(self) -> Tensor:
        """Median of each class ``[k]``; ``overall`` for classes of few members."""
        return torch.where(self.known, self.own, self.overall)

    @property
    def typical(self) -> Tensor:
        """What the outlier measure divides by ``[k]``."""
        return torch.minimum(self.classes, self.overall)

    def gathering(self, chance: float, frc: Tensor) -> Gathering | None:
        """Where to gather junk; None if there is little of it.

        That is the class of junk whose members gain least. If there is none, but more outliers
        than a poor class has members, that class is emptied for them, and its members go to the
        next best.

        Args:
            chance: see :meth:`junk`.
            frc: half-set FRC of the classes ``[k s]``, by which the poorest is known.
        """
        junk, prior = self.junk(chance), torch.zeros_like(self.own)
        if junk.any():
            gain = self.gain[junk[self.member]].sort().values
            usual = gain[int(USUAL * (len(gain) - 1))]
            return Gathering(int(self.classes.argmin()), junk, self.known, usual, prior)
        outliers = self.outliers
        signal = torch.where(self.counts < outliers, frc.nan_to_num().mean(1), torch.inf)
        if outliers < _ENOUGH or len(signal) < 3 or not signal.isfinite().any():
            return None
        into = int(signal.argmin())
        prior[into] = -torch.inf
        nothing = self.overall.new_tensor(-torch.inf)
        return Gathering(into, torch.zeros_like(junk), self.known, nothing, prior)

    def junk(self, chance: float) -> Tensor:
        """Which classes hold junk ``[k]`` (bool).

        Their members gain little beside other particles, and hardly more than the best of all
        classes and poses gains by chance. None do if the one that gains least has few members.

        Args:
            chance: logarithm of the number of classes and poses that a particle is compared with.
        """
        least = ((1.0 - LIMIT) * self.overall).clamp(max=2.0 * chance)
        return (self.own < least) & (self.classes.min() < least) & (len(self.own) > 1)
