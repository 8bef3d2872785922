import numpy as np
import pytest
import torch
from truth import simulated

from cryo2d.errors import InputError
from cryo2d.simulate.micelle import belt, with_belts
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.particles import simulate
from cryo2d.simulate.phantom import project
from cryo2d.simulate.scene import Kind, distinct_views, place_particles, populate

BOX, PIXEL = 64, 4.0
TINY = {"num_particles": 20, "box": 32, "pixel_size": 7.0, "num_micrographs": 2}


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(3)
    phantoms = molecules(2)
    views = np.stack([distinct_views(phantom, 2, rng) for phantom in phantoms])
    poses = place_particles(300, views, 2, 0.1, 2.0, 0.1, rng)
    bare = populate(poses, phantoms, BOX, 0.0, rng)
    return poses, phantoms, bare, with_belts(bare, poses, phantoms, 3.0, rng)


def test_a_belt_has_the_mass_asked_for_and_no_fine_detail():
    molecule = molecules(3)[2]
    phantom = belt(molecule, 3.0, np.random.default_rng(0))
    assert phantom.mass == pytest.approx(3.0 * molecule.mass, rel=1e-5)
    image = project(phantom, torch.eye(3)[None], None, BOX, PIXEL)
    power = torch.fft.fft2(image).abs().square()[0]
    axis = torch.fft.fftfreq(BOX, PIXEL)
    fine = torch.hypot(axis[:, None], axis) > 1 / 50
    assert float(power[fine].sum() / power.sum()) < 1e-2
    # wider than high
    row, column = np.indices((BOX, BOX)) - BOX // 2
    width, height = (float((image[0].numpy() * v**2).sum()) for v in (column, row))
    assert width > 1.5 * height


def test_every_good_particle_wears_one_belt_where_it_lies(scene):
    poses, _, bare, girdled = scene
    rows = slice(len(bare.owner), None)
    np.testing.assert_array_equal(girdled.owner[rows], np.nonzero(poses.kind == Kind.GOOD)[0])
    np.testing.assert_array_equal(girdled.shift[rows], poses.shift[girdled.owner[rows]])
    np.testing.assert_array_equal(girdled.owner[: len(bare.owner)], bare.owner)
    added = girdled.draw(0, 8, BOX, PIXEL) - bare.draw(0, 8, BOX, PIXEL)
    mass = np.array([phantom.mass for phantom in scene[1]])
    wanted = np.where(poses.species >= 0, 3.0 * mass[poses.species] * poses.scale, 0.0)[:8]
    np.testing.assert_allclose(
        added.sum((1, 2)), wanted, rtol=5e-3, atol=1e-3
    )  # the box cuts some tails


def test_belts_know_nothing_of_the_protein(scene):
    poses, _, bare, girdled = scene
    turn = girdled.rotation[len(bare.owner) :]
    owner = girdled.owner[len(bare.owner) :]
    apart = np.arctan2(turn[:, 1, 0], turn[:, 0, 0]) + poses.psi[owner]
    assert abs(np.exp(1j * apart).mean()) < 0.15
    assert abs(np.exp(2j * apart).mean()) < 0.15
    assert len(np.unique(girdled.phantom[len(bare.owner) :])) > 8


def test_belts_change_the_images_and_nothing_else(tmp_path):
    bare, girdled = simulated(tmp_path / "a", **TINY), simulated(tmp_path / "b", **TINY, micelle=2)
    assert bare.star.read_text() == girdled.star.read_text()
    for key, value in bare.truth.items():
        np.testing.assert_array_equal(value, girdled.truth[key])
    first, second = ((s.star.parent / "particles.mrcs").read_bytes() for s in (bare, girdled))
    assert first != second


@pytest.mark.parametrize("settings", [{"micelle": -1.0}, {"micelle": 1.0, "num_tubes": 1}])
def test_impossible_belts_are_refused(settings, tmp_path):
    with pytest.raises(InputError, match="setting micelle"):
        simulate(tmp_path, **settings)
