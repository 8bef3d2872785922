"""Belts of detergent: soft, strong at low resolution, and turned without regard to the protein."""

import math
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from cryo2d.simulate.fold import rotation
from cryo2d.simulate.phantom import Phantom
from cryo2d.simulate.scene import Instances, Kind, Poses

_SHAPES = 8  # of belts for each molecule
_SOFTNESS = 0.12  # of a belt, as a part of the molecule's diameter: nothing finer than it remains


def belt(molecule: Phantom, strength: float, rng: Generator) -> Phantom:
    """An oval of wide Gaussians round a molecule, random in its elongation and its unevenness.

    Args:
        molecule: what it goes round.
        strength: mass of the belt, as a part of the molecule's.
        rng: source of randomness.
    """
    angle = np.linspace(0.0, 2.0 * math.pi, 16, endpoint=False)
    elongation = math.sqrt(rng.uniform(1.8, 3.0))
    radius = 0.25 * molecule.diameter
    x, y = radius * elongation * np.cos(angle), radius / elongation * np.sin(angle)
    weight = 1.0 + rng.uniform(0.0, 0.4) * np.cos(angle - rng.uniform(0.0, 2.0 * math.pi))
    weight *= strength * molecule.mass / weight.sum()
    width = np.full_like(angle, _SOFTNESS * molecule.diameter)
    beads = np.stack([x, y, np.zeros_like(angle), width, weight], axis=1)
    return Phantom.from_beads("belt", "C1", beads)


def with_belts(
    instances: Instances, poses: Poses, molecules: list[Phantom], strength: float, rng: Generator
) -> Instances:
    """What is drawn into the boxes, and a belt round every particle that is not junk.

    Shape and in-plane orientation of a belt vary from particle to particle, whatever the pose of
    the protein in it; both have the same centre and contrast.

    Args:
        instances: what is drawn without belts.
        poses: of the particles.
        molecules: by species.
        strength: mass of a belt, as a part of its molecule's.
        rng: source of randomness.
    """
    shapes = [belt(molecule, strength, rng) for molecule in molecules for _ in range(_SHAPES)]
    owner = np.nonzero(poses.kind == Kind.GOOD)[0]
    shape = poses.species[owner] * _SHAPES + rng.integers(0, _SHAPES, len(owner))
    degrees = rng.uniform(0.0, 360.0, len(owner))
    turns = np.array([rotation((0, 0, 1), a) for a in degrees]).reshape(-1, 3, 3)
    return replace(
        instances,
        owner=np.concatenate([instances.owner, owner]),
        phantom=np.concatenate([instances.phantom, len(instances.phantoms) + shape]),
        rotation=np.concatenate([instances.rotation, turns]),
        shift=np.concatenate([instances.shift, poses.shift[owner]]),
        scale=np.concatenate([instances.scale, poses.scale[owner]]),
        phantoms=(*instances.phantoms, *shapes),
    )
