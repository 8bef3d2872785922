"""Posterior over classes, rotations and shifts: poses are summed over, not maximised.

The evidence of a class is the sum of its likelihood over poses. The dense search gives it on the
coarse grid; the likeliest coarse poses, the cells, are replaced by the mean over their local grids
with all rings. A pose that is not refined keeps its coarse value: for a wrong pose the likelihood
ratio of the further rings has expectation 1.

The statistics follow the same split. Cells go through the local grids into the sums at all rings;
the rest of the posterior, which is spread over many poses, goes through the adjoint of the dense
search at its rings, beyond which the spread leaves no signal. Weights of all poses exist for one
class at a time only, and are computed again where they are needed twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from cryo2d.em.coarse import CoarseBank, ImageParts, take_images
from cryo2d.em.fine import Poses
from cryo2d.em.logs import (
    log_total_,
    most_of,
    raised_,
    rows_near,
    segment_argmax,
    segment_logsumexp,
)
from cryo2d.em.posterior import Posterior
from cryo2d.em.score import Candidates, PoseScorer
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.image import aligned, images_at_once
from cryo2d.physics.preprocess import WeightedImages

NEAR = 20.0  # log likelihood, below that of the best class, of classes without a posterior
_REST = 1e-6  # least part of the evidence of a class that is not in its cells
_LEAST = 1e-3  # posterior weights below this are not worth their part of the sums


@dataclass(frozen=True)
class CoarseLogs:
    """Log weights of the dense search, one class at a time.

    Attributes:
        scorer: references of the iteration.
        parts: the particles as the dense search takes them.
        scale: contrast scale of the particles ``[n]``.
        offset: what is subtracted from the scores, the norm ``[n k]``.
    """

    scorer: PoseScorer
    parts: ImageParts
    scale: Tensor
    offset: Tensor

    @cached_property
    def best(self) -> Tensor:
        """What the best pose of each class adds to the log likelihood, nearly ``[n k]``."""
        pull = self.scorer.pull_on(self.scale)
        return self.scale[:, None] * self.scorer.coarse.best(self.parts, pull).cross

    def cross(self, k: int, rows: Tensor) -> Tensor:
        """alpha Re<CTF X / sigma^2, A> of one class at every pose ``[r*t n]``, for some rows."""
        parts, scale = self.parts, self.scale
        if len(rows) < len(scale):
            parts, scale = take_images(parts, rows), scale[rows]
        return self.scorer.coarse.scores(parts, k).mul_(scale)

    def __call__(self, k: int, rows: Tensor) -> Tensor:
        """Log likelihood of one class at every rotation and shift ``[r*t n]``, for some rows."""
        coarse = self.scorer.coarse
        logs = self.cross(k, rows).sub_(self.offset[rows, k])
        logs.unflatten(0, (-1, coarse.num_shifts)).sub_(coarse.shift_cost(self.scorer.pull))
        return logs


@dataclass(frozen=True)
class Cells:
    """Coarse poses that are refined, one row each, sorted by class.

    Attributes:
        start: their coarse poses.
        index: place among the coarse poses of the class, r*t ``[p]``.
        coarse: their log weight in the dense search ``[p]``.
    """

    start: Poses
    index: Tensor
    coarse: Tensor


@dataclass(frozen=True)
class MarginalPosterior:
    """Posterior of a batch over classes and poses.

    Attributes:
        logs: log weights of the coarse poses.
        cells: refined coarse poses.
        found: peaks of the cells.
        weight: posterior probability of each cell ``[p]``.
        local: how it is spread over the local grid ``[p r*q]``; sums to 1 for each cell.
        rest: posterior probability of the coarse poses that are no cells ``[n k]``.
        evidence: log likelihood of each class over an empty image, poses summed over ``[n k]``.
        level: log weight of a coarse pose whose posterior probability is 1 ``[n k]``.
        spread: effective numbers of coarse rotations and shifts ``[n k]`` each.
        apart: the posterior at one pose of each class, after some particles were moved, or None.
        one_pose: particles that were moved, which count at one pose ``[n]`` (bool), or None.
    """

    logs: CoarseLogs
    cells: Cells
    found: Candidates
    weight: Tensor
    local: Tensor
    rest: Tensor
    evidence: Tensor
    level: Tensor
    spread: tuple[Tensor, Tensor]
    apart: Posterior | None = None
    one_pose: Tensor | None = None

    @property
    def classes(self) -> Tensor:
        """Posterior probability of each class ``[n k]``."""
        poses = self.found.poses
        return self.rest.index_put((poses.particle, poses.classes), self.weight, accumulate=True)

    def peak(self) -> Posterior:
        """The class posterior, on the likeliest pose of each class that has a cell."""
        return self._peak if self.apart is None else self.apart

    @cached_property
    def _peak(self) -> Posterior:
        poses, classes = self.found.poses, self.classes
        pair = poses.particle * classes.shape[1] + poses.classes
        first = segment_argmax(self.weight, pair, classes.numel())
        kept = first[first >= 0]
        kept = kept[poses.classes[kept].argsort(stable=True)]
        found = self.found.take(kept)
        slot = found.poses.particle, found.poses.classes
        rotations, shifts = (number[slot] for number in self.spread)
        found = replace(
            found, pose_ess=rotations * found.pose_ess, shift_ess=shifts * found.shift_ess
        )
        return Posterior.weighted(found, classes[slot], 1.0 / classes.square().sum(1))

    def hard(self) -> Posterior:
        """All weight on the likeliest pose of the best class."""
        return self.peak().hard()

    def moved(self, apart: Tensor, k: int) -> "MarginalPosterior":
        """Some particles ``[n]`` (bool) wholly in one class, at their best poses."""
        stay = (~apart).to(self.weight)
        return replace(
            self,
            weight=self.weight * stay[self.found.poses.particle],
            rest=self.rest * stay[:, None],
            apart=self.peak().moved(apart, k),
            one_pose=apart,
        )

    def add_to(
        self,
        stats: SufficientStats,
        grid: PolarGrid,
        images: WeightedImages,
        taken: Tensor | None = None,
    ) -> None:
        """Add the particles to the class sums in place, each with its weights over the poses."""
        self._add_cells(stats, grid, images)
        self._add_rest(stats, images)
        if self.apart is not None and self.one_pose is not None:
            only = self.one_pose[self.apart.candidates.poses.particle].to(self.weight)
            alone = replace(self.apart, weight=self.apart.weight * only)
            alone.add_to(stats, grid, images, taken)

    def _add_cells(self, stats: SufficientStats, grid: PolarGrid, images: WeightedImages) -> None:
        local = self.logs.scorer.fine.local
        alpha = images.scale[self.cells.start.particle]
        share, square = self.weight * alpha, self.weight * alpha**2
        for k, rows in _by_class(self.cells.start.classes, self.weight >= _LEAST):
            for half in (0, 1):
                inside = rows[images.half[self.cells.start.particle[rows]] == half]
                if not len(inside):
                    continue
                mixed = torch.zeros((), device=alpha.device)
                for part in inside.split(images_at_once(alpha.device)):
                    start = self.cells.start[part]
                    still = aligned(grid, images.image, start.particle, start.psi, start.shift)
                    mixed = mixed + local.mixed(still, self.local[part] * share[part, None])
                stats.num[half, k] += local.gather(grid, mixed)
                row = self.cells.start.particle[inside]
                stats.den[half, k] += square[inside] @ images.transfer[row]
                stats.count[half, k] += self.weight[inside].sum()

    def _add_rest(self, stats: SufficientStats, images: WeightedImages) -> None:
        coarse = self.logs.scorer.coarse
        orders, rings = coarse.grid.num_angles, coarse.grid.num_rings
        for k in range(coarse.num_classes):
            for half in (0, 1):
                rows = ((self.rest[:, k] >= _LEAST) & (images.half == half)).nonzero()[:, 0]
                if not len(rows):
                    continue
                weights = raised_(self.logs(k, rows).sub_(self.level[rows, k]))
                self._leave_cells_out(weights, k, rows)
                alpha, rest = images.scale[rows], self.rest[rows, k]
                summed = coarse.gather(take_images(self.logs.parts, rows), weights * alpha)
                stats.num[half, k, :orders, :rings] += summed
                stats.den[half, k] += (rest * alpha**2) @ images.transfer[rows]
                stats.count[half, k] += rest.sum()

    def _leave_cells_out(self, weights: Tensor, k: int, rows: Tensor) -> None:
        """Set the weights ``[r*t n]`` of coarse poses that are cells to 0, in place."""
        start = self.cells.start
        column = torch.full_like(self.rest[:, k], -1, dtype=torch.int64)
        column[rows] = torch.arange(len(rows), device=rows.device)
        place = column[start.particle]
        mine = (start.classes == k) & (place >= 0)
        weights[self.cells.index[mine], place[mine]] = 0.0


def _by_class(classes: Tensor, kept: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows to keep of each class that has any; ``classes`` is sorted."""
    rows = kept.nonzero()[:, 0]
    counts = torch.bincount(classes[rows], minlength=1).tolist()
    for k, part in enumerate(rows.split(counts)):
        if len(part):
            yield k, part


@dataclass(frozen=True)
class Marginalise:
    """E-step that sums over poses.

    The uncertainty factor tempers the choice between classes. Among the poses of a class the
    posterior stays as it is: flattened too, it would never leave the blobs that averages of
    randomly rotated particles are.

    Args:
        per_class: cells of a particle in one class, at most.
        cells: cells of a particle, at most.
        within: poses whose log likelihood is further below the best of their class are no cells.
    """

    per_class: int = 8
    cells: int = 16
    within: float = 5.0

    def __call__(
        self, scorer: PoseScorer, images: WeightedImages, *, log_prior: Tensor, uncertainty: float
    ) -> MarginalPosterior:
        """The posterior over classes and poses.

        Args:
            scorer: references of the iteration.
            images: weighted particles.
            log_prior: log weight of each class ``[k]``.
            uncertainty: uncertainty factor f of the classes: p ~ evidence^(1 / f^2).
        """
        logs = CoarseLogs(
            scorer, scorer.coarse_parts(images), images.scale, scorer.coarse_norm(images)
        )
        temperature = uncertainty**2
        cells, rest, spread = self._search(logs, log_prior, temperature)
        particle, classes = cells.start.particle, cells.start.classes
        score = scorer.fine.scores(scorer.fine_samples(images), cells.start)
        alpha = images.scale[particle]
        pull = scorer.pull_on(alpha)
        score = scorer.fine.pulled(score, cells.start, pull)
        peak = scorer.fine.peak(cells.start, score, alpha, pull)
        found = scorer.likelihood(images, peak, scorer.log_shift(peak.poses))
        fine = score * alpha[:, None] + scorer.fine.local.share.log()
        inside = fine.logsumexp(1)
        # the norm is the same at every pose of a cell
        evidence = inside - 0.5 * alpha**2 * found.slice_pow
        every = torch.logaddexp(self._by_class(evidence, cells, rest), rest)  # [n k]
        level = every - torch.log_softmax(every / temperature + log_prior, dim=1)
        return MarginalPosterior(
            logs=logs,
            cells=cells,
            found=found,
            weight=torch.exp(evidence - level[particle, classes]),
            local=raised_(fine.sub_(inside[:, None])),
            rest=torch.exp(rest - level),
            evidence=every,
            level=level,
            spread=spread,
        )

    def evidences(
        self, scorer: PoseScorer, images: WeightedImages, contrasts: Sequence[float]
    ) -> Tensor:
        """Log evidence of every class, its average at some contrasts ``[n k c]``.

        One search serves them all: the cells are those of the least contrast, which are the most.

        Args:
            scorer: references of the iteration.
            images: weighted particles.
            contrasts: of the averages.
        """
        bank, alpha, norm = scorer.coarse, images.scale, scorer.coarse_norm(images)
        cost, least = bank.shift_cost(scorer.pull), min(contrasts)
        logs = CoarseLogs(scorer, scorer.coarse_parts(images), alpha, norm)
        total = torch.stack([c * logs.best for c in contrasts], dim=2)
        each = torch.stack([c * logs.best - c**2 * norm for c in contrasts], dim=2)
        value, place = self._no_cells(norm, bank)
        for k, rows in rows_near(each, NEAR).items():
            like = logs.cross(k, rows)
            by_shift = like.unflatten(0, (-1, bank.num_shifts))
            for number, c in enumerate(contrasts):
                total[rows, k, number] = log_total_((c * by_shift - cost).flatten(0, 1))
            by_shift.mul_(least).sub_(cost)
            most, where = most_of(like, value.shape[2])
            value[rows, k] = most.T - least**2 * norm[rows, k, None]
            place[rows, k] = where.T
        cells = self._cells(scorer, value, place, scorer.search.behind(1.0))
        pair = cells.start.particle, cells.start.classes
        moved, alpha = cost[cells.index % bank.num_shifts, 0], alpha[cells.start.particle]
        still = scorer.fine.scores(scorer.fine_samples(images), cells.start)
        at_one = scorer.fine.pulled(still, cells.start, scorer.pull_on(alpha))
        power = scorer.slice_power(images, cells.start)
        found = []
        for c, coarse in zip(contrasts, total.unbind(2), strict=True):
            own = c / least * (cells.coarse + least**2 * norm[pair] + moved) - moved
            rest = self._beside(coarse, pair, own) - c**2 * norm
            fine = (at_one + (c - 1.0) * still) * alpha[:, None] + scorer.fine.local.share.log()
            inside = fine.logsumexp(1) - 0.5 * (c * alpha) ** 2 * power
            found.append(torch.logaddexp(self._by_class(inside, cells, rest), rest))
        return torch.stack(found, dim=2)

    @staticmethod
    def _by_class(evidence: Tensor, cells: Cells, like: Tensor) -> Tensor:
        """Log evidence of the cells together ``[n k]``, from that of each ``[p]``."""
        pair = cells.start.particle * like.shape[1] + cells.start.classes
        return segment_logsumexp(evidence, pair, like.numel()).view_as(like)

    def _search(
        self, logs: CoarseLogs, log_prior: Tensor, temperature: float
    ) -> tuple[Cells, Tensor, tuple[Tensor, Tensor]]:
        """The cells, the log evidence of all other coarse poses ``[n k]``, and the spread."""
        bank, total = logs.scorer.coarse, logs.best - logs.offset
        # a class that nothing may go to is nobody's best, and has no cells
        near = rows_near((total + temperature * log_prior)[..., None], NEAR * temperature)
        value, place = self._no_cells(total, bank)
        numbers = total.new_ones((2, *total.shape))
        for k, rows in near.items():
            weights = logs(k, rows)
            most, where = most_of(weights, value.shape[2])
            raised = raised_(weights.sub_(most[0])).view(-1, bank.num_shifts, weights.shape[1])
            over_shift, over_rotation = raised.sum(1), raised.sum(0)
            whole = over_rotation.sum(0)
            for number, part in zip(numbers, (over_shift, over_rotation), strict=True):
                number[rows, k] = whole**2 / part.square().sum(0)
            value[rows, k], place[rows, k] = most.T, where.T
            total[rows, k] = most[0] + whole.log()
        cells = self._cells(logs.scorer, value, place, logs.scorer.search.behind(temperature))
        pair = cells.start.particle, cells.start.classes
        return cells, self._beside(total, pair, cells.coarse), (numbers[0], numbers[1])

    def _no_cells(self, like: Tensor, bank: CoarseBank) -> tuple[Tensor, Tensor]:
        """Log weights and places of the cells of no class ``[n k c]``."""
        size = (*like.shape, min(self.per_class, len(bank.psi) * bank.num_shifts))
        value = like.new_full(size, -torch.inf)
        return value, torch.zeros_like(value, dtype=torch.int64)

    @staticmethod
    def _beside(total: Tensor, pair: tuple[Tensor, Tensor], cells: Tensor) -> Tensor:
        """Log evidence of the poses that are no cells ``[n k]``.

        Args:
            total: log evidence of all coarse poses ``[n k]``.
            pair: particle and class of each cell ``[p]``.
            cells: its log weight among those poses ``[p]``.
        """
        taken = torch.zeros_like(total)
        taken.index_put_(pair, torch.exp(cells - total[pair]), accumulate=True)
        return total + torch.log((1.0 - taken).clamp(min=_REST))

    def _cells(self, scorer: PoseScorer, value: Tensor, place: Tensor, margin: float) -> Cells:
        """The likeliest of the best poses of all classes: log weights and places ``[n k c]``."""
        # a class has to come near the best one, a pose near the best of its class
        least = torch.maximum(value[..., :1] - self.within, value.amax((1, 2), True) - margin)
        kept = torch.where(value >= least, value, -torch.inf)
        top, index = kept.flatten(1).topk(min(self.cells, value[0].numel()), dim=1)
        near = top > -torch.inf
        particle = torch.arange(len(top), device=top.device)[:, None].expand_as(index)
        order = index[near].argsort(stable=True)  # by class
        particle, index = particle[near][order], index[near][order]
        pose = place.flatten(1)[particle, index]
        psi = scorer.coarse.psi[pose // scorer.coarse.num_shifts]
        shift = scorer.image_shift(pose % scorer.coarse.num_shifts, psi)
        start = scorer.fine.snapped(Poses(particle, index // value.shape[2], psi, shift))
        return Cells(start, pose, value.flatten(1)[particle, index])
