"""Particles from a simulated stack to the batches of an iteration."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.particles import AlignmentColumns, ParticleTable, read_particles
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.simulate.particles import simulate
from cryo2d.training.datamodule import Particles

COUNT, BOX = 40, 32


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A simulated stack with an unusable image."""
    path = simulate(
        tmp_path, num_particles=COUNT, box=BOX, pixel_size=5.0, num_molecules=1, views=2, seed=2
    )
    table, _ = read_particles(path)
    with Path(table.stacks[0]).open("r+b") as stack:
        stack.seek(1024 + 7 * BOX * BOX * 4)
        stack.write(np.full(BOX * BOX, np.nan, "<f4").tobytes())
    return Path(path)


def particles_of(table: ParticleTable, excluded) -> Particles:
    return Particles(
        table,
        excluded,
        Preprocessor(PolarGrid(24, 9), BOX),
        seed=1,
        device=torch.device("cpu"),
        threads=1,
    )


def test_given_poses_stay_with_their_particles(source: Path) -> None:
    table, excluded = read_particles(source)
    without = particles_of(table, excluded)
    without.read()
    assert without.given_poses is None
    assert without.given_classes is None
    psi, shift = np.linspace(0, 3, COUNT), np.arange(2.0 * COUNT).reshape(COUNT, 2)
    found = AlignmentColumns(psi=psi, shift=shift, class_index=np.arange(COUNT) % 3)
    particles = particles_of(table.with_alignment(found), excluded)
    assert len(particles.read()) == COUNT - 1
    kept = np.delete(np.arange(COUNT), 7)
    poses = particles.given_poses
    assert poses is not None
    assert poses.psi.dtype == poses.shift.dtype == torch.float32
    np.testing.assert_allclose(poses.psi, psi[kept], rtol=1e-6)
    np.testing.assert_array_equal(poses.shift, shift[kept])
    assert particles.given_classes is not None
    assert particles.given_classes.tolist() == (kept % 3).tolist()
