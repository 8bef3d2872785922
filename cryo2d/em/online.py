"""Online expectation-maximisation as a torch optimizer.

The optimizer's state is the running sufficient statistics; a step blends in those of a batch and
solves for new references. The step size is the parameter group's ``lr``, so that an ordinary
learning-rate schedule drives it and checkpoints hold everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryo2d.em.model import ClassModel
from cryo2d.em.population import Reseed
from cryo2d.em.solve import Recenter, Solution, WienerSolver
from cryo2d.em.stats import SufficientStats
from cryo2d.em.upright import Upright


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
        reseed: replacement of dead classes, or None.
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
        reseed: Reseed | None = None,
        upright: Upright | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__([model.references], {"lr": 1.0})
        self.model, self.solver, self.noise_model = model, solver, noise
        self.recenter, self.reseed, self.upright = recenter, reseed, upright
        self.seed = seed

    @property
    def stats(self) -> SufficientStats | None:
        """Running statistics; None before the first step."""
        held = self.state[self.model.references]
        if not held:
            return None
        # kept as real numbers: loading a state casts it to the parameter's type
        return SufficientStats(**{**held, "num": torch.view_as_complex(held["num"])})

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Any] | None = None,
        *,
        stats: SufficientStats,
        iteration: int,
        whole: bool = False,
    ) -> Solution:
        """Blend the statistics of one iteration and solve.

        Args:
            closure: unused, part of torch's interface.
            stats: sums over the particles of this iteration.
            iteration: its 0-based number.
            whole: whether the sums replace the running ones and the averages are final, so that
                they are neither moved nor re-seeded.
        """
        del closure
        gamma = self.param_groups[0]["lr"]
        running = self.stats
        if running is None or whole:
            running = stats
        else:
            # per-particle means, so that batches of any size weigh gamma
            share = running.count.sum() / stats.count.sum().clamp(min=1e-20)
            running = running.blend(stats.scaled(float(share)), gamma)
        if self.reseed is not None and not whole:
            # a generator of each iteration's own: a resumed run draws the same numbers
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
            running = self.reseed(running, stats.count.sum(0), iteration, generator)
        solution = self.solver(running)
        if self.recenter is not None and not whole:
            shift = self.recenter.shift(solution.averages)
            running = running.moved(self.solver.grid, shift)
            solution = self.solver.moved(solution, shift, running)
        if self.upright is not None and iteration == self.upright.iteration:
            running = running.turned(self.upright.turns(solution.averages))
            solution = self.solver(running)
        held = running.as_dict()
        held["num"] = torch.view_as_real(running.num)
        self.state[self.model.references] = held
        self._write(running, solution)
        return solution

    def _write(self, stats: SufficientStats, solution: Solution) -> None:
        model = self.model
        weights = self.solver.grid.ring_weights.to(stats.power.device)
        model.references.copy_(solution.averages)
        model.frc.copy_(solution.frc)
        model.noise.copy_(self.noise_model(stats, weights, model.noise))
        count = stats.count.sum(0)
        model.weights.copy_(count / count.sum().clamp(min=1e-20))
