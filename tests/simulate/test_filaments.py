import numpy as np
import pytest
import starfile
import torch

from cryo2d.errors import InputError
from cryo2d.io.particles import read_particles
from cryo2d.simulate.filaments import HELICES, PICKS_PER_TUBE, lay_tubes
from cryo2d.simulate.particles import simulate
from cryo2d.simulate.phantom import project
from cryo2d.simulate.recipe import Recipe

SETTINGS = {
    "num_particles": 120,
    "box": 48,
    "pixel_size": 5.0,
    "num_tubes": 4,
    "num_micrographs": 3,
    "num_optics_groups": 1,
    "seed": 3,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tubes")
    simulate(folder, **SETTINGS)
    return folder, starfile.read(folder / "particles.star"), dict(np.load(folder / "truth.npz"))


def segments(**changed):
    settings = {
        "number": 96,
        "helices": 4,
        "step": 35.0,
        "pixel_size": 4.0,
        "box": 64,
        "num_micrographs": 2,
        "junk_fraction": 0.0,
        "shift_sigma": 0.0,
        "scale_spread": 0.0,
        "rng": np.random.default_rng(0),
    }
    return lay_tubes(**(settings | changed))


@pytest.mark.parametrize("helix", HELICES, ids=lambda helix: helix.name)
def test_a_tube_is_the_same_one_subunit_further(helix):
    tube = helix.phantom(500.0)
    turn = np.radians(helix.twist)
    # looking along x at a tube along y, as the molecules are projected along z
    lay = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    roll = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    images = project(
        tube,
        torch.from_numpy(np.stack([lay, lay @ roll])).float(),
        # rolled by the twist and moved by the rise along the axis, which points up
        torch.tensor([[0.0, 0.0], [0.0, -helix.rise / 4.0]]),
        48,
        4.0,
    )
    torch.testing.assert_close(images[0], images[1], atol=2e-3 * float(images.max()), rtol=0)


def test_picks_along_a_tube_show_one_rigid_tube():
    """The lattice seen from one pick is that from the next, moved by the step."""
    found = segments(step=37.0)
    poses, helix = found.poses, 1
    rows = np.flatnonzero(poses.species == helix)[:2]
    tube = HELICES[helix].phantom(900.0)
    turns = torch.from_numpy(poses.rotation[rows]).float()
    shift = torch.from_numpy(poses.shift[rows]).float()
    step = torch.from_numpy(found.centre[rows[1]] - found.centre[rows[0]]).float()
    # the second box lies a step further: its picture moved by the step is the first one
    shift[1] += step
    images = project(tube, turns, shift, 64, 4.0)
    torch.testing.assert_close(images[0], images[1], atol=2e-3 * float(images.max()), rtol=0)
    assert float(step.norm()) * 4.0 == pytest.approx(37.0, rel=1e-4)


def test_tubes_have_any_angle_and_psi_stands_them_upright():
    found = segments(number=40 * PICKS_PER_TUBE)
    angles = np.unique(found.angle)
    assert len(angles) == 40
    assert np.ptp(np.histogram(angles, bins=4, range=(-np.pi, np.pi))[0]) < 15
    upright = np.cos(found.angle + found.poses.psi)
    np.testing.assert_allclose(upright, 0, atol=1e-12)
    # an axis along z of the tube points along the tube's direction in the image
    axis = found.poses.rotation[:, :2, 2]
    np.testing.assert_allclose(np.arctan2(axis[:, 1], axis[:, 0]), found.angle, atol=1e-9)
    np.testing.assert_allclose(found.psi_prior, -np.degrees(found.angle))


def test_the_star_has_the_helical_columns(made):
    folder, blocks, truth = made
    rows = blocks["particles"]
    assert set(rows["rlnHelicalTubeID"]) == {1, 2}
    for _, tube in rows.groupby(["rlnMicrographName", "rlnHelicalTubeID"]):
        np.testing.assert_allclose(np.diff(tube["rlnHelicalTrackLengthAngst"]), 40.0)
        assert tube["rlnAnglePsiPrior"].nunique() == 1
    good = truth["kind"] == 0
    assert 0 < (~good).sum() < 20
    turned = (truth["psi"][good] - rows["rlnAnglePsiPrior"][good] - 90.0) % 360.0
    np.testing.assert_allclose(np.minimum(turned, 360.0 - turned), 0, atol=1e-3)
    table, _ = read_particles(folder / "particles.star")
    assert table.is_filament


def test_the_views_are_upright(made):
    views = made[2]["clean_views"]
    assert len(views) == 4
    # the profile across a tube varies more than that along it
    assert (views.sum(1).var(1) > 10 * views.sum(2).var(1)).all()


def test_impossible_tubes_are_refused():
    with pytest.raises(InputError, match="num_tubes.*\n.*tube_step"):
        Recipe(num_tubes=9, tube_step=0.0)
