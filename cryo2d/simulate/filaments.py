"""Helical tubes on micrographs, picked at short steps from end to end."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cryo2d.simulate.fold import Beads, moved, random_rotations, rotation
from cryo2d.simulate.phantom import Phantom
from cryo2d.simulate.scene import Kind, Poses

PICKS_PER_TUBE = 24
_Y, _Z = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Helix:
    """A helical lattice: subunit i is the unit turned by i twist and raised by i rise.

    Attributes:
        name: what it resembles.
        rise: Angstrom.
        twist: degree.
        unit: beads of one asymmetric unit, rows ``radius tangent height sigma weight``.
    """

    name: str
    rise: float
    twist: float
    unit: tuple[tuple[float, float, float, float, float], ...]

    def phantom(self, length: float) -> Phantom:
        """A piece of the tube along z, as long as asked (Angstrom)."""
        unit = np.array(self.unit)
        reach = math.ceil(0.5 * length / self.rise)
        beads: list[Beads] = []
        for step in range(-reach, reach + 1):
            turn = rotation(_Z, step * self.twist)
            beads.append(moved(unit, turn, (0.0, 0.0, step * self.rise)))
        whole = np.concatenate(beads)
        # not centred on its mass: the lattice's origin stays where the picks count from
        return Phantom(
            name=self.name,
            symmetry="C1",
            positions=whole[:, :3].astype(np.float32),
            sigma=whole[:, 3].astype(np.float32),
            weight=whole[:, 4].astype(np.float32),
        )


def _microtubule() -> Helix:
    """Thirteen protofilaments of monomers 40 A apart: three of them, stacked, are the unit."""
    monomer = ((101.0, 0.0, -9.0, 8.0), (113.0, 2.0, 9.0, 8.5), (120.0, -5.0, -4.0, 7.0))
    unit = [(x, y, z + 40.0 * i, sigma, 150.0) for i in (-1, 0, 1) for x, y, z, sigma in monomer]
    return Helix("microtubule", 120.0 / 13.0, -360.0 / 13.0, tuple(unit))


HELICES = (
    # about 80 A wide, two strands that cross every 360 A
    Helix(
        "actin",
        27.5,
        -166.6,
        (
            (10.0, 4.0, -4.0, 6.0, 95.0),
            (22.0, -6.0, 12.0, 6.5, 110.0),
            (31.0, 8.0, -6.0, 6.0, 90.0),
        ),
    ),
    # 180 A wide with a channel of 40 A, 16 1/3 subunits in a turn of 23 A
    Helix(
        "tobacco mosaic virus",
        1.408,
        22.03,
        ((30.0, 0.0, 0.0, 4.0, 25.0), (42.0, 3.0, 3.0, 5.0, 35.0), (56.0, 0.0, -3.0, 5.0, 40.0))
        + ((70.0, 3.0, 2.0, 5.5, 45.0), (82.0, -2.0, 0.0, 5.0, 30.0)),
    ),
    # 250 A wide, hollow
    _microtubule(),
    # 130 A wide, six strands of pitch 144 A round a solid core
    Helix(
        "pilus",
        8.0,
        60.0 + 20.0,
        ((8.0, 0.0, 0.0, 7.0, 60.0), (34.0, 0.0, 6.0, 7.0, 130.0), (50.0, 10.0, -6.0, 7.0, 120.0)),
    ),
)
NAMES = tuple(helix.name for helix in HELICES)


@dataclass(frozen=True)
class Segments:
    """The picks along the tubes, one row per particle.

    Attributes:
        poses: of the lattice in each box; the view of a tube is the upright one.
        micrograph: number ``[n]``.
        centre: of the box (pixel) ``[n 2]``.
        tube: number of the tube on its micrograph, from 1 ``[n]``.
        angle: direction of the tube from x to y (radian) ``[n]``.
        track: distance from the tube's first pick (Angstrom) ``[n]``.
    """

    poses: Poses
    micrograph: NDArray[np.int64]
    centre: NDArray[np.float64]
    tube: NDArray[np.int64]
    angle: NDArray[np.float64]
    track: NDArray[np.float64]

    @property
    def psi_prior(self) -> NDArray[np.float64]:
        """rlnAnglePsiPrior (degree): it lays the tube along x, as RELION wants it ``[n]``."""
        return -np.degrees(self.angle)


def tubes(number: int, length: float) -> list[Phantom]:
    """The first of the helices as pieces of a length (Angstrom)."""
    return [helix.phantom(length) for helix in HELICES[:number]]


def upright_views(number: int) -> NDArray[np.float64]:
    """Rotation of each helix, tube -> image, that stands it upright ``[species 1 3 3]``."""
    return np.tile(_lying(0.5 * math.pi, 0.0), (number, 1, 1, 1))


def _lying(angle: float, roll: float) -> NDArray[np.float64]:
    """Rotation of a tube along z, rolled, into the image plane at an angle from x (radian)."""
    return rotation(_Z, math.degrees(angle)) @ rotation(_Y, 90.0) @ rotation(_Z, math.degrees(roll))


def lying_rotations(rng: Generator, number: int) -> NDArray[np.float64]:
    """Random rotations of tubes that lie in the image plane ``[n 3 3]``."""
    angles = rng.uniform(0.0, 2.0 * math.pi, (number, 2))
    turns = [_lying(angle, roll) for angle, roll in angles]
    return np.stack(turns) if turns else random_rotations(rng, 0)


def lay_tubes(
    number: int,
    helices: int,
    *,
    step: float,
    pixel_size: float,
    box: int,
    num_micrographs: int,
    junk_fraction: float,
    shift_sigma: float,
    scale_spread: float,
    rng: Generator,
) -> Segments:
    """Straight tubes at any angle, each picked from end to end.

    Args:
        number: picks.
        helices: kinds of tubes, in equal shares.
        step: between two picks (Angstrom).
        pixel_size: Angstrom.
        box: image size (pixel).
        num_micrographs: the tubes take turns on them.
        junk_fraction: share of picks off any tube, in equal shares of the kinds of junk.
        shift_sigma: standard deviation of a pick in x and in y (Angstrom); cut at three of them.
        scale_spread: standard deviation of the logarithm of the contrast.
        rng: source of randomness.
    """
    count = math.ceil(number / PICKS_PER_TUBE)
    tube = np.arange(number) // PICKS_PER_TUBE
    along = step * (np.arange(number) % PICKS_PER_TUBE).astype(np.float64)
    angle, roll = rng.uniform(-math.pi, math.pi, (2, count))
    length = PICKS_PER_TUBE * step / pixel_size
    middle = length * rng.uniform(0.7, 1.3, (count, 2)) + box
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    offset = np.clip(rng.normal(size=(number, 2)), -3.0, 3.0) * shift_sigma / pixel_size
    centre = middle[tube] + (along / pixel_size - 0.5 * length)[:, None] * direction[tube] - offset
    species = tube % helices
    turn, rest = _lattice(along, species)
    turns = [_lying(angle[t], roll[t] + w) for t, w in zip(tube, turn, strict=True)]
    kind = np.full(number, Kind.GOOD, dtype=np.int64)
    junk = rng.permutation(number)[: round(junk_fraction * number)]
    kind[junk] = 1 + np.arange(len(junk)) % 3
    good = kind == Kind.GOOD
    scale = np.exp(scale_spread * np.clip(rng.normal(size=number), -3.0, 3.0))
    psi = np.angle(np.exp(1j * (0.5 * math.pi - angle[tube])))
    poses = Poses(
        kind=kind,
        species=np.where(good, species, -1),
        view=np.where(good, species, -1),
        psi=np.where(good, psi, np.nan),
        rotation=np.stack(turns),
        shift=offset - rest[:, None] / pixel_size * direction[tube],
        scale=scale / scale.mean(),
    )
    return Segments(
        poses=poses,
        micrograph=tube % num_micrographs,
        centre=centre,
        tube=tube // num_micrographs + 1,
        angle=angle[tube],
        track=along,
    )


def _lattice(
    along: NDArray[np.float64], species: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lattice seen from a pick: whole subunits on are a turn (radian), the rest is left over.

    Args:
        along: distance from the tube's first pick (Angstrom) ``[n]``.
        species: index of the helix ``[n]``.
    """
    rise = np.array([helix.rise for helix in HELICES])[species]
    passed = np.floor(along / rise)
    turn = passed * np.radians([helix.twist for helix in HELICES])[species]
    return turn, along - passed * rise
