"""Who is where: molecules, poses, kinds and micrographs of a simulated data set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from cryo2d.simulate.fold import random_rotations, rotation
from cryo2d.simulate.molecules import contaminant
from cryo2d.simulate.phantom import Phantom, project

MAX_VIEWS = 63  # of a molecule, as many as are tried
_NUM_CONTAMINANTS = 6


class Kind(IntEnum):
    """What a box holds; the numbers are those of truth.npz."""

    GOOD = 0
    EMPTY = 1
    CONTAMINANT = 2
    AGGREGATE = 3
    CARBON = 4
    ICE = 5
    OVERLAP = 6


JUNK = (Kind.EMPTY, Kind.CONTAMINANT, Kind.AGGREGATE)
"""What junk is, if nothing else is asked for."""


@dataclass(frozen=True)
class Poses:
    """One row per particle.

    Attributes:
        kind: a ``Kind`` ``[n]``.
        species: index of the molecule, -1 for junk ``[n]``.
        view: index of the fixed view, -1 for junk or without fixed views ``[n]``.
        psi: in-plane turn image -> view (radian), nan where view is -1 ``[n]``.
        rotation: molecule -> image ``[n 3 3]``.
        shift: of the molecule from the box centre, x right, y down (pixel) ``[n 2]``.
        scale: contrast, mean 1 ``[n]``.
    """

    kind: NDArray[np.int64]
    species: NDArray[np.int64]
    view: NDArray[np.int64]
    psi: NDArray[np.float64]
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]


@dataclass(frozen=True)
class Instances:
    """Every phantom that is drawn, several to a box if need be.

    Attributes:
        owner: particle whose box it is drawn into ``[m]``.
        phantom: index into ``phantoms`` ``[m]``.
        rotation: phantom -> image ``[m 3 3]``.
        shift: from the box centre (pixel) ``[m 2]``.
        scale: contrast ``[m]``.
        phantoms: the molecules, then the contaminants.
    """

    owner: NDArray[np.int64]
    phantom: NDArray[np.int64]
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    phantoms: tuple[Phantom, ...]

    def draw(self, first: int, last: int, box: int, pixel_size: float) -> Tensor:
        """The boxes of particles ``first`` to ``last``, no CTF, no noise: ``[n y x]``."""
        images = torch.zeros(last - first, box, box)
        inside = (self.owner >= first) & (self.owner < last)
        for index in np.unique(self.phantom[inside]):
            rows = np.nonzero(inside & (self.phantom == index))[0]
            turns, shift, scale = (
                torch.from_numpy(values[rows]).float()
                for values in (self.rotation, self.shift, self.scale)
            )
            drawn = project(self.phantoms[index], turns, shift, box, pixel_size)
            owner = torch.from_numpy(self.owner[rows] - first)
            images.index_add_(0, owner, drawn * scale[:, None, None])
        return images


def _signature(images: Tensor) -> NDArray[np.float64]:
    """A description of centred images that rotation and mirroring leave alone, unit length.

    Magnitudes of the angular Fourier series on circles about the centre.
    """
    box = images.shape[-1]
    radius = torch.arange(1, box // 2, 1.5)
    angle = torch.arange(64) * (2.0 * math.pi / 64)
    grid = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    grid = grid.mul_(2.0).add_(2 * (box // 2) + 1).div_(box).sub_(1.0)
    polar = torch.nn.functional.grid_sample(
        images[:, None], grid.expand(len(images), -1, -1, -1), align_corners=False
    )[:, 0]
    power = torch.fft.rfft(polar, dim=2)[..., :16].abs() * radius.sqrt()[:, None]
    flat = power.flatten(1).double().numpy()
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def distinct_views(phantom: Phantom, number: int, rng: Generator) -> NDArray[np.float64]:
    """Directions that look different from one another, ``[views 3 3]``.

    The first is along the molecule's z axis; each next one is, of a few random directions, the one
    least like any before, mirror images counted as alike.
    """
    canonical = np.stack([np.eye(3), rotation((1, 0, 0), 90.0), rotation((0, 1, 0), 90.0)])
    candidates = np.concatenate([canonical, random_rotations(rng, MAX_VIEWS - len(canonical))])
    pixel_size = max(3.0, phantom.diameter / 48.0)
    images = project(phantom, torch.from_numpy(candidates), None, 64, pixel_size)
    signature = _signature(images)
    chosen = [0]
    while len(chosen) < number:
        likeness = (signature @ signature[chosen].T).max(1)
        likeness[chosen] = np.inf
        chosen.append(int(likeness.argmin()))
    return candidates[chosen]


def apportioned(rows: NDArray[np.int64], num_molecules: int, rarest: float) -> NDArray[np.int64]:
    """Molecule of each of successive rows ``[n]``; abundances fall geometrically from 1."""
    share = rarest ** (np.arange(num_molecules) / max(1, num_molecules - 1))
    # in turn, each turn a little further on: even over 0 to 1
    turn = rows // num_molecules
    within = (turn - turn[:1].sum() + 0.5) / (np.ptp(turn) + 1.0 if len(turn) else 1.0)
    place = (rows % num_molecules + within) / num_molecules
    return np.searchsorted(np.cumsum(share)[:-1] / share.sum(), place, side="right")


def place_particles(
    number: int,
    views: NDArray[np.float64] | None,
    num_molecules: int,
    junk_fraction: float,
    shift_sigma: float,
    scale_spread: float,
    rng: Generator,
    junk: Sequence[Kind] = JUNK,
    rarest: float = 1.0,
) -> Poses:
    """Draws kind, molecule, view, in-plane angle, shift and contrast of every particle.

    Args:
        number: of particles.
        views: of each molecule ``[species views 3 3]``; every direction if null.
        num_molecules: kinds of them.
        junk_fraction: in equal shares of the kinds of junk.
        shift_sigma: standard deviation in x and in y (pixel); cut at three of them.
        scale_spread: standard deviation of the logarithm of the contrast.
        rng: source of randomness.
        junk: its kinds.
        rarest: abundance of the last molecule, the first being 1, geometric between them.
    """
    num_junk = round(junk_fraction * number)
    kind = np.zeros(number, dtype=np.int64)
    kind[:num_junk] = np.resize(np.array(junk, dtype=np.int64), num_junk)
    species = np.full(number, -1)
    species[num_junk:] = apportioned(np.arange(num_junk, number), num_molecules, rarest)
    order = rng.permutation(number)
    kind, species = kind[order], species[order]
    turns = random_rotations(rng, number)
    view, psi = np.full(number, -1, dtype=np.int64), np.full(number, np.nan)
    if views is not None:
        per_molecule = views.shape[1]
        pick = rng.integers(0, per_molecule, number)
        angle = rng.uniform(0.0, 360.0, number)
        for row in np.nonzero(kind == Kind.GOOD)[0]:
            view[row] = species[row] * per_molecule + pick[row]
            psi[row] = math.radians((180.0 - angle[row]) % 360.0 - 180.0)
            turns[row] = rotation((0, 0, 1), angle[row]) @ views[species[row], pick[row]]
    shift = np.clip(rng.normal(size=(number, 2)), -3.0, 3.0) * shift_sigma
    scale = np.exp(scale_spread * np.clip(rng.normal(size=number), -3.0, 3.0))
    return Poses(kind, species, view, psi, turns, shift, scale / scale.mean())


def populate(
    poses: Poses,
    phantoms: list[Phantom],
    box: int,
    neighbours: float,
    rng: Generator,
    turns: Callable[[Generator, int], NDArray[np.float64]] = random_rotations,
) -> Instances:
    """What is drawn into the boxes: the particles, junk, and neighbours at the edges.

    Args:
        poses: of the particles.
        phantoms: the molecules.
        box: size (pixel).
        neighbours: mean number of unpicked molecules that reach into a box.
        rng: source of randomness.
        turns: draws the rotations of neighbours and junk.
    """
    good = np.nonzero(poses.kind == Kind.GOOD)[0]
    bad = np.nonzero(poses.kind == Kind.CONTAMINANT)[0]
    clumps = np.nonzero(poses.kind == Kind.AGGREGATE)[0]
    clumped = np.repeat(clumps, rng.integers(3, 7, len(clumps)))
    crowd = np.repeat(np.arange(len(poses.kind)), rng.poisson(neighbours, len(poses.kind)))
    around = rng.uniform(0.0, 2.0 * math.pi, len(crowd))
    far = rng.uniform(0.62, 0.9, len(crowd)) * box
    owner = np.concatenate([good, bad, clumped, crowd])
    shift = np.concatenate(
        [
            poses.shift[good],
            poses.shift[bad] + rng.normal(0.0, 0.06 * box, (len(bad), 2)),
            poses.shift[clumped] + rng.normal(0.0, 0.24 * box, (len(clumped), 2)),
            far[:, None] * np.stack([np.cos(around), np.sin(around)], axis=1),
        ]
    )
    others = len(clumped) + len(crowd)
    phantom = np.concatenate(
        [
            poses.species[good],
            len(phantoms) + rng.integers(0, _NUM_CONTAMINANTS, len(bad)),
            rng.integers(0, len(phantoms), others),
        ]
    )
    rotations = turns(rng, len(owner))
    rotations[: len(good)] = poses.rotation[good]
    lumps = [contaminant(rng) for _ in range(_NUM_CONTAMINANTS)]
    return Instances(owner, phantom, rotations, shift, poses.scale[owner], (*phantoms, *lumps))


def pick_coordinates(
    number: int, num_micrographs: int, box: int, rng: Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Micrograph and box centre of every particle, two centres never closer than a box.

    The centres sit on a jittered grid: cells of 1.25 boxes, jitter of an eighth of a box.

    Returns:
        micrograph ``[n]``, centre ``[n 2]`` (x, y in pixels) and the micrographs' size (pixel).
    """
    micrograph = np.sort(np.arange(number) % num_micrographs)
    side = math.ceil(math.sqrt(math.ceil(number / num_micrographs)))
    cell = math.ceil(1.25 * box)
    jitter = (cell - box) // 2
    centre = np.empty((number, 2), dtype=np.int64)
    for index in range(num_micrographs):
        rows = np.nonzero(micrograph == index)[0]
        cells = rng.permutation(side * side)[: len(rows)]
        centre[rows] = np.stack([cells % side, cells // side], axis=1) * cell + box
    centre += rng.integers(-jitter, jitter + 1, centre.shape)
    return micrograph, centre, side * cell + box
