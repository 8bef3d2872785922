"""What is said about each class under its picture, in tables and in the report."""

from dataclasses import dataclass

import numpy as np

from cryo2d.types import Assignments, IterationSummary


@dataclass(frozen=True)
class ClassTable:
    """One row per class, ``[k]`` each; the row number is the stable class number.

    Attributes:
        count: particles whose best class this is.
        resolution: where the half-set FRC falls below 0.143 (Angstrom).
        resolution_half: where it falls below 0.5 (Angstrom).
        ess: mean effective number of classes of the members.
        posterior: mean posterior of the members.
        outlier: mean outlier measure of the members, or None where it was not taken.
        score: 0 (bad) to 1 (good), or None where classes are not ranked.
        reason: what speaks against each class; empty without scores.
        superclass: classes with the same number show the same view, the largest one is 0; -1 for
            an empty class. None where they were not compared.

    All but the count are nan for an empty class.
    """

    count: np.ndarray
    resolution: np.ndarray
    resolution_half: np.ndarray
    ess: np.ndarray
    posterior: np.ndarray
    outlier: np.ndarray | None = None
    score: np.ndarray | None = None
    reason: tuple[str, ...] = ()
    superclass: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.count)

    @property
    def share(self) -> np.ndarray:
        """Percentage of the particles in each class ``[k]``."""
        return 100.0 * self.count / max(1, self.count.sum())

    @property
    def empty(self) -> np.ndarray:
        """Which classes have no particle ``[k]``."""
        return self.count == 0

    @property
    def alike(self) -> list[np.ndarray]:
        """Classes of each superclass that has several, those of the largest first."""
        if self.superclass is None:
            return []
        groups = range(self.superclass.max(initial=-1) + 1)
        members = [np.flatnonzero(self.superclass == g) for g in groups]
        return [classes for classes in members if len(classes) > 1]

    def by_count(self) -> np.ndarray:
        """Class numbers, largest class first, ties by number."""
        return np.argsort(-self.count, kind="stable")

    @classmethod
    def of_iteration(cls, summary: IterationSummary) -> "ClassTable":
        """The classes as one iteration saw them."""
        count = summary.counts.long().numpy()
        half, gold = _resolutions(summary, count)
        return cls(
            count=count,
            resolution=gold,
            resolution_half=half,
            ess=np.where(count > 0, summary.class_ess.double().numpy(), np.nan),
            posterior=np.where(count > 0, summary.class_probability.double().numpy(), np.nan),
        )

    @classmethod
    def of_members(
        cls, summary: IterationSummary, assignments: Assignments, keep: np.ndarray
    ) -> "ClassTable":
        """The classes with counts and means taken over the particles that were kept.

        Args:
            summary: last iteration, for the resolutions.
            assignments: final assignments ``[n]``.
            keep: which particles count ``[n]``.
        """
        index = assignments.class_index.numpy()[keep]
        count = np.bincount(index, minlength=len(summary.counts))
        half, gold = _resolutions(summary, count)

        def mean(values: np.ndarray) -> np.ndarray:
            total = np.bincount(index, weights=values[keep], minlength=len(count))
            return np.where(count > 0, total / np.maximum(count, 1), np.nan)

        return cls(
            count=count,
            resolution=gold,
            resolution_half=half,
            ess=mean(assignments.class_ess.double().numpy()),
            posterior=mean(assignments.class_posterior.double().numpy()),
            outlier=mean(assignments.outlier.double().numpy()),
        )

    def text(self, order: np.ndarray | None = None, limit: int = 50) -> str:
        """A plain table for a terminal.

        Args:
            order: class numbers from top to bottom; None for largest class first.
            limit: rows shown; the rest is summed up in one line.
        """
        names = ("class", "particles", "%", "res. (A)", "ESS", "posterior")
        head = " ".join(f"{n:>{w}}" for n, w in zip(names, (5, 10, 6, 9, 6, 10), strict=True))
        head += "" if self.score is None else "  score"
        lines = [head, "-" * len(head)]
        order = self.by_count() if order is None else order
        share = self.share
        for k in order[:limit]:
            lines.append(
                f"{k + 1:>5} {self.count[k]:>10,} {share[k]:>6.2f} "
                f"{number(self.resolution[k], 1):>9} "
                f"{number(self.ess[k], 2):>6} {number(self.posterior[k], 3):>10}"
                + ("" if self.score is None else f" {self.score[k]:>6.2f}")
                + ("   empty" if self.count[k] == 0 else "")
            )
        if len(order) > limit:
            rest = order[limit:]
            lines.append(f"  ... {len(rest)} more classes, {self.count[rest].sum():,} particles")
        lines.append("-" * len(head))
        used = int((~self.empty).sum())
        lines.append(f"{'sum':>5} {self.count.sum():>10,}   {used} of {len(self)} classes in use")
        lines += [
            f"one view: classes {', '.join(map(str, classes + 1))}"
            for classes in self.alike[:limit]
        ]
        return "\n".join(lines)


def _resolutions(summary: IterationSummary, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At FRC 0.5 and 0.143 ``[k]``; an empty class keeps an old average but has none of its own."""
    half, gold = summary.class_resolution.double().numpy().T
    return np.where(count > 0, half, np.nan), np.where(count > 0, gold, np.nan)


def number(value: float, digits: int) -> str:
    """A number with fixed digits, or a dash where there is none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"
