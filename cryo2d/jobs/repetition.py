"""How far two runs over the same particles gave the same result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryo2d.data.consensus import adjusted_rand, contingency, matched, shared_rows
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.register import Registrar
from cryo2d.io.particles import AlignmentColumns
from cryo2d.jobs.finished import FinishedRun
from cryo2d.training.callbacks.metrics import read_rows
from cryo2d.training.manifest import read_facts, sha256

TIMES = ("seconds", "particles_per_second", "memory_gb")
"""Columns of metrics.csv that tell of the machine, not of the result."""

DIFFERENT = ("report.html",)
"""Files of a manifest that hold times: never the same twice. metrics.csv is, but for its times."""

MAX_SHIFT = 0.1
"""Of the box, by which averages may be shifted against each other."""


@dataclass(frozen=True)
class Repetition:
    """A run and its repetition.

    Attributes:
        same: files that are the same bit for bit.
        different: files that are not.
        shared: particles in both.
        ari: adjusted Rand index of the classes of the shared particles.
        kept: part of the shared particles that are in matching classes.
        partner: class of the repetition that matches each class ``[k]``; -1 for none.
        moved: part of the particles by which the sizes of the classes differ.
        correlation: of the matching averages, turned and shifted to fit best ``[k]``; nan for none.
    """

    same: tuple[str, ...]
    different: tuple[str, ...]
    shared: int
    ari: float
    kept: float
    partner: np.ndarray
    moved: float
    correlation: np.ndarray

    @property
    def identical(self) -> bool:
        """Whether every file is the same."""
        return not self.different

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        count = len(self.same) + len(self.different)
        if self.identical:
            return f"The results agree bit for bit: {count} files."
        return (
            f"{len(self.different)} of {count} files differ: {self.kept:.2%} of the particles are "
            f"in the same class (ARI {self.ari:.4f}), {self.moved:.2%} fewer or more in the "
            f"classes, averages correlate by {self.least_correlation:.4f} or better."
        )

    @property
    def least_correlation(self) -> float:
        """That of the least similar pair of averages."""
        known = self.correlation[np.isfinite(self.correlation)]
        return float(known.min()) if len(known) else np.nan


def repetition(first: FinishedRun, second: FinishedRun) -> Repetition:
    """Compare a run with its repetition."""
    same, different = compared_files(first.folder, second.folder)
    rows = rows_of_both(first, second)
    labels = [run.classes[own] for run, own in zip((first, second), rows, strict=True)]
    counts = contingency(*labels)
    size, other = len(first.averages), len(second.averages)
    counts = np.pad(counts, ((0, size - counts.shape[0]), (0, other - counts.shape[1])))
    # the averages name the classes: equal numbers match where nothing is gained by another match
    partner = matched(counts * 2 + np.eye(*counts.shape, dtype=np.int64))
    partner[counts.sum(1) == 0] = -1
    used = np.flatnonzero(partner >= 0)
    total = max(len(labels[0]), 1)
    sizes = counts.sum(1)[used], counts.sum(0)[partner[used]]
    return Repetition(
        same=same,
        different=different,
        shared=len(labels[0]),
        ari=adjusted_rand(counts) if len(labels[0]) else np.nan,
        kept=float(counts[used, partner[used]].sum() / total),
        partner=partner,
        moved=float(np.abs(sizes[0] - sizes[1]).sum() / (2 * total)),
        correlation=average_correlation(first, second, partner),
    )


def compared_files(first: Path, second: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the files in the manifests that are the same, and of the others."""
    listed = [_listed(folder) for folder in (first, second)]
    names = sorted(set(listed[0]) | set(listed[1]))
    equal = {
        name: _equal_rows(first / name, second / name)
        if name == "metrics.csv"
        else listed[0].get(name) == listed[1].get(name)
        for name in names
        if name not in DIFFERENT
    }
    return tuple(n for n in equal if equal[n]), tuple(n for n in equal if not equal[n])


def rows_of_both(first: FinishedRun, second: FinishedRun) -> list[np.ndarray]:
    """Rows of the shared particles in each table."""
    rows = shared_rows([first.table, second.table])
    if len(rows[0]):
        return rows
    # each run has simulated its own stack
    _, one, two = np.intersect1d(
        first.table.image_index, second.table.image_index, return_indices=True
    )
    simulated = all((run.folder / "simulated").is_dir() for run in (first, second))
    return [one, two] if simulated else rows


@torch.no_grad()
def average_correlation(first: FinishedRun, second: FinishedRun, partner: np.ndarray) -> np.ndarray:
    """Correlation of each average with its match, turned and shifted to fit best ``[k]``."""
    found = np.full(len(partner), np.nan)
    images = [run.averages.images for run in (first, second)]
    box = images[0].shape[-1]
    if images[1].shape[-1] != box:
        return found
    registrar = Registrar(PolarGrid(box, box // 2), max(1.0, MAX_SHIFT * box), mirror=False)
    one, two = (registrar.describe(torch.from_numpy(np.array(i, np.float32))) for i in images)
    for k in np.flatnonzero(partner >= 0).tolist():
        other = int(partner[k])
        if np.array_equal(images[0][k], images[1][other]):
            found[k] = 1.0
        else:
            pair = registrar.all_pairs(one[k : k + 1], two[other : other + 1])
            found[k] = min(float(pair.correlation), 1.0)
    return found


def pose_shift(first: FinishedRun, second: FinishedRun) -> float:
    """Median distance between the shifts of a particle in both runs (Angstrom)."""
    rows = rows_of_both(first, second)
    shifts = []
    for run, own in zip((first, second), rows, strict=True):
        found = run.table.alignment or AlignmentColumns()
        if found.shift is None:
            return np.nan
        shifts.append(found.shift[own])
    distance = np.linalg.norm(shifts[0] - shifts[1], axis=1)
    return float(np.median(distance)) if len(distance) else np.nan


def _listed(folder: Path) -> Mapping[str, str]:
    """Name and hash of the result's files, by what they hold now."""
    manifest = read_facts(folder / "manifest.json")
    names = [name for name in manifest.get("files", {}) if (folder / name).is_file()]
    return {name: sha256(folder / name) for name in names}


def _equal_rows(first: Path, second: Path) -> bool:
    """Whether two metrics.csv differ in times only."""
    tables = [
        [{k: str(v) for k, v in row.items() if k not in TIMES} for row in read_rows(path)]
        for path in (first, second)
    ]
    return tables[0] == tables[1]
