"""The demo's molecules: made up, but built and sized like the real machines they resemble."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cryo2d.simulate.fold import (
    Beads,
    domain,
    filling,
    folded_rna,
    moved,
    random_rotation,
    rod,
    rotation,
    symmetric,
)
from cryo2d.simulate.phantom import Phantom

X, Y, Z = np.eye(3)


def _cyclic(order: int) -> list[NDArray[np.float64]]:
    return [rotation(Z, 360.0 * i / order) for i in range(order)]


def _dihedral(order: int) -> list[NDArray[np.float64]]:
    return [turn @ flip for flip in (np.eye(3), rotation(X, 180.0)) for turn in _cyclic(order)]


def _octahedral() -> list[NDArray[np.float64]]:
    faces = [np.eye(3), rotation(X, 180.0)]
    faces += [rotation(axis, angle) for axis in (X, Y) for angle in (90.0, -90.0)]
    return [turn @ face for face in faces for turn in _cyclic(4)]


def barrel(rng: Generator) -> tuple[str, Beads]:
    """Two stacked rings of seven, like the chaperonin GroEL: 130 A wide and tall, hollow."""
    unit = [
        domain(rng, (45, 0, 16), (22, 19, 18), "alpha", rotation(X, 70.0) @ rotation(Z, 20.0)),
        domain(rng, (53, 3, 36), (11, 12, 14), "mixed", rotation(Y, 20.0)),
        domain(rng, (42, 9, 48), (20, 18, 15), "mixed", rotation(Z, 40.0) @ rotation(X, 25.0)),
    ]
    return "D7", symmetric(np.concatenate(unit), _dihedral(7))


def tetramer(rng: Generator) -> tuple[str, Beads]:
    """Four chains of four domains with three crossing twofolds, like beta-galactosidase."""
    unit = [
        domain(rng, (22, 16, 14), (26, 21, 18), "mixed"),
        domain(rng, (44, 30, 18), (21, 16, 16), "beta"),
        domain(rng, (60, 12, 11), (19, 20, 15), "beta"),
        domain(rng, (15, 41, 16), (17, 16, 15), "beta"),
    ]
    return "D2", symmetric(np.concatenate(unit), _dihedral(2))


def ribosome(rng: Generator) -> tuple[str, Beads]:
    """Two unequal lobes of RNA with proteins on their surface and a stalk, like a ribosome."""
    parts = [
        folded_rna(rng, (0, -18, 0), (58, 40, 42)),
        filling(rng, (40, 40, 34)),
        folded_rna(rng, (4, 34, 2), (46, 24, 36)),
        domain(rng, (44, 40, 8), (20, 17, 16), "mixed"),  # the head's beak
        domain(rng, (-56, 6, 8), (26, 11, 11), "alpha", rotation(Z, 130.0)),  # a stalk
        domain(rng, (-18, -54, 18), (18, 16, 16), "beta"),
        domain(rng, (36, -42, -20), (17, 19, 15), "mixed"),
        domain(rng, (6, -26, -40), (20, 16, 14), "alpha"),
        domain(rng, (-28, 44, -10), (17, 16, 15), "mixed"),
    ]
    return "C1", np.concatenate(parts)


def solenoid(rng: Generator) -> tuple[str, Beads]:
    """Pairs of helices along a bent superhelix that holds a small partner, like a HEAT repeat."""
    parts = []
    for repeat in range(24):
        phase = math.radians(15.5 * repeat - 200.0)
        turn = rotation(Z, math.degrees(phase)) @ rotation(X, 14.0 + 2.0 * repeat)
        centre = np.array([43 * math.cos(phase), 36 * math.sin(phase), 3.2 * repeat - 40.0])
        for side, length in ((-5.0, 32.0), (5.0, 27.0)):
            lean = rng.normal(0.0, 1.5, 3)
            start = np.array([side, 0.0, -0.5 * length]) + lean
            end = np.array([side, 2.0, 0.5 * length]) - lean
            parts.append(moved(rod(start, end), turn, centre))
        parts.append(moved(filling(rng, (12, 6, 17)), turn, centre))
    parts.append(domain(rng, (10, 4, -24), (24, 20, 19), "mixed"))
    parts.append(domain(rng, (52, 20, 34), (19, 17, 18), "beta"))
    return "C1", np.concatenate(parts)


def shell(rng: Generator) -> tuple[str, Beads]:
    """Twenty-four four-helix bundles round a cavity of 80 Angstrom, like ferritin."""
    towards = np.array([1.0, 0.5437, 0.2956])  # of a snub cube's corner
    towards /= np.linalg.norm(towards)
    side = np.cross(towards, Z) / np.linalg.norm(np.cross(towards, Z))
    axes = np.stack([np.cross(side, towards), side, towards], axis=1) @ rotation(Z, 32.0)
    bundle = []
    for across, deep in ((-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)):
        start, end = np.array([-21.0, across, deep]), np.array([21.0, across * 0.7, deep])
        bundle.append(rod(start + rng.normal(0.0, 1.0, 3), end))
    bundle.append(rod(np.array([20.0, 0.0, -6.0]), np.array([24.0, 8.0, 4.0])))
    bundle.append(filling(rng, (25, 11, 11)))
    unit = moved(np.concatenate(bundle), axes, 50.0 * towards)
    return "O", symmetric(unit, _octahedral())


def channel(rng: Generator) -> tuple[str, Beads]:
    """A fourfold ion channel: helices across a detergent belt, a soluble crown below."""
    helices = []
    for radius, angle, tilt in (
        (9, 0, 12),
        (17, 28, -14),
        (22, -16, 18),
        (30, 10, -8),
        (33, 42, 6),
    ):
        turn = rotation(Z, angle) @ rotation(X, tilt)
        where = rotation(Z, angle) @ np.array([radius, 0.0, 0.0])
        helices.append(moved(rod(-19.0 * Z, 19.0 * Z), turn, where))
    crown = [
        domain(rng, (23, 8, -36), (19, 18, 17), "mixed"),
        domain(rng, (34, 16, -60), (20, 18, 16), "beta"),
        domain(rng, (18, 4, 28), (13, 12, 11), "beta"),
    ]
    ring = np.linspace(0.0, 0.5 * math.pi, 16, endpoint=False)
    belt = [
        [r * math.cos(a), r * math.sin(a), h, 6.0, w]
        for a in ring
        for r, h, w in ((44, 13, 7), (44, -13, 7), (47, 0, 4))
    ]
    return "C4", symmetric(np.concatenate([*helices, *crown, np.array(belt)]), _cyclic(4))


def antibody(rng: Generator) -> tuple[str, Beads]:
    """Two arms and a stem of paired sandwich domains, like an IgG; the arms sit unevenly."""
    parts = []
    arms = (((8, 14, 4), 60.0, 25.0), ((-9, 12, -4), -46.0, -70.0), ((0, -12, 0), 180.0, 15.0))
    for hinge, lean, roll in arms:
        turn = rotation(Z, -lean) @ rotation(Y, roll)
        for height in (17.0, 49.0):
            for side in (-1.0, 1.0):
                apart = 12.0 if height > 20 or lean < 170.0 else 15.0
                flat = rotation(Y, 35.0 * side)
                piece = domain(rng, (apart * side, height, 0), (12.5, 19, 13), "beta", flat)
                parts.append(moved(piece, turn, hinge))
    for side in (-3.0, 3.0):
        parts.append(rod(np.array([side, -20.0, 0.0]), np.array([side, 18.0, side])))
    return "C1", np.concatenate(parts)


def rod_with_knob(rng: Generator) -> tuple[str, Beads]:
    """A bent four-helix stalk with a heavy knob at one end and a foot at the other."""
    parts = []
    for strand in range(4):
        phase = np.linspace(0.0, 1.4 * math.pi, 9) + 0.5 * math.pi * strand
        height = np.linspace(-40.0, 30.0, 9)
        bend = 0.006 * (height + 20.0) ** 2
        path = np.stack([7.0 * np.cos(phase) + bend, 7.0 * np.sin(phase), height], axis=1)
        parts += [rod(a, b)[:-1] for a, b in zip(path[:-1], path[1:], strict=True)]
    parts.append(domain(rng, (12, 0, 46), (35, 28, 28), "mixed"))
    parts.append(domain(rng, (38, 16, 28), (18, 17, 17), "beta"))
    parts.append(domain(rng, (14, -6, -42), (20, 15, 14), "alpha"))
    return "C1", np.concatenate(parts)


_BUILDERS: tuple[Callable[[Generator], tuple[str, Beads]], ...] = (
    barrel,
    tetramer,
    ribosome,
    solenoid,
    shell,
    channel,
    antibody,
    rod_with_knob,
)
NAMES = tuple(builder.__name__ for builder in _BUILDERS)


def molecules(which: int | Sequence[str] = NAMES) -> list[Phantom]:
    """The demo's molecules of these names, or the first so many; the same ones every time."""
    names = NAMES[:which] if isinstance(which, int) else which
    assert names, which
    built = []
    for name in names:
        index = NAMES.index(name)
        symmetry, beads = _BUILDERS[index](np.random.default_rng(index))
        built.append(Phantom.from_beads(name, symmetry, beads))
    return built


def contaminant(rng: Generator) -> Phantom:
    """A dark crystal of ice or a lump of something dense: few, wide, heavy Gaussians."""
    number = int(rng.integers(4, 12))
    spread = rng.uniform(15.0, 40.0)
    points = rng.uniform(-spread, spread, (number, 3))
    sigma = rng.uniform(8.0, 18.0, number)
    weight = rng.uniform(0.5, 1.0, number) * sigma**3 * 0.8
    beads = np.concatenate([points, sigma[:, None], weight[:, None]], axis=1)
    return Phantom.from_beads("contaminant", "C1", moved(beads, random_rotation(rng)))
