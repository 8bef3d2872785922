"""What lies beside the molecules of a crowded grid: neighbours that touch, carbon, ice."""

import math
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cryo2d.simulate.fold import random_rotations, rotation
from cryo2d.simulate.phantom import Phantom
from cryo2d.simulate.scene import Instances, Kind, Poses

SURROUNDED = frozenset({Kind.CARBON, Kind.ICE, Kind.OVERLAP})
"""Kinds of junk that are drawn here."""

_PIECES = 5  # of carbon, and as many crystals of ice
_SLOTS = 6  # neighbours that fit round a molecule
_NEAREST, _FARTHEST = 0.85, 1.3  # distance of two centres, in mean diameters
_CARBON_HEIGHT = 2.0  # of a film of 120 A, residues per square Angstrom
_GRAIN = 8.0  # width of what amorphous carbon is made of (Angstrom)


def carbon(depth: float, rng: Generator) -> Phantom:
    """A film of amorphous carbon: a square, its grains of uneven weight.

    Args:
        depth: edge of the square (Angstrom).
        rng: source of randomness.
    """
    step = 1.6 * _GRAIN
    axis = np.arange(-0.5 * depth, 0.5 * depth, step)
    x, y = (part.ravel() for part in np.meshgrid(axis, axis))
    weight = _CARBON_HEIGHT * step**2 * np.exp(rng.normal(0.0, 0.4, len(x)))
    return _flat("carbon", x, y, _GRAIN, weight)


def crystal(diameter: float, rng: Generator) -> Phantom:
    """A crystal of ice: a dense plate of a few straight sides.

    Args:
        diameter: Angstrom.
        rng: source of randomness.
    """
    step = 9.0
    axis = np.arange(-0.5 * diameter, 0.5 * diameter + step, step)
    x, y = (part.ravel() for part in np.meshgrid(axis, axis))
    angle = np.sort(rng.uniform(0.0, 2.0 * math.pi, rng.integers(5, 8)))
    reach = 0.5 * diameter * rng.uniform(0.6, 1.0, len(angle))
    inside = np.hypot(x, y) <= 0.5 * diameter
    for a, r in zip(angle, reach, strict=True):
        inside &= x * math.cos(a) + y * math.sin(a) <= r
    x, y = x[inside], y[inside]
    height = rng.uniform(0.7, 2.5)
    return _flat("ice", x, y, 5.5, np.full(len(x), height * step**2))


def _flat(
    name: str, x: NDArray[np.float64], y: NDArray[np.float64], sigma: float, weight: NDArray
) -> Phantom:
    """Gaussians in a plane."""
    beads = np.stack([x, y, np.zeros_like(x), np.full_like(x, sigma), weight], axis=1)
    return Phantom.from_beads(name, "C1", beads)


def with_surroundings(
    instances: Instances,
    poses: Poses,
    molecules: list[Phantom],
    crowding: float,
    extent: float,
    pixel_size: float,
    rng: Generator,
) -> Instances:
    """What is drawn into the boxes, and what lies beside it.

    Neighbours sit in some of six places round a molecule, as in a crowded field; boxes of the
    kinds ``CARBON``, ``ICE`` and ``OVERLAP`` get what they are named after.

    Args:
        instances: what is drawn without them.
        poses: of the particles.
        molecules: by species.
        crowding: mean number of neighbours that touch a molecule, at most six.
        extent: edge of the box that images are formed in (pixel).
        pixel_size: Angstrom.
        rng: source of randomness.
    """
    added = [
        _neighbours(poses, molecules, crowding, pixel_size, rng),
        _overlapping(poses, molecules, pixel_size, rng),
        *_sheets(poses, len(instances.phantoms), extent * pixel_size, pixel_size, rng),
    ]
    owner, phantom, turn, shift = (np.concatenate(part) for part in zip(*added, strict=True))
    pieces = [carbon(1.6 * extent * pixel_size, rng) for _ in range(_PIECES)]
    sizes = rng.uniform(0.3, 0.7, _PIECES) * extent * pixel_size
    pieces += [crystal(float(size), rng) for size in sizes]
    return replace(
        instances,
        owner=np.concatenate([instances.owner, owner]),
        phantom=np.concatenate([instances.phantom, phantom]),
        rotation=np.concatenate([instances.rotation, turn]),
        shift=np.concatenate([instances.shift, shift]),
        scale=np.concatenate([instances.scale, poses.scale[owner]]),
        phantoms=(*instances.phantoms, *pieces),
    )


Drawn = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def _neighbours(
    poses: Poses, molecules: list[Phantom], crowding: float, pixel_size: float, rng: Generator
) -> Drawn:
    """Molecules round the good particles."""
    good = np.nonzero(poses.kind == Kind.GOOD)[0]
    row, slot = np.nonzero(rng.random((len(good), _SLOTS)) < crowding / _SLOTS)
    owner = good[row]
    first = rng.uniform(0.0, 2.0 * math.pi, len(good))[row]
    angle = first + slot * (2.0 * math.pi / _SLOTS) + rng.normal(0.0, 0.12, len(row))
    phantom = rng.integers(0, len(molecules), len(owner))
    diameter = np.array([molecule.diameter for molecule in molecules]) / pixel_size
    mean = 0.5 * (diameter[phantom] + diameter[poses.species[owner]])
    far = rng.uniform(_NEAREST, _FARTHEST, len(owner)) * mean
    shift = poses.shift[owner] + far[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return owner, phantom, random_rotations(rng, len(owner)), shift


def _overlapping(
    poses: Poses, molecules: list[Phantom], pixel_size: float, rng: Generator
) -> Drawn:
    """Two molecules, one partly above the other."""
    boxes = np.nonzero(poses.kind == Kind.OVERLAP)[0]
    phantom = rng.integers(0, len(molecules), len(boxes))
    diameter = np.array([molecule.diameter for molecule in molecules]) / pixel_size
    angle = rng.uniform(0.0, 2.0 * math.pi, len(boxes))
    half = 0.5 * rng.uniform(0.3, 0.7, len(boxes)) * diameter[phantom]
    step = half[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shift = np.concatenate([poses.shift[boxes] + step, poses.shift[boxes] - step])
    owner = np.tile(boxes, 2)
    return owner, np.tile(phantom, 2), random_rotations(rng, len(owner)), shift


def _sheets(
    poses: Poses, known: int, extent: float, pixel_size: float, rng: Generator
) -> list[Drawn]:
    """The edge of a carbon film, at most a third of the box away, or a crystal of ice."""
    drawn = []
    for number, kind in enumerate((Kind.CARBON, Kind.ICE)):
        owner = np.nonzero(poses.kind == kind)[0]
        phantom = known + number * _PIECES + rng.integers(0, _PIECES, len(owner))
        degrees = rng.uniform(0.0, 360.0, len(owner))
        turn = np.array([rotation((0, 0, 1), a) for a in degrees]).reshape(-1, 3, 3)
        near = rng.uniform(-0.2, 0.2, len(owner)) * extent
        if kind is Kind.CARBON:
            # the middle of the square is half its edge away from its side
            near += 0.5 * 1.6 * extent
        shift = near[:, None] / pixel_size * turn[:, :2, 0]
        drawn.append((owner, phantom, turn, shift))
    return drawn
