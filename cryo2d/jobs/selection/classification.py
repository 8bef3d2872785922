"""What a classification leaves in its folder, as far as classes are chosen by it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.averages import NAME, ClassAverages, read_class_averages
from cryo2d.ranking.ranker import REASON, SCORE, read_ranker

MANIFEST = "manifest.json"
PARTICLES = ("particles.star", "particles.cs")


@dataclass(frozen=True)
class Classification:
    """The classes of a run that is finished or still going on.

    Attributes:
        folder: of the run.
        averages: of its last iteration.
        finished: whether its particles have been written.
    """

    folder: Path
    averages: ClassAverages
    finished: bool

    @classmethod
    def read(cls, folder: Path) -> "Classification":
        """Read the classes from the folder of a run.

        Raises:
            InputError: if it is no such folder, or has no averages yet.
        """
        if not folder.is_dir():
            found = "a file" if folder.exists() else "no such folder"
            expected = "the folder of a classification"
            raise InputError([Problem(str(folder), found, expected, "correct run=")])
        if not (folder / f"{NAME}.star").is_file():
            found = f"no {NAME}.star"
            action = (
                "give the folder of a run (run=outputs/classify/...), after its first iteration"
            )
            problem = Problem(str(folder), found, "the folder of a classification", action)
            raise InputError([problem])
        finished = cls.is_finished(folder)
        return cls(folder, read_class_averages(folder), finished)

    @staticmethod
    def is_finished(folder: Path) -> bool:
        """Whether a run has written everything."""
        return (folder / MANIFEST).is_file() and any((folder / n).is_file() for n in PARTICLES)

    def __len__(self) -> int:
        return len(self.averages)

    @cached_property
    def measures(self) -> dict[str, np.ndarray]:
        """Numbers by which classes are compared, ``[k]`` each.

        ``class`` counts from 1 as rlnClassNumber does; ``count`` particles; ``weight`` share of
        the particles; ``resolution`` (Angstrom, inf where there is none); ``ess`` and
        ``posterior``, means over the members; ``score``; and whatever other numbers the averages
        came with.
        """
        columns = {"class": np.arange(1, len(self) + 1), **self.scored.columns}
        if "share" in columns:
            columns["weight"] = columns.pop("share")
        return {
            name: np.asarray(values, np.float64)
            for name, values in columns.items()
            if np.asarray(values).dtype.kind != "S"
        }

    @cached_property
    def scored(self) -> ClassAverages:
        """The averages with ``score`` and ``reason``: the run's own, or as the job rank would."""
        if SCORE in self.averages.columns:
            return self.averages
        return read_ranker()(self.averages).added_to(self.averages)

    @cached_property
    def reasons(self) -> list[str]:
        """What speaks against each class, in words ``[k]``; empty texts where nothing is known."""
        known = self.scored.columns.get(REASON)
        if known is None:
            return [""] * len(self)
        return [text.decode("utf-8", "replace") for text in known.tolist()]

    def require_finished(self) -> None:
        """Refuse a run whose particles have not been written.

        Raises:
            InputError: if it is still going on, or was interrupted.
        """
        if not self.finished:
            found = f"no {MANIFEST}: the run is not finished"
            action = "wait for it, or go on with it by cryo2d resume=" + str(self.folder)
            problem = Problem(str(self.folder), found, "the particles of a finished run", action)
            raise InputError([problem])
