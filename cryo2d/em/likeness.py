"""Classes that show the same view, and their union.

With a_0, a_1 the averages of the half-sets of one class, b_0, b_1 those of another in the same
frame, t the mean CTF^2 / sigma^2 and c the contrast at which b is most like a,

    odds = <a_0 - c b_0, t (a_1 - c b_1)> / 2

is the mean log likelihood ratio by which a particle of one class prefers it to the other: it holds
no product of noise with itself, so that averages of few particles look no more different than those
of many. Its standard error is known from the numbers of particles.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryo2d.em.solve import WienerSolver, images_of, least_squares
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.register import Registrar, Registration
from cryo2d.geometry.transform import rotation_phase, shift_phase

_LEAST_POWER = 1e-3  # of a ring, as a part of the strongest
_PROMISING = 0.75  # correlation, without noise, that a pair has to reach on the grid of poses
_CONTRAST = 1.4  # largest ratio of the contrasts of two averages of the same view
_ERRORS = 2.0  # standard errors that two averages of the same view may be apart


@dataclass(frozen=True)
class Alike:
    """Pairs of classes that a particle cannot tell apart, the most alike first.

    Attributes:
        first: class ``[p]``.
        second: another one ``[p]``.
        odds: mean log likelihood ratio of the two, less what noise may add ``[p]``.
        pose: takes the second into the frame of the first ``[p]``.
    """

    first: Tensor
    second: Tensor
    odds: Tensor
    pose: Registration


@dataclass(frozen=True)
class Likeness:
    """Compares the averages of all classes.

    Args:
        rings: of the averages that are compared.
        max_shift: longest shift between two averages (pixel).
    """

    rings: int
    max_shift: float

    def __call__(self, stats: SufficientStats, solver: WienerSolver, most: float) -> Alike:
        """Pairs with at most some odds."""
        registrar = Registrar(solver.grid.up_to(self.rings), self.max_shift, mirror=False)
        halves = self.halves(stats, solver)
        first, second, pose = self._promising(registrar, halves)
        if not len(first):
            return Alike(first, second, pose.correlation, pose)
        moved = torch.stack([registrar.moved(half[second], pose) for half in halves])
        count = stats.count.sum(0)
        mean = stats.den.sum(0)[:, : self.rings] / count.clamp(min=1e-20)[:, None]
        weight = torch.minimum(mean[first], mean[second])
        inner = registrar.grid.inner_of_harmonics
        both = inner(halves[0, first], moved[1], weight) + inner(halves[1, first], moved[0], weight)
        scale = 0.5 * both / inner(moved[0], moved[1], weight).clamp(min=1e-20)
        scale = scale.clamp(1.0 / _CONTRAST, _CONTRAST)[:, None, None]
        apart = halves[:, first] - scale * moved
        odds = 0.5 * inner(apart[0], apart[1], weight)
        samples = math.pi * self.rings**2
        error = math.sqrt(samples) * (1.0 / count[first] + 1.0 / count[second])
        odds = odds - _ERRORS * error
        order = odds.argsort(stable=True)
        order = order[odds[order] <= most]
        return Alike(first[order], second[order], odds[order], pose[order])

    def halves(self, stats: SufficientStats, solver: WienerSolver) -> Tensor:
        """Harmonics of the half-sets' averages inside the masks of both ``[h k m s]``."""
        part, masks = solver.grid.up_to(self.rings), solver.filtered(stats).masks
        images = [
            images_of(solver.grid, a) for a in least_squares(solver.grid, stats.num, stats.den)
        ]
        flat = [solver.solvent.flatten(image, masks) for image in images]
        return torch.stack([part.harmonics(part.sample(image)) for image in flat])

    def _promising(
        self, registrar: Registrar, halves: Tensor
    ) -> tuple[Tensor, Tensor, Registration]:
        """Pairs that may be alike, and the pose of the second of each."""
        grid = registrar.grid
        common = (halves[0].conj() * halves[1]).real.mean((0, 1))
        common = common.clamp(min=_LEAST_POWER * float(common.max()) + 1e-20)
        sharp = halves * common.rsqrt().sqrt()  # or the longest waves would decide the pose
        whole = sharp.sum(0)
        own = 4.0 * grid.inner_of_harmonics(sharp[0], sharp[1])
        trust = (own / grid.inner_of_harmonics(whole, whole).clamp(min=1e-20)).clamp(1e-6, 1.0)
        whole = registrar.normalised(whole)
        near = registrar.all_pairs(whole)
        # correlation of what they show (Spearman 1904)
        likeness = near.correlation / (trust[:, None] * trust).sqrt()
        sure = (own > 0)[:, None] & (own > 0)
        first, second = ((likeness >= _PROMISING) & sure).triu(1).nonzero().unbind(1)
        pose = near[first, second]
        if len(first):
            pose = registrar.refined(whole[first], whole[second], pose)
        return first, second, pose


@dataclass(frozen=True)
class Merged:
    """Statistics after like classes were joined.

    Attributes:
        stats: the sums of a class that was joined to another are 0.
        recent: posterior mass of each class in the iteration ``[k]``.
        kept: classes that took in others ``[j]``.
        difference: between each and what it took in, ``[j m s]``: what may vary in it now.
    """

    stats: SufficientStats
    recent: Tensor
    kept: Tensor
    difference: Tensor


@dataclass(frozen=True)
class Merge:
    """Join classes that show the same view.

    What is left without particles starts again by :class:`cryo2d.em.population.Reseed`, so that it
    can find a view of its own.

    Args:
        total: online iterations of the run.
        rings: of the averages that are compared.
        max_shift: longest shift between like averages (pixel).
        at: when to look, as parts of the online iterations.
        odds: classes are joined if a particle prefers its own to the other by no more than this
            on average (natural logarithm): with 4, one in 12 is taken for the other's.
        shortest: runs of fewer online iterations leave no time for it.
    """

    total: int
    rings: int
    max_shift: float
    at: tuple[float, ...] = (0.45, 0.55, 0.65, 0.75, 0.85)
    odds: float = 4.0
    shortest: int = 20

    def __call__(
        self, stats: SufficientStats, recent: Tensor, iteration: int, solver: WienerSolver
    ) -> Merged | None:
        """Statistics with like classes joined; None if there is none, or if it is not the time.

        Args:
            stats: running sums.
            recent: posterior mass of each class in this iteration alone ``[k]``.
            iteration: its 0-based number.
            solver: makes averages of the sums.
        """
        at = {round(part * self.total) for part in self.at}
        if iteration not in at or self.total < self.shortest:
            return None
        alike = Likeness(self.rings, self.max_shift)(stats, solver, self.odds)
        chosen = self._chosen(alike)
        if not len(chosen):
            return None
        one, two, pose = alike.first[chosen], alike.second[chosen], alike.pose[chosen]
        num, den, count = stats.num.clone(), stats.den.clone(), stats.count.clone()
        recent = recent.clone()
        moved = taken(solver.grid, num[:, two], pose)
        difference = least_squares(solver.grid, num[:, one].sum(0), den[:, one].sum(0))
        difference -= least_squares(solver.grid, moved.sum(0), den[:, two].sum(0))
        num[:, two] = moved
        for sums, axis in ((num, 1), (den, 1), (count, 1), (recent, 0)):
            sums.index_add_(axis, one, sums.index_select(axis, two))
            sums.index_fill_(axis, two, 0.0)
        return Merged(replace(stats, num=num, den=den, count=count), recent, one, difference)

    @staticmethod
    def _chosen(alike: Alike) -> list[int]:
        """Rows of the pairs that are joined: a class takes in others, or is taken in, once."""
        gone: set[int] = set()
        kept: set[int] = set()
        rows = []
        for row, (one, two) in enumerate(
            zip(alike.first.tolist(), alike.second.tolist(), strict=True)
        ):
            if not {one, two} & gone and two not in kept:
                rows.append(row)
                kept.add(one)
                gone.add(two)
        return rows


def taken(grid: PolarGrid, harmonics: Tensor, pose: Registration) -> Tensor:
    """Harmonics ``[... k m s]`` taken through poses ``[k]`` that mirror nothing."""
    rings = grid.from_harmonics(harmonics) * shift_phase(grid, pose.shift)
    return grid.harmonics(rings) * rotation_phase(pose.psi, harmonics.shape[-2])
