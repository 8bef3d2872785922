"""What keeps classes alive: those without particles start again where there is most to find."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.contrast import Contrasts
from cryo2d.em.stats import SufficientStats
from cryo2d.em.variety import Variety

_COPIES = 3  # of a class that is no particle's, at a time


@dataclass(frozen=True)
class Reseeded:
    """Statistics after dead classes were replaced.

    Attributes:
        stats: the sums.
        source: class that each was copied from ``[j]``.
        dead: classes that were replaced ``[j]``.
    """

    stats: SufficientStats
    source: Tensor
    dead: Tensor

    @property
    def changed(self) -> Tensor:
        """All classes that are no longer what they were ``[j]``."""
        return torch.cat((self.source, self.dead)).unique()


@dataclass(frozen=True)
class Reseed:
    """Replace classes that hardly any particle goes to.

    A class with less than ``least`` of the mean share becomes one of two copies of another, which
    share its sums in equal parts, so that new particles soon outweigh what they have in common.
    While classes still find their first views, the most populous ones are copied and disturbed by
    noise. Later the copies lie to either side of the average along what varies most among its
    members (:mod:`cryo2d.em.variety`), and these are copied, in this order:

    1. classes whose members vary by far more than noise, the most significant first;
    2. until ``settle``, those whose variety is known for long enough, in the same order: one of two
       like views can hardly be seen, but parts soon. What does not part is merged again;
    3. those whose members have least signal in common: what is no particle is sorted further.

    From ``settle`` on what is left over waits, if it is less than half of the classes. At the last
    online iteration it takes the faintest members of the most populous ones: which of two classes
    of one view a particle goes to is then no chance.

    Args:
        total: online iterations of the run.
        at: when to look, as parts of the online iterations.
        least: smallest share, in units of the mean share.
        last_least: the same at the last online iteration, so that no class stays empty.
        disturbance: amplitude of the noise, as a part of the copy's amplitude.
        varied: from this part of the online iterations on variety is looked at; 1 for never.
        settle: from this part on classes are only split if their variety is large.
        contrast: whether classes can be told apart by contrast; not where many classes share a
            particle, or where contrasts are normalised.
    """

    total: int
    at: tuple[float, ...] = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85)
    least: float = 0.3
    last_least: float = 0.1
    disturbance: float = 0.3
    varied: float = 0.25
    settle: float = 0.8
    contrast: bool = True

    large: float = 1.25
    """Squared ratio of variances beyond which a class has several views."""
    some: float = 0.075
    """The same, below which it is not worth a trial."""
    patience: float = 0.15
    """Part of the online iterations in which a component becomes known."""
    faint: float = 1 / 3
    """Members of a class of the faintest, in units of those that the others keep."""
    sizeable: float = 0.4
    """Share of the latest batch, in units of the mean, that a trial takes."""
    poor: float = 0.5
    """Signal in common, in units of the median, below which a class is no particle's."""
    explored: float = 0.4
    """Part of the online iterations after which the most populous are not copied for their size."""
    shortest: int = 20
    """Online iterations below which there is no time to know what varies."""

    def looks(self, iteration: int) -> bool:
        """Whether the variety of the classes is wanted in an iteration."""
        last = max(self.at, default=0.0) * self.total
        return self._varies and self.varied * self.total <= iteration <= last

    def by_contrast(self, iteration: int) -> bool:
        """Whether the contrasts of the members are wanted in an iteration."""
        return self._waits and iteration == self.total - 1

    @property
    def _waits(self) -> bool:
        return self._varies and self.contrast

    @property
    def _varies(self) -> bool:
        return self.varied < 1.0 and self.total >= self.shortest

    def __call__(
        self,
        stats: SufficientStats,
        recent: Tensor,
        iteration: int,
        generator: torch.Generator,
        variety: Variety | None = None,
        contrasts: Contrasts | None = None,
    ) -> "Reseeded":
        """Statistics with the dead classes replaced; the same object if none is dead.

        Args:
            stats: running sums, which remember a class for long after it died.
            recent: posterior mass of each class in this iteration alone ``[k]``.
            iteration: its 0-based number.
            generator: random numbers.
            variety: what varies in each class, if that was looked at.
            contrasts: of the members of each class, if classes are to be split by them.
        """
        is_dead = self._dead(recent, iteration)
        dead = is_dead.nonzero()[:, 0]
        if len(dead) == 0 or bool(is_dead.all()):
            return Reseeded(stats, dead[:0], dead[:0])
        # where most are left over, no view is plainer than another: they are tried once more
        settled = self._waits and iteration >= self.settle * self.total
        waits = settled and 2 * len(dead) < len(recent)
        order = self._sources(stats, recent, ~is_dead, iteration, variety, waits)
        if waits:
            dead = dead[: len(order)]
        source = order[torch.arange(len(dead), device=order.device) % len(order)]
        copies = torch.bincount(source, minlength=len(recent))
        size = 1.0 if contrasts is None else self.faint  # of a copy, where the source keeps 1
        share = 1.0 / (1.0 + size * copies)
        sums = (stats.num, stats.den, stats.count)
        num, den, count = (_divided(each, source, dead, share, size) for each in sums)
        if contrasts is None:
            step = self._step(num[:, dead], den[:, dead], source, generator, variety)
            num[:, dead] += step
            # the source moves the other way, so that neither is the better copy
            num.index_add_(1, source, -step / copies[source, None, None])
        else:
            nth = (source[:, None] == source).tril(-1).sum(1)
            level = torch.where(copies > 0, contrasts.at(1.0 - 0.5 * share), 1.0)
            level[dead] = contrasts[source].at((nth + 0.5) * size * share[source])
            num *= level[:, None, None]
        found = SufficientStats(num, den, count, stats.power, stats.particles)
        return Reseeded(found, source, dead)

    def _step(
        self,
        num: Tensor,
        den: Tensor,
        source: Tensor,
        generator: torch.Generator,
        variety: Variety | None,
    ) -> Tensor:
        """What is added to the sums of the copies ``[h j m s]``."""
        step = torch.view_as_complex(torch.randn((*num.shape, 2), generator=generator))
        amplitude = num.abs().square().mean(2, keepdim=True).sqrt()
        step = self.disturbance * amplitude * step.to(num.device)
        if variety is None:
            return step
        rings = variety.component.shape[-1]
        along = torch.zeros_like(step)
        along[..., :rings] = den[:, :, None, :rings] * variety.component[source]
        # of several copies of a class one goes along its variety, the others anywhere
        first = (source[:, None] == source).tril(-1).any(1).logical_not()
        return torch.where(first[:, None, None], along, step)

    def _dead(self, recent: Tensor, iteration: int) -> Tensor:
        """Which classes are replaced in an iteration ``[k]`` (bool)."""
        if iteration == self.total - 1:
            return recent < self.last_least * recent.mean()
        if iteration in {round(part * self.total) for part in self.at}:
            return recent < self.least * recent.mean()
        return torch.zeros_like(recent, dtype=torch.bool)

    def _sources(
        self,
        stats: SufficientStats,
        recent: Tensor,
        living: Tensor,
        iteration: int,
        variety: Variety | None,
        waits: bool,
    ) -> Tensor:
        """Classes to copy, the first choice first, among the living ``[k]`` (bool)."""
        part = iteration / self.total
        various = torch.zeros_like(living)
        size, evidence = stats.count.sum(0), recent
        sizeable = living & (recent > self.sizeable * recent.mean())
        if variety is not None:
            evidence = variety.strength * recent  # its error falls with the number of members
            various = living & (variety.strength > self.large)
            if part < self.settle:
                known = variety.age >= self.patience * self.total
                various |= sizeable & known & (variety.strength > self.some)
        first = _ordered(various, -evidence)
        others = living & ~various
        ends = iteration == self.total - 1  # a copy of a small class might end empty
        if not self._varies or part < self.explored or ends:
            return torch.cat((first, _in_turn(others, size)))
        signal = common_signal(stats)
        others &= sizeable
        poor = others & (signal < self.poor * signal[living].median())
        order = torch.cat((first, _ordered(poor, signal).repeat(_COPIES)))
        if waits:
            return order
        order = torch.cat((order, _ordered(others & ~poor, signal)))
        return order if len(order) else _ordered(living, -size)


def common_signal(stats: SufficientStats) -> Tensor:
    """What the members of a class have in common: <a_0, t a_1> of its halves ``[k]``."""
    den = stats.den + 1e-2 * stats.den.amax(-1, keepdim=True)
    first, second = stats.num / den.clamp(min=1e-20)[:, :, None]
    mean = stats.den.sum(0) / stats.count.sum(0).clamp(min=1e-20)[:, None]
    area = torch.arange(1, den.shape[-1] + 1, device=den.device)
    return ((first.conj() * second).real.sum(1) * area * mean).sum(1)


def _divided(sums: Tensor, source: Tensor, dead: Tensor, share: Tensor, size: float) -> Tensor:
    """Sums ``[h k ...]`` of which each keeps a share ``[k]``, and its copies ``size`` of that."""
    each = share.view(-1, *[1] * (sums.ndim - 2))
    divided = sums * each
    divided[:, dead] = size * divided[:, source]
    return divided


def _ordered(which: Tensor, values: Tensor) -> Tensor:
    """Numbers of some classes ``[k]`` (bool), by ascending values ``[k]``."""
    rows = which.nonzero()[:, 0]
    return rows[values[rows].argsort(stable=True)]


def _in_turn(which: Tensor, size: Tensor) -> Tensor:
    """Some classes ``[k]`` (bool) as often as they are cut in parts, the largest part first."""
    rows, count = which.nonzero()[:, 0], len(which)
    parts = size[rows, None] / torch.arange(1, count + 1, device=size.device)
    order = parts.flatten().argsort(descending=True, stable=True)[:count]
    return rows[order // count]
