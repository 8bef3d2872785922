"""Which particles each iteration visits."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Plan(Protocol):
    """Which iterations there are."""

    @property
    def total(self) -> int:
        """Number of iterations."""

    def is_full(self, iteration: int) -> bool:
        """Whether an iteration visits every particle at the end of the run."""

    def rows(self, iteration: int) -> Tensor:
        """Rows that an iteration visits ``[n]`` (int64)."""


def batch_of(iteration: int, *, iterations: int, mean: float, growth: float) -> int:
    """Particles of an online iteration: they grow linearly, ``growth``-fold in all.

    While averages are poor, many small batches bring them further than few large ones; later
    there is more to be averaged over.
    """
    part = min(1.0, (iteration + 0.5) / max(1, iterations))
    return max(1, round(2.0 * mean * (1.0 + (growth - 1.0) * part) / (1.0 + growth)))


@dataclass(frozen=True)
class VisitPlan:
    """Online iterations over shuffled particles, then passes over all of them.

    The online iterations cut one endless stream of shuffled passes into batches, so that no
    particle is visited twice before every other was visited once. The rows of an iteration depend
    on the seed and its number alone: a resumed run goes on as if it had never stopped.

    Args:
        num_particles: particles there are.
        batch: particles of an online iteration, on average.
        iterations: online iterations.
        full_iterations: passes over all particles at the end.
        seed: seed of the order.
        growth: particles of the last online iteration over those of the first.
    """

    num_particles: int
    batch: int
    iterations: int
    full_iterations: int
    seed: int
    growth: float = 1.0

    @cached_property
    def _bounds(self) -> list[int]:
        """Where in the stream of passes each online iteration begins, and where the last ends."""
        sizes = (
            batch_of(i, iterations=self.iterations, mean=self.batch, growth=self.growth)
            for i in range(self.iterations)
        )
        return list(accumulate((min(size, self.num_particles) for size in sizes), initial=0))

    @property
    def total(self) -> int:
        """Number of iterations."""
        return self.iterations + self.full_iterations

    def is_full(self, iteration: int) -> bool:
        """Whether an iteration visits every particle at the end of the run."""
        return iteration >= self.iterations

    def _pass(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(self.num_particles, generator=generator)

    def rows(self, iteration: int) -> Tensor:
        """Rows that an iteration visits ``[n]`` (int64); file order in a full pass."""
        if self.is_full(iteration):
            return torch.arange(self.num_particles)
        first, last = self._bounds[iteration : iteration + 2]
        parts = []
        for number in range(first // self.num_particles, (last - 1) // self.num_particles + 1):
            start = number * self.num_particles
            order = self._pass(number)
            parts.append(order[max(0, first - start) : last - start])
        return torch.cat(parts)


@dataclass(frozen=True)
class Shares:
    """Blocks of the particles, one for each of the processes that read and visit them.

    Attributes:
        bounds: first row of each block, and the end of the last.
    """

    bounds: tuple[int, ...]

    @classmethod
    def even(cls, num_particles: int, size: int) -> "Shares":
        """Blocks of equal size, within one particle."""
        return cls(tuple(num_particles * rank // size for rank in range(size + 1)))

    def without(self, rows: np.ndarray) -> "Shares":
        """The blocks after some rows ``[n]`` were taken out of the table."""
        gone = np.searchsorted(np.sort(rows), self.bounds)
        return Shares(tuple((np.array(self.bounds) - gone).tolist()))

    def block(self, rank: int) -> range:
        """Rows of a process."""
        return range(self.bounds[rank], self.bounds[rank + 1])

    def split(self, rows: Tensor) -> list[Tensor]:
        """The rows ``[n]`` of an iteration that each process visits, in their order."""
        blocks = map(self.block, range(len(self.bounds) - 1))
        return [rows[(rows >= block.start) & (rows < block.stop)] for block in blocks]


def half_sets(num_particles: int, seed: int) -> Tensor:
    """Half-set of every particle, 0 or 1 in random order and equal numbers ``[n]`` (int64)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 - 1)
    half = torch.arange(num_particles) % 2
    return half[torch.randperm(num_particles, generator=generator)]
