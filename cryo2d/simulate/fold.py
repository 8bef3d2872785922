"""Pieces of proteins and nucleic acids as Gaussian beads: rods, sheets, duplexes, domains.

Beads are rows ``x y z sigma weight`` (Angstrom, Angstrom, residues). The spacings are those of
real structures, helices packed 10 Angstrom apart and strands 4.8, so that a filled domain has the
density of protein and its projections show rods and sheets at 6 to 10 Angstrom.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Beads = NDArray[np.float64]
Fold = Literal["alpha", "beta", "mixed"]

_HELIX_SPACING = 9.8
_STRAND_SPACING = 4.8
_LAYER_SPACING = 9.8
_DUPLEX_SPACING = 23.0


def rotation(axis: ArrayLike, degrees: float) -> NDArray[np.float64]:
    """Matrix of a right-handed turn about an axis (Rodrigues), ``[3 3]``."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross


def moved(beads: Beads, turn: NDArray[np.float64], by: ArrayLike = (0.0, 0.0, 0.0)) -> Beads:
    """The beads turned about the origin, then moved."""
    return np.concatenate([beads[:, :3] @ turn.T + np.asarray(by), beads[:, 3:]], axis=1)


def symmetric(beads: Beads, turns: Sequence[NDArray[np.float64]]) -> Beads:
    """Copies of an asymmetric unit under the operations of a point group."""
    return np.concatenate([moved(beads, turn) for turn in turns])


def _beads(points: NDArray[np.float64], sigma: float, weight: float) -> Beads:
    return np.concatenate([points, np.tile([sigma, weight], (len(points), 1))], axis=1)


def rod(start: NDArray[np.float64], end: NDArray[np.float64]) -> Beads:
    """An alpha helix at 6 Angstrom: a rod of 7 Angstrom width, a residue per 1.5 Angstrom."""
    length = float(np.linalg.norm(end - start))
    number = max(2, round(length / 4.0) + 1)
    points = start + np.linspace(0.0, 1.0, number)[:, None] * (end - start)
    return _beads(points, 2.6, length / 1.5 / number)


def strand(start: NDArray[np.float64], end: NDArray[np.float64]) -> Beads:
    """A beta strand: thinner than a helix, a residue per 3.3 Angstrom."""
    length = float(np.linalg.norm(end - start))
    number = max(2, round(length / 4.0) + 1)
    points = start + np.linspace(0.0, 1.0, number)[:, None] * (end - start)
    return _beads(points, 2.1, length / 3.3 / number)


def duplex(start: NDArray[np.float64], end: NDArray[np.float64], turn: float) -> Beads:
    """Double-stranded RNA (A form): two strands of pitch 28 Angstrom, denser than protein."""
    length = float(np.linalg.norm(end - start))
    axis = (end - start) / length
    side = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.8 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    along = np.arange(0.0, length, 4.5)
    phase = turn + 2.0 * math.pi * along / 28.0
    points = []
    for strand_phase in (phase, phase + 0.8 * math.pi):
        ring = np.cos(strand_phase)[:, None] * side
        ring = ring + np.sin(strand_phase)[:, None] * np.cross(axis, side)
        points.append(start + along[:, None] * axis + 7.5 * ring)
    return _beads(np.concatenate(points), 3.2, 4.0)


def _chords(
    rng: Generator, radii: NDArray[np.float64], height: float, angle: float, spacing: float
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Parallel chords of an ellipsoid in the plane z = height, their ends a little ragged."""
    direction = np.array([math.cos(angle), math.sin(angle), 0.0])
    across = np.array([-math.sin(angle), math.cos(angle), 0.0])
    reach = float(radii[:2].max())
    chords = []
    for offset in np.arange(-reach, reach, spacing) + rng.uniform(0.0, 0.5 * spacing):
        middle = offset * across + np.array([0.0, 0.0, height])
        a = float(np.sum((direction / radii) ** 2))
        b = float(np.sum(direction * middle / radii**2))
        c = float(np.sum((middle / radii) ** 2)) - 1.0
        if b * b - a * c <= 0.0:
            continue
        half = math.sqrt(b * b - a * c) / a
        first, last = -b / a - half + rng.uniform(0, 3), -b / a + half - rng.uniform(0, 3)
        if last - first > 7.0:
            start, end = middle + first * direction, middle + last * direction
            lean = 0.05 * (last - first) * rng.normal(size=3)
            chords.append((start - lean, end + lean))
    return chords


def domain(
    rng: Generator,
    centre: ArrayLike,
    radii: ArrayLike,
    fold: Fold,
    axes: NDArray[np.float64] | None = None,
) -> Beads:
    """A compact domain: an ellipsoid filled with crossing layers of helices or strands.

    Args:
        rng: for the directions of the layers and the ragged ends.
        centre: of the ellipsoid (Angstrom).
        radii: of the ellipsoid along its own axes (Angstrom); layers are stacked along the third.
        fold: "alpha" helices only, "beta" sheets only, "mixed" sheets between helices.
        axes: columns are the ellipsoid's axes; at random if null.

    Returns:
        Beads ``[atoms 5]``.
    """
    if axes is None:
        axes = random_rotation(rng)
    size = np.asarray(radii, dtype=np.float64)
    number = max(1, round((2.0 * size[2] - 4.0) / _LAYER_SPACING))
    angle = rng.uniform(0.0, math.pi)
    parts = []
    for layer in range(number):
        height = (layer - 0.5 * (number - 1)) * _LAYER_SPACING
        sheet = fold == "beta" or (fold == "mixed" and layer % 2 == 1)
        spacing = _STRAND_SPACING if sheet else _HELIX_SPACING
        draw = strand if sheet else rod
        parts += [draw(*ends) for ends in _chords(rng, size, height, angle, spacing)]
        angle += math.radians(-30.0 if sheet else rng.choice([-50.0, 20.0]))
    parts.append(filling(rng, size))
    return moved(np.concatenate(parts), axes, centre)


def filling(rng: Generator, radii: ArrayLike) -> Beads:
    """Loops and side chains: weaker, wider beads at random between the rods of an ellipsoid."""
    size = np.asarray(radii, dtype=np.float64)
    points = rng.normal(size=(max(4, round(float(np.prod(size)) / 280.0)), 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points *= size * rng.uniform(0.1, 1.06, (len(points), 1)) ** (1.0 / 3.0)
    return _beads(points, 4.0, 3.3)


def folded_rna(rng: Generator, centre: ArrayLike, radii: ArrayLike) -> Beads:
    """An ellipsoid filled with crossing layers of RNA duplexes, a tenth of them missing."""
    axes = random_rotation(rng)
    size = np.asarray(radii, dtype=np.float64)
    number = max(1, round(2.0 * size[2] / _DUPLEX_SPACING - 0.3))
    angle = rng.uniform(0.0, math.pi)
    parts = []
    for layer in range(number):
        height = (layer - 0.5 * (number - 1)) * _DUPLEX_SPACING
        for start, end in _chords(rng, size, height, angle, _DUPLEX_SPACING):
            if rng.uniform() < 0.9:
                parts.append(duplex(start, end, rng.uniform(0.0, 2.0 * math.pi)))
        angle += math.radians(rng.uniform(35.0, 80.0))
    return moved(np.concatenate(parts), axes, centre)


def random_rotation(rng: Generator) -> NDArray[np.float64]:
    """A rotation drawn uniformly from SO(3) (a unit quaternion of normal numbers), ``[3 3]``."""
    return random_rotations(rng, 1)[0]


def random_rotations(rng: Generator, number: int) -> NDArray[np.float64]:
    """Rotations drawn uniformly from SO(3), ``[n 3 3]``."""
    quaternion = rng.normal(size=(number, 4))
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
