"""Particles picked twice: too near to a better one after alignment."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

MOST_NEIGHBOURS = 100
"""Of a particle on average; beyond, pairs are not listed."""


class UnknownPositionError(ValueError):
    """Picks without a finite position in Angstrom cannot be compared."""


@dataclass(frozen=True)
class Duplicates:
    """The outcome, one value per particle.

    Attributes:
        keep: whether the particle stays ``[n]`` (bool).
        survivor: row of the particle that stays in its place ``[n]`` (int64); the row itself
            where ``keep``.
    """

    keep: np.ndarray
    survivor: np.ndarray


def aligned_centres(
    x: np.ndarray, y: np.ndarray, pixel_size: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Where the particles are on their micrographs once centred.

    A shift moves the image onto the class, so the particle lies at the pick minus the shift.

    Args:
        x: pick ``[n]`` (micrograph pixel).
        y: pick ``[n]`` (micrograph pixel), in the direction of the rows of the particle image.
        pixel_size: of the micrographs ``[n]`` (Angstrom).
        shift: x and y, image -> class ``[n 2]`` (Angstrom).

    Returns:
        x and y ``[n 2]`` (Angstrom).

    Raises:
        UnknownPositionError: a position is not finite, as when the pixel size is not known.
    """
    centre = np.stack([x, y], axis=1) * pixel_size[:, None] - shift
    wrong = ~np.isfinite(centre).all(axis=1)
    if wrong.any():
        raise UnknownPositionError(
            f"{wrong.sum()} of {len(wrong)} particles (first: row {np.argmax(wrong)}) have no "
            "position in Angstrom: coordinate, micrograph pixel size or shift is missing. "
            "Do: give post.micrograph_pixel_size, or set post.remove_duplicates=false"
        )
    return centre


def find_duplicates(
    micrograph: np.ndarray,
    centre: np.ndarray,
    posterior: np.ndarray,
    error: np.ndarray,
    min_separation: float = 20.0,
) -> Duplicates:
    """Keep the best particle of every crowd.

    Particles are visited from the highest posterior (ties: lowest error, then first row); each
    one that is still there removes all others of its micrograph nearer than ``min_separation``.
    So no two kept particles are too near, and every removed one is near a kept, better one.

    Args:
        micrograph: name or number of the micrograph ``[n]``.
        centre: x and y on it ``[n 2]`` (Angstrom).
        posterior: of the best class ``[n]``; nan counts as worst.
        error: chi-squared of the best pose ``[n]``; nan counts as worst.
        min_separation: Angstrom.
    """
    total = len(centre)
    survivor = np.arange(total, dtype=np.int64)
    order = np.lexsort((np.nan_to_num(error, nan=np.inf), -np.nan_to_num(posterior, nan=-np.inf)))
    rank = np.empty(total, dtype=np.int64)
    rank[order] = np.arange(total)
    if total < 2 or min_separation <= 0:
        return Duplicates(np.ones(total, dtype=bool), survivor)
    group, _ = pd.factorize(micrograph)
    # one tree for all: micrographs are sheets too far apart in a third dimension to meet
    flat = centre - np.median(centre, axis=0)
    tree = cKDTree(np.column_stack([flat, 2.0 * min_separation * group]))
    if tree.count_neighbors(tree, min_separation) > MOST_NEIGHBOURS * total:
        keep = _thinned(tree, centre, order, min_separation, survivor)
        return Duplicates(keep, survivor)
    # each pair as (better, worse), sorted by the rank of the better: one pass decides everything
    pairs = _near_pairs(tree, centre, min_separation)
    swap = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    pairs[swap] = pairs[swap][:, ::-1]
    pairs = pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))]
    keep = np.ones(total, dtype=bool)
    for better, worse in pairs.tolist():
        if keep[better] and keep[worse]:
            keep[worse] = False
            survivor[worse] = better
    return Duplicates(keep, survivor)


def _near_pairs(tree: cKDTree, centre: np.ndarray, separation: float) -> np.ndarray:
    """Rows of all pairs nearer than the separation ``[p 2]``."""
    pairs = tree.query_pairs(separation, output_type="ndarray").astype(np.int64)
    distance = np.linalg.norm(centre[pairs[:, 0]] - centre[pairs[:, 1]], axis=1)
    return pairs[distance < separation]


def _thinned(
    tree: cKDTree,
    centre: np.ndarray,
    order: np.ndarray,
    separation: float,
    survivor: np.ndarray,
) -> np.ndarray:
    """What stays of crowds so dense that their pairs would fill the memory ``[n]`` (bool).

    Args:
        tree: of the particles.
        centre: x and y ``[n 2]`` (Angstrom).
        order: rows, the best first ``[n]``.
        separation: Angstrom.
        survivor: gets the row that stays in the place of each other one ``[n]``.
    """
    keep = np.ones(len(order), dtype=bool)
    for row in order.tolist():
        if not keep[row]:
            continue
        near = np.array(tree.query_ball_point(tree.data[row], separation), dtype=np.int64)
        distance = np.linalg.norm(centre[near] - centre[row], axis=1)
        gone = near[keep[near] & (distance < separation) & (near != row)]
        keep[gone] = False
        survivor[gone] = row
    return keep
