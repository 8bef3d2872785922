"""What several classifications of the same particles agree on."""

import os
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform

from cryo2d.io.particles import ParticleTable

COMPARED = 5000  # particles that are compared pair by pair; the others follow them
ROUNDS = 10  # in which particles go to the class that they are with most
AT_ONCE = 1 << 24  # numbers of a block of particles and classes


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
    """How far the members of a class stay together, and among themselves, in classifications.

    With A the other members of a particle's class and B those that are with it in another
    classification: the overlap 2 |A and B| / (|A| + |B|) (Dice 1945), mean over those. For a class:
    the mean over its members. A class that others have in two halves, or joined to one of its size,
    is stable by 2/3; one whose members go anywhere by little.

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
        both = contingency(first, other)[first, other] - 1
        found += 2 * both / (partners + np.bincount(other)[other] - 1) / len(others)
    total = np.bincount(first, weights=found, minlength=len(size))
    return found, total / np.where(size > 1, size, np.nan)


def consensus(labels: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Classes of the particles that several classifications keep together.

    Average linkage on the part of the classifications in which two particles share a class
    (evidence accumulation, Fred & Jain 2005), of some particles where there are many. Then each
    goes to the class with whose members it is most often, until nothing changes.

    Args:
        labels: class of each particle, ``[n]`` for each classification.
        count: classes to make, if the particles allow it.

    Returns:
        Class of each particle ``[n]``, the largest is 0.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels[0]))[:COMPARED])
    together = np.zeros((len(chosen), len(chosen)), np.float32)
    for label in labels:
        together += label[chosen][:, None] == label[chosen]
    distance = squareform(1.0 - together / len(labels), checks=False)
    # of one particle there is no pair
    tree = linkage(distance, "average") if len(chosen) > 1 else None
    found = np.ones(1, int) if tree is None else fcluster(tree, count, "maxclust")
    found = _by_size(found)
    for _ in range(ROUNDS):
        before, found = found, _by_size(_most_together(labels, chosen, found))
        chosen = np.arange(len(found))
        if np.array_equal(before, found):
            break
    return found


def _most_together(
    labels: Sequence[np.ndarray], chosen: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """The class with whose members each particle is most often ``[n]``.

    Args:
        labels: class of each particle, ``[n]`` for each classification.
        chosen: particles of which a class is known ``[m]``.
        classes: their class ``[m]``.
    """
    size = np.bincount(classes)
    # part of the members of class k that a classification has in its class c
    parts = []
    for label in labels:
        counts = np.bincount(
            classes * (label.max() + 1) + label[chosen], minlength=len(size) * (label.max() + 1)
        )
        parts.append((counts.reshape(len(size), -1) / size[:, None]).T.astype(np.float32))
    found = np.empty(len(labels[0]), int)
    rows = max(1, AT_ONCE // len(size))
    for start in range(0, len(found), rows):
        block = slice(start, start + rows)
        share = sum(part[label[block]] for part, label in zip(parts, labels, strict=True))
        found[block] = np.argmax(share, axis=1)
    return found


def _by_size(classes: np.ndarray) -> np.ndarray:
    """The same classes by numbers without gaps, the largest is 0."""
    _, index, size = np.unique(classes, return_inverse=True, return_counts=True)
    return np.argsort(np.argsort(-size, kind="stable"))[index]


def _pairs(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    return 0.5 * counts * (counts - 1)
