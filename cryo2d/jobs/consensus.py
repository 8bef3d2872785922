"""What runs agree on: one classification made of all of them, or one run as the measure."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from cryo2d.data.consensus import (
    adjusted_rand,
    consensus,
    contingency,
    matched,
    shared_rows,
    stability,
)
from cryo2d.data.frames import Placed, Poses, common_poses, placed_classes
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.register import Registrar, Registration
from cryo2d.io.averages import ClassAverages
from cryo2d.io.particles import AlignmentColumns, ParticleTable
from cryo2d.jobs.finished import FinishedRun

LEAST_RUNS = 3  # of fewer there is no majority
NAME = "consensus"


@dataclass(frozen=True)
class Consensus:
    """What the runs agree on.

    Attributes:
        rows: rows of the shared particles in each run's table ``[n]`` each.
        agreement: adjusted Rand index ``[r r]``; nan without shared particles.
        reference: the run whose classes are the measure, None for the consensus of all.
        base: the run that other columns of the particles are from.
        table: particles with the classes and poses that are the measure ``[m]``.
        averages: of its classes ``[k]``.
        particles: stability of each particle of the table ``[m]``; nan for those not shared.
        classes: stability of each class ``[k]``.
        partner: class of each run that matches each of the classes ``[r k]``; -1 for none.
    """

    rows: list[np.ndarray]
    agreement: np.ndarray
    reference: int | None
    base: int
    table: ParticleTable
    averages: ClassAverages
    particles: np.ndarray
    classes: np.ndarray
    partner: np.ndarray

    @property
    def is_made(self) -> bool:
        """Whether the classes are the consensus of all runs."""
        return self.reference is None

    @property
    def shared(self) -> int:
        """Particles that are in all runs."""
        return len(self.rows[0])

    @property
    def with_others(self) -> np.ndarray:
        """Mean agreement of each run with the others ``[r]``."""
        count = len(self.agreement)
        return (self.agreement.sum(1) - np.diag(self.agreement)) / max(count - 1, 1)


def consensus_of(runs: Sequence[FinishedRun], reference: int | None) -> Consensus:
    """Agreement of all pairs of runs, and the stability of the classes that are the measure.

    Args:
        runs: the runs.
        reference: the run whose classes are the measure; None for the consensus of all, or, where
            there are but two runs or no shared particles, the one that agrees most.
    """
    rows = shared_rows([r.table for r in runs])
    labels = [r.classes[own] for r, own in zip(runs, rows, strict=True)]
    agreement = _agreement(labels)
    base = int(np.argmax(np.nan_to_num(agreement).sum(1))) if reference is None else reference
    if reference is None and len(rows[0]) and len(runs) >= LEAST_RUNS:
        table, averages = _of_all(runs, rows, labels, base)
        own, others = _classes(table), labels
        shared = np.arange(len(table))
    else:
        reference = base
        table, averages = runs[base].table, runs[base].averages
        own, others = labels[base], [one for i, one in enumerate(labels) if i != base]
        shared = rows[base]
    particles, classes = np.full(len(table), np.nan), np.full(len(averages), np.nan)
    partner = np.full((len(runs), len(averages)), -1)
    if len(shared):
        of_particle, of_class = stability(own, others)
        particles[shared] = of_particle
        classes[: len(of_class)] = of_class
        for i, label in enumerate(labels):
            found = matched(contingency(own, label))
            partner[i, : len(found)] = found
    return Consensus(rows, agreement, reference, base, table, averages, particles, classes, partner)


def _agreement(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Adjusted Rand index of all pairs of classifications ``[r r]``; nan without particles."""
    count = len(labels)
    if not len(labels[0]):
        return np.full((count, count), np.nan)
    agreement = np.eye(count)
    for i in range(count):
        for j in range(i):
            value = adjusted_rand(contingency(labels[i], labels[j]))
            agreement[i, j] = agreement[j, i] = value
    return agreement


def _of_all(
    runs: Sequence[FinishedRun],
    rows: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    base: int,
) -> tuple[ParticleTable, ClassAverages]:
    """The shared particles in the classes that the runs agree on, and the averages of these.

    There are as many classes as the runs have in use (their median).
    """
    count = int(np.median([len(np.unique(label)) for label in labels]))
    index = consensus(labels, count)
    tables = [one.table.take(own) for one, own in zip(runs, rows, strict=True)]
    found = [table.alignment or AlignmentColumns() for table in tables]
    poses = []
    for label, one in zip(labels, found, strict=True):
        assert one.psi is not None, "a classification without poses"
        assert one.shift is not None, "a classification without poses"
        poses.append(Poses(label, one.psi, one.shift))
    placed = placed_classes(index, poses)
    common = common_poses(index, poses, placed)
    best = _from_runs(found, np.where(common.label < 0, 0, common.label))
    best = replace(best, class_index=index, half=found[base].half)
    best = replace(best, psi=common.psi, shift=common.shift)
    return tables[base].with_alignment(best), _averages(runs, placed, index, runs[base].averages)


def _from_runs(found: Sequence[AlignmentColumns], source: np.ndarray) -> AlignmentColumns:
    """What the classification that each particle is taken from says of it.

    Args:
        found: of each run ``[n]``.
        source: run of each particle ``[n]``.
    """
    values = {}
    for name in (field.name for field in fields(AlignmentColumns)):
        columns = [getattr(one, name) for one in found]
        if all(column is not None for column in columns):
            values[name] = np.stack(columns)[source, np.arange(len(source))]
    return AlignmentColumns(**values)


def _averages(
    runs: Sequence[FinishedRun],
    placed: Sequence[Sequence[Placed]],
    index: np.ndarray,
    like: ClassAverages,
) -> ClassAverages:
    """Means of the runs' averages in the frames of the consensus classes, by shared particles.

    The numbers of the classes are means alike; values that a class has not are left out.
    """
    images = np.zeros((len(placed), *like.images.shape[1:]), np.float32)
    names = [
        name
        for name, values in like.columns.items()
        if values.dtype.kind == "f"
        and name != "share"
        and all(name in r.averages.columns for r in runs)
    ]
    columns = {name: np.full(len(placed), np.nan) for name in names}
    for k, classes in enumerate(placed):
        if not classes:
            continue
        # a class that is mostly of another one shows that
        parts = [one for one in classes if one.share >= 0.5] or classes[:1]
        size = np.array([one.size for one in parts], dtype=float)
        images[k] = np.average(_moved(runs, parts, like), axis=0, weights=size)
        for name in names:
            values = np.array([runs[one.run].averages.columns[name][one.label] for one in parts])
            known = np.isfinite(values)
            if known.any():
                columns[name][k] = np.average(values[known], weights=size[known])
    for name in ("resolution", "resolution_half"):
        if name in columns:
            columns[name] = np.nan_to_num(columns[name], nan=np.inf)
    columns["count"] = np.bincount(index, minlength=len(placed))
    return ClassAverages(images, like.pixel_size, columns)


def _moved(runs: Sequence[FinishedRun], parts: Sequence[Placed], like: ClassAverages) -> np.ndarray:
    """Averages in the frame of their consensus class, in boxes alike ``[p y x]``."""
    box, count = like.images.shape[-1], len(parts)
    grid = PolarGrid(box, box // 2)
    images = [runs[one.run].averages.images[one.label] for one in parts]
    # runs that end at another resolution have another box of the same length
    resized = torch.stack([fourier_resize(torch.from_numpy(one).float(), box) for one in images])
    pose = Registration(
        torch.ones(count),
        torch.tensor([one.pose.alpha for one in parts], dtype=torch.float32),
        torch.tensor(np.stack([one.pose.tau for one in parts]) / like.pixel_size).float(),
        torch.zeros(count, dtype=torch.bool),
    )
    moved = Registrar(grid, 0.0).moved(grid.harmonics(grid.sample(resized)), pose)
    return grid.synthesize(grid.from_harmonics(moved)).numpy()


def _classes(table: ParticleTable) -> np.ndarray:
    found = table.alignment or AlignmentColumns()
    assert found.class_index is not None
    return found.class_index
