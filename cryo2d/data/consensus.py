"""What several classifications of the same particles agree on."""

import os
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from cryo2d.io.particles import ParticleTable


def shared_rows(tables: Sequence[ParticleTable]) -> list[np.ndarray]:
    """Rows of the particles that are in every table, in one order ``[n]`` for each table.

    Two rows are one particle if they show the same image of the same stack; of an image that a
    table has twice the first row counts.
    """
    files = {path: os.path.realpath(path) for table in tables for path in table.stacks}
    number = {file: i for i, file in enumerate(sorted(set(files.values())))}
    keys = []
    for table in tables:
        stack = np.array([number[files[path]] for path in table.stacks], np.int64)[table.stack_id]
        keys.append((stack << 40) + table.image_index)
    common = np.unique(keys[0])
    for key in keys[1:]:
        common = np.intersect1d(common, key)
    rows = []
    for key in keys:
        values, first = np.unique(key, return_index=True)
        rows.append(first[np.searchsorted(values, common)])
    return rows


def contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Particles in class a of the first and b of the second classification ``[a b]`` (int64)."""
    wide = int(second.max(initial=-1)) + 1
    tall = int(first.max(initial=-1)) + 1
    return np.bincount(first * wide + second, minlength=tall * wide).reshape(tall, wide)


def adjusted_rand(counts: np.ndarray) -> float:
    """Adjusted Rand index of a contingency table (Hubert & Arabie 1985).

    Pairs of particles that both keep together, corrected for chance: 1 for the same classes, 0 as
    expected of random ones.
    """
    together = _pairs(counts).sum()
    first, second = _pairs(counts.sum(1)).sum(), _pairs(counts.sum(0)).sum()
    total = _pairs(counts.sum())
    chance = first * second / total if total else 0.0
    most = 0.5 * (first + second)
    return float((together - chance) / (most - chance)) if most != chance else 1.0


def matched(counts: np.ndarray) -> np.ndarray:
    """Class of the second classification for each of the first ``[a]``; -1 for none.

    One to one, with as many shared particles as possible (Hungarian algorithm).
    """
    partner = np.full(counts.shape[0], -1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    shares = counts[rows, columns] > 0
    partner[rows[shares]] = columns[shares]
    return partner


def stability(first: np.ndarray, others: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How far the members of a class stay together in other classifications.

    For a particle: the part of the other members of its class that are with it in another
    classification too, mean over those. For a class: the mean over its members, which is the part
    of all its pairs that stay together.

    Args:
        first: class of each particle ``[n]``.
        others: classes of the same particles elsewhere, ``[n]`` each; at least one.

    Returns:
        Of each particle ``[n]`` and each class ``[k]``; nan for members of a class of one.
    """
    size = np.bincount(first)
    partners = np.where(size > 1, size - 1, np.nan)[first]
    found = np.zeros(len(first))
    for other in others:
        counts = contingency(first, other)
        found += (counts[first, other] - 1) / partners / len(others)
    total = np.bincount(first, weights=found, minlength=len(size))
    return found, total / np.where(size > 1, size, np.nan)


def _pairs(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    return 0.5 * counts * (counts - 1)
