"""Which particles an iteration visits while more of them keep arriving."""

from functools import partial

import torch
from torch import Tensor

from cryo2d.data.sampler import batch_of


class GrowingPlan:
    """Iterations over particles of which there are more and more, then passes over all.

    An opening of ``iterations`` batches over what there is at first; from then on a batch takes the
    particles with the fewest visits until each has had its ``visits``, filled up with others at
    random to a share of ``old_share``. So the visits grow in proportion to the particles. Rows
    depend on the seed, the iteration and the visits so far alone.

    Args:
        batch: particles of a batch of the opening, on average.
        iterations: batches of the opening.
        full_iterations: passes over all particles at the end.
        visits: of each particle that arrives later, before the end.
        old_share: part of a batch that goes to particles that have had their visits.
        seed: seed of the order.
        growth: particles of the last batch of the opening, and of later ones, over those of the
            first.
    """

    def __init__(
        self,
        batch: int,
        iterations: int,
        full_iterations: int,
        *,
        visits: int,
        old_share: float,
        seed: int,
        growth: float = 1.0,
    ) -> None:
        self.iterations, self.full_iterations = iterations, full_iterations
        self.sizes = partial(batch_of, iterations=iterations, mean=batch, growth=growth)
        self.batch = self.sizes(iterations)
        self.visits, self.old_share, self.seed = visits, old_share, seed
        self.counts = torch.zeros(0, dtype=torch.int64)
        self.last: int | None = None
        self.now = 0

    @property
    def total(self) -> int:
        """Number of iterations, at least two more than there are until the end is known."""
        if self.last is None:
            return max(self.now + 2, self.iterations + self.full_iterations)
        return self.last + self.full_iterations

    @property
    def fresh(self) -> int:
        """Particles of a batch that have not had their visits."""
        return max(1, self.batch - round(self.old_share * self.batch))

    def is_full(self, iteration: int) -> bool:
        """Whether an iteration visits every particle at the end of the run."""
        return self.last is not None and iteration >= self.last

    @property
    def due(self) -> int:
        """Particles that have not had their visits."""
        return int((self.counts < self.visits).sum())

    def grow(self, count: int) -> None:
        """Add particles that have just arrived."""
        self.counts = torch.cat([self.counts, torch.zeros(count, dtype=torch.int64)])

    def close(self, iteration: int) -> None:
        """Let the passes over all particles begin at an iteration."""
        self.last = iteration

    def rows(self, iteration: int) -> Tensor:
        """Rows that an iteration visits ``[n]`` (int64), each once."""
        if self.is_full(iteration):
            return torch.arange(len(self.counts))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
        order = torch.randperm(len(self.counts), generator=generator)
        counts = self.counts[order]
        if iteration < self.iterations:
            return order[counts.argsort(stable=True)[: self.sizes(iteration)]]
        due = order[counts < self.visits]
        due = due[self.counts[due].argsort(stable=True)[: self.fresh]]
        done = order[counts >= self.visits]
        # as many as the share allows beside the others; a batch of old ones only where none is due
        others = self.batch - self.fresh if len(due) else self.batch
        return torch.cat([due, done[:others]])

    def visit(self, rows: Tensor) -> None:
        """Count a visit of each row."""
        self.counts[rows] += 1
