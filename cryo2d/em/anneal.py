"""Schedules: iteration -> value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PowerLaw:
    """Step size gamma_t = max(floor, (t + offset)^-exponent) (Cappe & Moulines 2009).

    Args:
        exponent: 0.5 to 1; smaller forgets the beginning faster.
        offset: iterations by which the law is delayed.
        floor: smallest step size.
    """

    exponent: float = 0.6
    offset: float = 1.5
    floor: float = 0.1

    def __call__(self, iteration: int) -> float:
        """Step size of a 0-based iteration; the first one takes its statistics whole."""
        if iteration == 0:
            return 1.0
        return min(1.0, max(self.floor, (iteration + self.offset) ** -self.exponent))


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty factor f of the posterior exp(-chi2 / (2 f^2)): ``initial``, then linearly to 1.

    Args:
        initial: factor before annealing (1 or more).
        start: iteration at which annealing starts.
        length: iterations that it takes.
    """

    initial: float = 2.0
    start: float = 2
    length: float = 15

    def __call__(self, iteration: int) -> float:
        """Factor of a 0-based iteration."""
        part = (iteration - self.start) / max(self.length, 1e-9)
        return 1.0 + (self.initial - 1.0) * (1.0 - min(1.0, max(0.0, part)))


@dataclass(frozen=True)
class ResolutionRamp:
    """Rings used for the alignment, growing linearly with the iterations.

    Args:
        first: rings at the start.
        last: rings at the end.
        length: iterations until ``last`` is reached.
    """

    first: int
    last: int
    length: float

    def __call__(self, iteration: int) -> int:
        """Rings of a 0-based iteration."""
        part = min(1.0, iteration / max(self.length, 1e-9))
        return min(self.last, round(self.first + (self.last - self.first) * part))
