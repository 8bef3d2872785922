"""What the visits of an iteration add to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from cryo2d.em.stats import SufficientStats
from cryo2d.em.variety import VarietySums


@dataclass(frozen=True)
class Sums:
    """Statistics, and what varies in each class where that is looked at.

    Attributes:
        stats: of the M-step.
        variety: what varies, or None.
    """

    stats: SufficientStats
    variety: VarietySums | None = None

    def as_dict(self) -> dict[str, Tensor]:
        """All sums by name."""
        varied = {} if self.variety is None else self.variety.as_dict()
        return self.stats.as_dict() | {f"variety_{name}": value for name, value in varied.items()}

    def add_(self, other: Self) -> None:
        """Add the sums over other particles, in place."""
        self.stats.add_(other.stats)
        if self.variety is not None and other.variety is not None:
            self.variety.add_(other.variety)

    def replaced(self, values: Sequence[Tensor]) -> Self:
        """Sums of the same kind with other values, in the order of :meth:`as_dict`."""
        own = len(self.stats.as_dict())
        variety = None if self.variety is None else VarietySums(*values[own:])
        return type(self)(SufficientStats(*values[:own]), variety)
