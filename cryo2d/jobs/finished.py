"""Finished runs as a comparison sees them: settings, measures, particles, averages."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from cryo2d.errors import InputError, Problem
from cryo2d.io.averages import ClassAverages, read_class_averages
from cryo2d.io.particles import (
    AlignmentColumns,
    Excluded,
    ParticleTable,
    pose_problems,
    read_particles,
)
from cryo2d.jobs.settings_file import as_text, leaves, read_settings
from cryo2d.jobs.sweep import DIRECTION
from cryo2d.training.callbacks.export import given_settings
from cryo2d.training.callbacks.metrics import read_rows
from cryo2d.training.manifest import read_facts

NEEDED = ("particles.star", "class_averages.star", "manifest.json")

UNTOLD = ("callbacks.", "logger.", "hardware.", "data.cache", "debug", "resume")
"""Settings that change no class; those of a simulation count only where there was one."""


@dataclass(frozen=True)
class FinishedRun:
    """A classification that has come to its end.

    Attributes:
        folder: of the run.
        name: short, different from those of the other runs.
        table: its particles.
        excluded: those that cannot be used.
    """

    folder: Path
    name: str
    table: ParticleTable
    excluded: Excluded

    @property
    def classes(self) -> np.ndarray:
        """Class of each particle ``[n]``."""
        found = self.table.alignment or AlignmentColumns()
        assert found.class_index is not None
        return found.class_index

    @cached_property
    def averages(self) -> ClassAverages:
        """Its class averages."""
        return read_class_averages(self.folder)

    @cached_property
    def settings(self) -> dict[str, str]:
        """Every setting by its dotted name, as text."""
        found = read_settings(self.folder)
        plain = {} if found is None else OmegaConf.to_container(found)
        return {key: as_text(value) for key, value in leaves(plain)}

    @cached_property
    def measures(self) -> dict[str, float]:
        """What metrics.csv and the manifest say of the last iteration, the objectives too."""
        rows = read_rows(self.folder / "metrics.csv")
        last = rows[-1] if rows else {}
        count = np.bincount(self.classes, minlength=len(self.averages))
        names = ("median_resolution", "best_resolution", "effective_classes", "mean_posterior")
        found = {name: last.get(name, np.nan) for name in names}
        found["empty_classes"] = float((count == 0).sum())
        found |= {n: np.nan if v is None else float(v) for n, v in self._objectives.items()}
        found["minutes"] = sum(row["seconds"] for row in rows) / 60 if rows else np.nan
        return found

    @property
    def _objectives(self) -> dict[str, float | None]:
        found = read_facts(self.folder / "manifest.json").get("objectives", {})
        return dict.fromkeys(DIRECTION) | found

    @property
    def counts(self) -> dict[str, int]:
        """Where its particles went."""
        particles = read_facts(self.folder / "manifest.json").get("particles", {})
        return {name: int(value) for name, value in particles.items()}

    @property
    def command(self) -> str:
        """The command line that makes it again."""
        path = self.folder / ".hydra" / "overrides.yaml"
        given = given_settings(path.read_text(encoding="utf-8")) if path.is_file() else []
        words = [word.strip("'") if word.startswith("'") else word for word in given]
        if not any(word.startswith("seed=") for word in words) and "seed" in self.settings:
            words.append(f"seed={self.settings['seed']}")
        return shlex.join(["cryo2d", *words])


def finished_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Runs of these folders, those of sweeps among them, and notes on what is left out.

    Raises:
        InputError: if a folder holds no finished run.
    """
    folders, notes, problems = [], [], []
    for path in paths:
        found = [path] if _is_finished(path) else _of_sweep(path)
        if not found:
            what = "no finished run" if path.is_dir() else "no such folder"
            expected = f"the folder of a finished run ({', '.join(NEEDED)}) or of a sweep"
            problems.append(Problem(str(path), what, expected, "give folders of outputs/classify/"))
        elif not _is_finished(path):
            left = [p.name for p in path.iterdir() if (p / "config.yaml").is_file()]
            missing = len(left) - len(found)
            notes += [f"{missing} runs of {path} did not finish."] if missing > 0 else []
        folders += found
    if problems:
        raise InputError(problems)
    distinct = list(dict.fromkeys(folder.resolve() for folder in folders))
    names = _names(distinct)
    runs = []
    for folder, name in zip(distinct, names, strict=True):
        table, excluded = read_particles(
            folder / "particles.star", require_ctf=False, require_stacks=False
        )
        if table.alignment is None or table.alignment.class_index is None:
            problems.append(
                Problem(table.source, "no class", "rlnClassNumber", "give a classification")
            )
        problems += pose_problems(table)
        runs.append(FinishedRun(folder, name, table, excluded))
    if problems:
        raise InputError(problems)
    return runs, notes


def differing(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs, with the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key, "-") for run in runs] for key in keys}
    simulated = "null" in values.get("data.path", ())
    left = UNTOLD if simulated else (*UNTOLD, "simulation.")
    return {
        key: texts
        for key, texts in values.items()
        if len(set(texts)) > 1 and not key.startswith(left)
    }


def _is_finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in NEEDED)


def _of_sweep(folder: Path) -> list[Path]:
    """Finished runs in a folder, 2 before 10."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _is_finished(path)]
    return sorted(found, key=lambda p: (len(p.name), p.name) if p.name.isdigit() else (0, p.name))


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for length in range(1, 10):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
