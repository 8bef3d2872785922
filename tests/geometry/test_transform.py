"""Signs, origin and direction of rotation and shift."""

import math

import numpy as np
import pytest
import torch
from reference import picture, pictures, polar, seen, turn
from scipy import ndimage

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotate_vector, rotation_phase, shift_phase

BOXES = [(40, 18), (41, 20)]


def posed(image: np.ndarray, psi: float, shift: tuple[float, float]) -> np.ndarray:
    """out(y) = image(x), y = R(psi) (x + shift) on (column, row): RELION's definition."""
    centre = len(image) // 2
    row, column = np.indices(image.shape) - centre
    source = np.einsum("ij,jyx->iyx", turn(-psi), np.stack([column, row]).astype(float))
    where = np.stack([source[1] - shift[1], source[0] - shift[0]]) + centre
    return ndimage.map_coordinates(image, where, order=5)


def taken(grid: PolarGrid, images: torch.Tensor, psi: float, shift: tuple) -> torch.Tensor:
    """Images after a pose: shift, then rotate."""
    moved = grid.sample(images) * shift_phase(grid, torch.tensor(shift, device=images.device))
    angle = torch.tensor([psi], device=images.device)
    turned = grid.harmonics(moved) * rotation_phase(angle, grid.num_angles)
    return grid.from_harmonics(turned)


def test_rotation_matrix_acts_on_column_and_row(device):
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -3.0]], device=device)
    for psi in (0.0, 0.3, -2.0, math.pi / 2):
        found = rotate_vector(vectors, torch.full((3,), psi, device=device)).cpu()
        expected = vectors.cpu().double().numpy() @ turn(psi).T
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    # a quarter turn takes right to down: rows grow downwards
    quarter = rotate_vector(vectors[:1], torch.tensor([math.pi / 2], device=device))
    torch.testing.assert_close(quarter.cpu(), torch.tensor([[0.0, 1.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("box", "rings"), BOXES)
@pytest.mark.parametrize("shift", [(3.0, 0.0), (0.0, -2.0), (1.5, 2.25)])
def test_shift_moves_right_and_down(box, rings, shift, device):
    grid = PolarGrid(box, rings)
    moved = grid.sample(pictures(box, 1).to(device)) * shift_phase(
        grid, torch.tensor([shift], device=device)
    )
    # a particle that needs the shift -t to become the class is the class moved by +t
    expected = polar(picture(box, 0, 0.0, (-shift[0], -shift[1])), grid)
    assert np.abs(moved[0].cpu().numpy() - expected).max() < 0.03 * np.abs(expected).max()


def test_a_whole_pixel_shift_is_a_roll(device):
    grid = PolarGrid(40, 18)
    images = pictures(40).to(device)
    rolled = torch.roll(images, shifts=(2, -3), dims=(1, 2))  # down, left
    phase = shift_phase(grid, torch.tensor([-3.0, 2.0], device=device))
    first, second = grid.sample(rolled), grid.sample(images) * phase
    assert float((first - second).abs().max()) < 0.05 * float(second.abs().max())


@pytest.mark.parametrize(("box", "rings"), BOXES)
@pytest.mark.parametrize("psi", [0.35, -1.2, 2.8, math.pi])
def test_rotation_of_harmonics_rotates_the_picture(box, rings, psi, device):
    grid = PolarGrid(box, rings)
    # the particle that psi turns into the class
    particle = torch.from_numpy(picture(box, 1, psi)).float()[None].to(device)
    found = taken(grid, particle, psi, (0.0, 0.0))[0].cpu().numpy()
    expected = polar(picture(box, 1), grid)
    assert np.abs(found - expected).max() < 0.04 * np.abs(expected).max()


@pytest.mark.parametrize("psi", [0.5, 4.0])
def test_direction_agrees_with_rotating_pixels(psi, device):
    grid = PolarGrid(48, 20)
    image = picture(48, 2)
    # scipy turns counterclockwise as the eye sees it; a positive psi turns right to down, clockwise
    turned = ndimage.rotate(np.pad(image, (0, 1)), -math.degrees(psi), reshape=False, order=5)
    turned = torch.from_numpy(turned[:48, :48].copy()).float()[None].to(device)
    phased = taken(grid, torch.from_numpy(image).float()[None].to(device), psi, (0.0, 0.0))
    samples = grid.sample(turned)
    assert float((samples - phased).abs().max()) < 0.04 * float(samples.abs().max())


@pytest.mark.parametrize(("box", "rings"), BOXES)
@pytest.mark.parametrize(
    ("psi", "shift"), [(0.7, (2.5, -1.0)), (-2.0, (0.0, 3.0)), (5.5, (-2.0, -2.0))]
)
def test_a_pose_is_rotation_of_the_shifted_image(box, rings, psi, shift, device):
    grid = PolarGrid(box, rings)
    image = picture(box, 0)
    expected = polar(posed(image, psi, shift), grid)
    found = taken(grid, torch.from_numpy(image).float()[None].to(device), psi, shift)
    assert np.abs(found[0].cpu().numpy() - expected).max() < 0.04 * np.abs(expected).max()


def test_the_three_definitions_of_a_pose_agree():
    # pixels, blobs and Fourier transform: the oracles say the same
    grid, psi, shift = PolarGrid(40, 16), 0.7, (2.5, -1.0)
    particle = picture(40, 0, psi, shift)
    np.testing.assert_allclose(posed(particle, psi, shift), picture(40, 0), atol=5e-3)
    from_class, from_particle = seen(picture(40, 0), psi, shift, grid), polar(particle, grid)
    np.testing.assert_allclose(from_class, from_particle, atol=1e-3 * np.abs(from_class).max())


def test_rotations_add_up(device):
    first, second = torch.rand(2, 5, generator=torch.Generator().manual_seed(1)).to(device) * 6
    product = rotation_phase(first, 40) * rotation_phase(second, 40)
    torch.testing.assert_close(product, rotation_phase(first + second, 40), atol=1e-4, rtol=0)
    opposite = rotation_phase(first, 40) * rotation_phase(-first, 40)
    torch.testing.assert_close(opposite, torch.ones_like(opposite), atol=1e-5, rtol=0)


def test_shifts_add_up(device):
    grid = PolarGrid(33, 16)
    first, second = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(2)).to(device)
    product = shift_phase(grid, first) * shift_phase(grid, second)
    torch.testing.assert_close(product, shift_phase(grid, first + second), atol=1e-5, rtol=0)


def test_rotating_and_shifting_back(device):
    # R(-psi) S(-R psi t) R(psi) S(t) = 1
    grid = PolarGrid(40, 18)
    psi, shift = torch.tensor([0.9], device=device), torch.tensor([[2.0, -1.0]], device=device)
    start = grid.sample(pictures(40, 1).to(device))
    there = grid.harmonics(start * shift_phase(grid, shift)) * rotation_phase(psi, grid.num_angles)
    moved = grid.from_harmonics(there) * shift_phase(grid, -rotate_vector(shift, psi))
    back = grid.from_harmonics(grid.harmonics(moved) * rotation_phase(-psi, grid.num_angles))
    torch.testing.assert_close(back, start, atol=2e-3 * float(start.abs().max()), rtol=0)
