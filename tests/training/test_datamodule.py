"""Particles from a simulated stack to the batches of an iteration."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cryo2d.data.sampler import VisitPlan
from cryo2d.data.store import InMemory, Nowhere, OnDisk, Store
from cryo2d.errors import EnvironmentFault
from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.particles import AlignmentColumns, ParticleTable, read_particles
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.simulate.particles import simulate
from cryo2d.training.datamodule import BatchStream, Particles

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


def particles_of(table: ParticleTable, excluded, store: Store | None = None) -> Particles:
    return Particles(
        table,
        excluded,
        Preprocessor(PolarGrid(24, 9), BOX),
        seed=1,
        device=torch.device("cpu"),
        threads=1,
        store=store,
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


def test_every_store_serves_the_same_batches(source: Path, tmp_path: Path) -> None:
    table, excluded = read_particles(source)
    plan = VisitPlan(COUNT - 1, 15, iterations=3, full_iterations=1, seed=5)
    wanted = particles_of(table, excluded)
    memory = wanted.read()
    cache = tmp_path / "cache"
    for store in (InMemory(), OnDisk(cache), OnDisk(cache, fraction=0.0), Nowhere()):
        particles = particles_of(table, excluded, store)
        found = particles.read()
        assert particles.excluded.reasons == wanted.excluded.reasons
        assert len(found) == len(particles.table) == COUNT - 1
        torch.testing.assert_close(found.mean_power(2), memory.mean_power(2))
        for iteration in range(plan.total):
            rows = plan.rows(iteration)
            streams = [BatchStream(one, rows, 4) for one in (found, memory)]
            assert len(streams[0]) == len(list(streams[0]))
            for ours, theirs in zip(*streams, strict=True):
                for name in ("index", "optics", "half", "scale"):
                    assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
                # kept as float16; transforms of many particles and of few round differently
                torch.testing.assert_close(ours.rings, theirs.rings, rtol=2e-3, atol=1e-4)
                assert torch.equal(ours.ctf.defocus_u, theirs.ctf.defocus_u)


def test_a_fault_while_reading_ahead_ends_the_iteration(source: Path) -> None:
    table, excluded = read_particles(source)
    stream = BatchStream(particles_of(table, excluded, Nowhere()).read(), torch.arange(12), 4)
    batches = iter(stream)
    next(batches)
    Path(table.stacks[0]).unlink()
    with pytest.raises(EnvironmentFault, match="though it could be read before"):
        list(batches)
