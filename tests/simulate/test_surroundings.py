from pathlib import Path

import numpy as np
import pytest

from cryo2d.errors import InputError
from cryo2d.io.mrc import read_images
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.particles import simulate
from cryo2d.simulate.scene import Instances, Kind, Poses, place_particles, populate
from cryo2d.simulate.surroundings import carbon, crystal, with_surroundings

BOX, PIXEL, CANVAS = 48, 5.0, 72
TINY = {"num_particles": 24, "box": 32, "pixel_size": 8.0, "num_micrographs": 2, "seed": 2}


def scene(crowding: float, junk: tuple[Kind, ...] = (Kind.EMPTY,)) -> tuple[Poses, Instances]:
    rng = np.random.default_rng(1)
    phantoms = molecules(["shell"])
    poses = place_particles(400, None, 1, 0.25, 2.0, 0.1, rng, junk)
    drawn = populate(poses, phantoms, BOX, 0.0, rng)
    return poses, with_surroundings(drawn, poses, phantoms, crowding, CANVAS, PIXEL, rng)


def test_neighbours_touch_the_good_particles_and_do_not_cover_them():
    poses, drawn = scene(3.0)
    owner, first = drawn.owner[300:], drawn.owner[:300]
    np.testing.assert_array_equal(first, np.nonzero(poses.kind == Kind.GOOD)[0])
    assert set(owner) <= set(first)
    assert len(owner) / 300 == pytest.approx(3.0, abs=0.3)
    diameter = molecules(["shell"])[0].diameter / PIXEL
    far = np.linalg.norm(drawn.shift[300:] - poses.shift[owner], axis=1) / diameter
    assert far.min() > 0.8
    assert far.max() < 1.35


def test_junk_is_what_it_is_called():
    poses, drawn = scene(0.0, (Kind.CARBON, Kind.ICE, Kind.OVERLAP))
    counts = np.bincount(drawn.owner, minlength=400)
    for kind, pieces in ((Kind.GOOD, 1), (Kind.CARBON, 1), (Kind.ICE, 1), (Kind.OVERLAP, 2)):
        assert (counts[poses.kind == kind] == pieces).all()
    rows = np.nonzero(poses.kind == Kind.CARBON)[0]
    covered = [
        float((drawn.draw(row, row + 1, BOX, PIXEL) > 1.0).float().mean()) for row in rows[:12]
    ]
    # an edge runs through most of these boxes
    assert 0.2 < np.mean(covered) < 0.9
    assert np.mean([0.02 < share < 0.98 for share in covered]) > 0.7


def test_carbon_fills_its_square_and_a_crystal_has_straight_sides():
    rng = np.random.default_rng(0)
    film, plate = carbon(300.0, rng), crystal(120.0, rng)
    assert np.abs(film.positions[:, :2]).max() == pytest.approx(150.0, abs=15.0)
    assert film.weight.std() > 0.2 * film.weight.mean()
    assert np.linalg.norm(plate.positions, axis=1).max() < 75.0
    assert plate.mass > 1000.0


@pytest.mark.parametrize(
    ("changed", "other"),
    [({"crowding": 4.0}, {}), ({"junk": ["carbon"], "junk_fraction": 0.5}, {"junk_fraction": 0.5})],
)
def test_the_settings_change_the_images(tmp_path: Path, changed, other):
    images = []
    for name, settings in (("one", changed), ("two", other)):
        (tmp_path / name).mkdir()
        simulate(tmp_path / name, **(TINY | settings))
        images.append(read_images(tmp_path / name / "particles.mrcs"))
    assert np.isfinite(images[0]).all()
    assert not np.allclose(*images)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"junk": ["dust"]}, "empty, contaminant"),
        ({"crowding": 7.0}, "0 to 6"),
        ({"crowding": 1.0, "num_tubes": 1}, "0 with tubes"),
        ({"junk": ["ice"], "num_tubes": 1}, "first three with tubes"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, found):
    with pytest.raises(InputError, match=found):
        simulate(tmp_path, **(TINY | settings))
