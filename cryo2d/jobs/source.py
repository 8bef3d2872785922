"""The classified particles that a job starts from: a file, or the folder of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from cryo2d.errors import InputError, Problem
from cryo2d.io.particles import (
    AlignmentColumns,
    Excluded,
    ParticleTable,
    pose_problems,
    read_particles,
)
from cryo2d.jobs.settings_file import read_settings
from cryo2d.training.manifest import read_facts

COLUMNS = {
    "class_index": ("class", "rlnClassNumber, or alignments2D/class"),
    "psi": ("rotation", "rlnAnglePsi, or alignments2D/pose"),
    "shift": ("shift", "rlnOriginXAngst and rlnOriginYAngst, or alignments2D/shift"),
}
MOST_CLASSES = 100_000
CLASSIFICATION = "optimizer"  # a group of settings that only a classification has


@dataclass(frozen=True)
class Source:
    """Particles as a job reads them.

    Attributes:
        table: the particles.
        excluded: those that cannot be used.
        run: folder of the run they come from, or None for a file alone.
        settings: of that run, then of those whose particles it read, back to a classification.
    """

    table: ParticleTable
    excluded: Excluded
    run: Path | None = None
    settings: tuple[DictConfig, ...] = ()

    @property
    def total(self) -> int:
        """Rows of the input."""
        return len(self.table) + len(self.excluded.table)

    def inherited(self, given: Any, key: str, otherwise: Any) -> Any:
        """A setting: as given, else as in the run or those before it, else a default."""
        values = [given, *(OmegaConf.select(one, key) for one in self.settings), otherwise]
        return next((value for value in values if value is not None), None)

    def alignment(self, *needed: str) -> AlignmentColumns:
        """What a classification found, with these columns in it.

        Raises:
            InputError: if one of them is missing.
        """
        found = self.table.alignment or AlignmentColumns()
        action = "give the particles of a finished classification"
        problems = [
            Problem(self.table.source, f"no {COLUMNS[name][0]}", COLUMNS[name][1], action)
            for name in needed
            if getattr(found, name) is None
        ]
        index = found.class_index
        if "class_index" in needed and index is not None and len(index):
            wrong = (index < 0) | (index >= MOST_CLASSES)
            if wrong.any():
                problems.append(self._bad_class(np.flatnonzero(wrong), index))
        if {"psi", "shift"} <= set(needed) and not problems:
            problems += pose_problems(self.table)
        if problems:
            raise InputError(problems)
        return found

    def _bad_class(self, rows: np.ndarray, index: np.ndarray) -> Problem:
        first = int(rows[0])
        return Problem(
            self.table.source,
            f"class {index[first] + 1}",
            f"a class from 1 to {MOST_CLASSES}",
            "correct or remove these particles",
            int(self.table.source_row[first]),
            len(rows),
        )


def read_source(
    cfg: DictConfig, *, require_ctf: bool = False, require_stacks: bool = False
) -> Source:
    """Read ``run`` or ``data.path``, whichever is given.

    Raises:
        InputError: if both or neither are given, or for anything wrong with the particles.
    """
    run, path = cfg.get("run"), OmegaConf.select(cfg, "data.path")
    if (run is None) == (path is None):
        found = "neither run nor data.path" if run is None else f"run={run} and data.path={path}"
        action = "give the folder of a classification, or a .star or .cs file"
        raise InputError([Problem("command line", found, "one of them", action)])
    if run is None:
        more = cfg.data.get("passthrough", [])
        passthrough = [to_absolute_path(p) for p in ([more] if isinstance(more, str) else more)]
        table, excluded = read_particles(
            to_absolute_path(path),
            passthrough=passthrough,
            require_ctf=require_ctf,
            require_stacks=require_stacks,
        )
        return Source(table, excluded)
    folder = run_folder(to_absolute_path(run))
    table, excluded = read_particles(
        folder / "particles.star", require_ctf=require_ctf, require_stacks=require_stacks
    )
    return Source(table, excluded, folder, tuple(settings_of(folder)))


def settings_of(folder: Path) -> Iterator[DictConfig]:
    """Settings of a run, then of the runs that its particles went through."""
    seen: set[Path] = set()
    while (found := read_settings(folder)) is not None and folder.resolve() not in seen:
        seen.add(folder.resolve())
        yield found
        manifest = folder / "manifest.json"
        if CLASSIFICATION in found or not manifest.is_file():
            return
        folder = Path(str(read_facts(manifest).get("source"))).parent


def run_folder(path: str | Path) -> Path:
    """The folder of a finished run.

    Raises:
        InputError: if it is none.
    """
    folder = Path(path)
    if (folder / "particles.star").is_file():
        return folder
    found = "no particles.star in it" if folder.is_dir() else "no such folder"
    expected = "the folder of a finished run, with particles.star"
    raise InputError([Problem(str(folder), found, expected, "give one of outputs/classify/")])


def class_count(classes: np.ndarray) -> int:
    """Number of classes, those without particles among them."""
    return int(classes.max(initial=-1)) + 1
