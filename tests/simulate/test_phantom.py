import numpy as np
import pytest
import torch

from cryo2d.simulate.fold import random_rotations, rotation
from cryo2d.simulate.molecules import NAMES, contaminant, molecules
from cryo2d.simulate.phantom import Phantom, project

PIXEL_SIZE = 4.0
BOX = 64
ORDERS = {"C1": 1, "C4": 4, "D2": 2, "D7": 7, "O": 4}


@pytest.fixture(scope="module")
def all_molecules():
    return molecules()


@pytest.fixture(scope="module")
def solenoid(all_molecules):
    return all_molecules[NAMES.index("solenoid")]


def turns(number, seed=0):
    return torch.from_numpy(random_rotations(np.random.default_rng(seed), number))


def test_a_single_gaussian_is_the_gaussian_integrated_over_pixels():
    one = Phantom.from_beads("one", "C1", np.array([[0.0, 0.0, 0.0, 9.0, 2.5]]))
    found = project(one, torch.eye(3)[None], torch.tensor([[1.5, -2.0]]), BOX, PIXEL_SIZE)[0]
    fine = 50
    axis = (np.arange(BOX * fine) + 0.5) / fine - 0.5 - BOX // 2
    across = np.exp(-0.5 * ((axis - 1.5) * PIXEL_SIZE / 9.0) ** 2)
    down = np.exp(-0.5 * ((axis + 2.0) * PIXEL_SIZE / 9.0) ** 2)
    image = np.outer(down.reshape(BOX, fine).mean(1), across.reshape(BOX, fine).mean(1))
    image *= 2.5 * PIXEL_SIZE**2 / (2 * np.pi * 81.0)
    np.testing.assert_allclose(found.numpy(), image, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_total_mass_is_kept_in_every_direction(all_molecules, name):
    phantom = all_molecules[NAMES.index(name)]
    images = project(phantom, turns(5), None, BOX, PIXEL_SIZE)
    assert images.shape == (5, BOX, BOX)
    assert (images >= 0).all()
    torch.testing.assert_close(
        images.sum((1, 2)), torch.full((5,), phantom.mass), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_centre_of_mass_is_the_box_centre_plus_the_shift(all_molecules, name):
    phantom = all_molecules[NAMES.index(name)]
    shift = torch.tensor([[0.0, 0.0], [3.25, -1.5]])
    images = project(phantom, turns(2), shift, BOX, PIXEL_SIZE).double()
    axis = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    mass = images.sum((1, 2))
    x, y = (images * axis).sum((1, 2)) / mass, (images * axis[:, None]).sum((1, 2)) / mass
    torch.testing.assert_close(torch.stack([x, y], 1), shift.double(), atol=2e-3, rtol=0)


def test_whole_pixel_shift_moves_the_image_right_and_down(solenoid):
    still = project(solenoid, turns(1), None, BOX, PIXEL_SIZE)
    moved = project(solenoid, turns(1), torch.tensor([[5.0, -3.0]]), BOX, PIXEL_SIZE)
    expected = torch.roll(still, (-3, 5), (1, 2))
    torch.testing.assert_close(moved, expected, atol=1e-4 * float(still.max()), rtol=0)


def test_quarter_turn_of_the_phantom_is_a_quarter_turn_of_the_image(solenoid):
    # x right, y down: a positive turn takes the x axis to the y axis, clockwise on the screen
    start = turns(3)
    quarter = torch.from_numpy(rotation((0, 0, 1), 90.0))
    turned = project(solenoid, quarter @ start, None, BOX + 1, PIXEL_SIZE)
    image = project(solenoid, start, None, BOX + 1, PIXEL_SIZE)
    expected = torch.rot90(image, -1, (1, 2))
    torch.testing.assert_close(turned, expected, atol=1e-4 * float(image.max()), rtol=0)


def test_looking_from_behind_is_the_mirror_image(solenoid):
    start = turns(3)
    behind = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    image = project(solenoid, start, None, BOX + 1, PIXEL_SIZE)
    mirrored = project(solenoid, behind @ start, None, BOX + 1, PIXEL_SIZE)
    torch.testing.assert_close(mirrored, image.flip(2), atol=1e-4 * float(image.max()), rtol=0)


def test_batches_do_not_change_the_result(solenoid, monkeypatch):
    whole = project(solenoid, turns(7), None, BOX, PIXEL_SIZE)
    monkeypatch.setattr("cryo2d.simulate.phantom._BATCH_ELEMENTS", {"cpu": 1})
    one_by_one = project(solenoid, turns(7), None, BOX, PIXEL_SIZE)
    torch.testing.assert_close(whole, one_by_one)


def test_molecules_have_the_size_of_molecules(all_molecules):
    assert len(all_molecules) >= 6
    for phantom in all_molecules:
        assert 90.0 <= phantom.diameter <= 180.0, phantom.name
        assert 800.0 < phantom.mass < 10_000.0, phantom.name  # residues


@pytest.mark.parametrize("name", NAMES)
def test_symmetry_is_what_it_says(all_molecules, name):
    phantom = all_molecules[NAMES.index(name)]
    operations = [rotation((0, 0, 1), 360.0 / ORDERS[phantom.symmetry])]
    if phantom.symmetry[0] in "DO":
        operations.append(rotation((1, 0, 0), 180.0))
    if phantom.symmetry == "O":
        operations.append(rotation((1, 1, 1), 120.0))
    start = turns(2, seed=3)
    image = project(phantom, start, None, BOX, PIXEL_SIZE)
    for operation in operations:
        again = project(phantom, start @ torch.from_numpy(operation), None, BOX, PIXEL_SIZE)
        torch.testing.assert_close(again, image, atol=1e-3 * float(image.max()), rtol=0)


def test_molecules_are_the_same_every_time_and_differ_from_one_another(all_molecules):
    for phantom, again in zip(all_molecules, molecules(3), strict=False):
        np.testing.assert_array_equal(phantom.positions, again.positions)
    images = project_top(all_molecules)
    likeness = (images @ images.T).fill_diagonal_(0.0)
    assert float(likeness.max()) < 0.95


def project_top(phantoms):
    images = [project(p, torch.eye(3)[None], None, BOX, PIXEL_SIZE).flatten() for p in phantoms]
    return torch.stack([image / image.norm() for image in images])


def test_features_reach_six_angstrom(all_molecules):
    # as much power at 6 to 8 Angstrom, relative to 20, as the rods of helices in real proteins
    for phantom in all_molecules:
        image = project(phantom, turns(4), None, 160, 1.5)
        power = torch.fft.rfft2(image).abs().square().mean(0)
        fy, fx = torch.fft.fftfreq(160, 1.5), torch.fft.rfftfreq(160, 1.5)
        s = torch.hypot(fy[:, None], fx[None])
        fine = power[(s > 1 / 8.0) & (s < 1 / 6.0)].mean()
        coarse = power[(s > 1 / 22.0) & (s < 1 / 18.0)].mean()
        assert fine / coarse > 1e-3, phantom.name


def test_contaminants_are_heavy_and_smooth():
    lump = contaminant(np.random.default_rng(1))
    assert lump.sigma.min() >= 8.0
    assert lump.mass > 1000.0


def test_random_rotations_are_rotations_and_uniform():
    many = random_rotations(np.random.default_rng(0), 4000)
    np.testing.assert_allclose(
        many @ many.transpose(0, 2, 1), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(many), 1.0)
    np.testing.assert_allclose(many.mean(0), 0.0, atol=0.04)
    # the height of a turned axis is uniform between -1 and 1
    np.testing.assert_allclose((many[:, 2, 2] ** 2).mean(), 1 / 3, atol=0.02)
