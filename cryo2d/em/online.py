"""Online expectation-maximisation as a torch optimizer.

The optimizer's state is the running sufficient statistics; a step blends in those of a batch and
solves for new references. The step size is the parameter group's ``lr``, so that an ordinary
learning-rate schedule drives it and checkpoints hold everything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cryo2d.em.contrast import Contrasts
from cryo2d.em.likeness import Merge
from cryo2d.em.model import ClassModel
from cryo2d.em.population import Reseed
from cryo2d.em.solve import Recenter, Solution, WienerSolver
from cryo2d.em.stats import SufficientStats
from cryo2d.em.upright import Upright
from cryo2d.em.variety import Variety, VarietySums
from cryo2d.geometry.polar import PolarGrid

Item = TypeVar("Item")
Result = TypeVar("Result")

_ENOUGH = 25.0  # particles per class that tell the shares of the classes
_TOGETHER = 8  # classes that are solved for together, at least


class Workers(Protocol):
    """Does the same work on several things, maybe at once."""

    count: int

    def __call__(self, work: Callable[[int, Item], Result], items: Sequence[Item]) -> list[Result]:
        """What the work returns for each item, in their order; it is given a worker's number."""
        ...


class OneAfterTheOther:
    """No workers."""

    count = 1

    def __call__(self, work: Callable[[int, Item], Result], items: Sequence[Item]) -> list[Result]:
        """What the work returns for each item, in their order."""
        return [work(0, item) for item in items]


@dataclass(frozen=True)
class NoiseModel:
    """Noise power from the residuals.

    Args:
        white: whether all rings share one value.
        floor: least power, as a part of the mean.
    """

    white: bool = False
    floor: float = 1e-2

    def __call__(self, stats: SufficientStats, weights: Tensor, before: Tensor) -> Tensor:
        """Noise power ``[g s]``.

        Args:
            stats: sums with the residual power.
            weights: area of each ring ``[s]``.
            before: value kept for groups without particles ``[g s]``.
        """
        power = stats.power / stats.particles.clamp(min=1e-20)[:, None]
        if self.white:
            mean = (power @ weights) / weights.sum()
            power = mean[:, None].expand_as(power)
        power = torch.maximum(power, self.floor * power.mean(1, keepdim=True))
        return torch.where(stats.particles[:, None] > 0, power, before)


class OnlineEM(torch.optim.Optimizer):
    """s <- (1 - gamma) s + gamma s_batch, then new references (Cappe & Moulines 2009).

    Args:
        model: the classes; its references are the one parameter.
        solver: statistics -> averages.
        noise: statistics -> noise power.
        recenter: centring of the averages, or None.
        merge: union of like classes, or None.
        reseed: replacement of dead classes, or None.
        variety_rings: rings on which the variety of the classes is looked at.
        upright: rotation of filaments, or None.
        seed: of the random numbers that the re-seeding draws.
    """

    def __init__(
        self,
        model: ClassModel,
        *,
        solver: WienerSolver,
        noise: NoiseModel,
        recenter: Recenter | None = None,
        merge: Merge | None = None,
        reseed: Reseed | None = None,
        variety_rings: int = 0,
        upright: Upright | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__([model.references], {"lr": 1.0})
        self.model, self.solver, self.noise_model = model, solver, noise
        self.recenter, self.upright = recenter, upright
        self.merge, self.reseed, self.seed = merge, reseed, seed
        self.begun = torch.zeros(0, dtype=torch.int64)  # classes begun anew by the last step
        self.variety_grid: PolarGrid = solver.grid.up_to(variety_rings or solver.grid.num_rings)

    @property
    def stats(self) -> SufficientStats | None:
        """Running statistics; None before the first step."""
        held = self.state[self.model.references]
        if not held:
            return None
        # kept as real numbers: loading a state casts it to the parameter's type
        sums = {f.name: held[f.name] for f in fields(SufficientStats)}
        return SufficientStats(**{**sums, "num": torch.view_as_complex(held["num"])})

    @property
    def halves(self) -> Tensor | None:
        """Averages of either half-set alone ``[h k y x]``, if the last step made them."""
        return self.state[self.model.references].get("halves")

    @property
    def variety(self) -> Variety | None:
        """What varies in each class; None before the first look at it."""
        held = self.state[self.model.references].get("variety")
        return None if held is None else Variety.of(held)

    def looks_at_variety(self, iteration: int) -> bool:
        """Whether a step wants the sums of what varies."""
        return self.reseed is not None and self.reseed.looks(iteration)

    @torch.no_grad()
    def averages_and_components(self, iteration: int) -> tuple[Tensor, Tensor]:
        """What the variety of an iteration is measured with ``[k m s]`` each."""
        averages = self._described()
        variety = self.variety or self._unknown(averages, iteration)
        return averages, variety.component

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Any] | None = None,
        *,
        stats: SufficientStats,
        iteration: int,
        whole: bool = False,
        variety: VarietySums | None = None,
        apart: bool = False,
        workers: Workers | None = None,
    ) -> Solution:
        """Blend the statistics of one iteration and solve.

        Args:
            closure: unused, part of torch's interface.
            stats: sums over the particles of this iteration.
            iteration: its 0-based number.
            whole: whether the sums replace the running ones and the averages are final, so that
                they are neither moved nor re-seeded.
            variety: sums of what varies, if it was looked at.
            apart: whether to make averages of either half-set alone, too.
            workers: solve for some classes each; None for one after the other.
        """
        del closure
        each = _ClassByClass(workers or OneAfterTheOther(), self.solver, apart)
        gamma = self.param_groups[0]["lr"]
        running = self.stats
        if running is None or whole:
            running = stats
        else:
            # per-particle means, so that batches of any size weigh gamma; the sums count as a batch
            share = stats.count.sum() / running.count.sum().clamp(min=1e-20)
            running = running.scaled(float(share)).blend(stats, gamma)
        described, self.begun = None, self.begun[:0]
        recent = self._recent(stats)
        if not whole:
            running, described = each.together(
                self._repopulated, running, recent, variety, iteration
            )
        solution = each.solved(running)
        if self.recenter is not None and not whole:
            shift = self.recenter.shift(solution.averages)
            running = running.moved(self.solver.grid, shift)
            solution = each.moved(solution, shift, running)
        if self.upright is not None and iteration == self.upright.iteration:
            running = running.turned(self.upright.turns(solution.averages))
            solution = each.solved(running)
        held: dict[str, Any] = running.as_dict()
        held["num"] = torch.view_as_real(running.num)
        held["recent"] = recent
        if described is not None:
            held["variety"] = described.as_dict()
        if solution.halves is not None:
            held["halves"] = solution.halves
        self.state[self.model.references] = held
        self._write(running, solution)
        return solution

    def _recent(self, batch: SufficientStats) -> Tensor:
        """Posterior mass of each class ``[k]`` in the latest particles, enough to tell its share.

        That is the batch, and what came before it as far as the batch is too small.
        """
        recent = batch.count.sum(0)
        before = self.state[self.model.references].get("recent")
        missing = (1.0 - recent.sum() / (_ENOUGH * len(recent))).clamp(min=0.0)
        return recent if before is None else recent + missing * before

    def _repopulated(
        self,
        running: SufficientStats,
        recent: Tensor,
        sums: VarietySums | None,
        iteration: int,
    ) -> tuple[SufficientStats, Variety | None]:
        """Like classes joined and dead ones begun anew, and what varies in each from now on."""
        variety: Variety | None = None
        # a generator of each iteration's own: a resumed run draws the same numbers
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
        averages = None
        if sums is not None:
            averages = self._described()
            before = self.variety or self._unknown(averages, iteration)
            variety = before.renewed(sums, self.variety_grid, averages)
        if self.merge is not None:
            merged = self.merge(running, recent, iteration, self.solver)
            if merged is not None:
                running, recent = merged.stats, merged.recent
                if variety is not None:
                    difference = merged.difference[..., : self.variety_grid.num_rings]
                    variety = variety.begun(merged.kept, difference)
        if self.reseed is not None:
            contrasts = None
            if self.reseed.by_contrast(iteration):
                contrasts = Contrasts.of(self.variety_grid, running, self._described())
            found = self.reseed(running, recent, iteration, generator, variety, contrasts)
            running, self.begun = found.stats, found.dead
            if variety is not None and averages is not None and len(found.dead):
                variety = variety.forgotten(found.changed, averages, generator)
        return running, variety

    def _described(self) -> Tensor:
        """Harmonics of the averages ``[k m s]`` on the rings that variety is looked at."""
        references = self.model.references.detach()
        return self.variety_grid.harmonics(self.variety_grid.sample(references))

    def _unknown(self, averages: Tensor, iteration: int) -> Variety:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 - 2 - iteration)
        return Variety.start(self.variety_grid, averages, generator)

    def _write(self, stats: SufficientStats, solution: Solution) -> None:
        model = self.model
        weights = self.solver.grid.ring_weights.to(stats.power.device)
        model.references.copy_(solution.averages)
        model.frc.copy_(solution.frc)
        model.noise.copy_(self.noise_model(stats, weights, model.noise))
        count = stats.count.sum(0)
        model.weights.copy_(count / count.sum().clamp(min=1e-20))


@dataclass(frozen=True)
class _ClassByClass:
    """Solves for a few classes at a time: no class needs another.

    Attributes:
        workers: do the work.
        solver: statistics -> averages.
        apart: whether to make averages of either half-set alone, too.
    """

    workers: Workers
    solver: WienerSolver
    apart: bool

    def solved(self, stats: SufficientStats) -> Solution:
        """Averages of all classes."""
        particle = stats.particle

        def some(_: int, rows: slice) -> Solution:
            return self.solver(stats.of_classes(rows), apart=self.apart, particle=particle)

        return Solution.joined(self.workers(some, self._groups(stats)))

    def together(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Work that needs all classes."""
        return self.workers(lambda _, given: work(*given), [arguments])[0]

    def moved(self, solution: Solution, shift: Tensor, stats: SufficientStats) -> Solution:
        """The solution of sums that were moved by ``shift`` ``[k 2]`` (pixel) since."""
        particle = stats.particle

        def some(_: int, rows: slice) -> Solution:
            part = solution.of_classes(rows)
            return self.solver.moved(part, shift[rows], stats.of_classes(rows), particle)

        return Solution.joined(self.workers(some, self._groups(stats)))

    def _groups(self, stats: SufficientStats) -> list[slice]:
        """Classes that are solved for together."""
        total = stats.count.shape[1]
        count = max(1, min(self.workers.count, total // _TOGETHER))
        bounds = [total * part // count for part in range(count + 1)]
        return [slice(*ends) for ends in pairwise(bounds)]
