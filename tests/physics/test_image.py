import math

import numpy as np
import pytest
import torch
from reference import form, fourier, frequencies, picture, pictures, plane_sum, polar, seen, turn

from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.image import adjoint, aligned

BOXES = [(40, 18), (41, 20)]
PSI = torch.tensor([0.7, -2.0, 5.5, 0.0])
SHIFT = torch.tensor([[2.5, -1.0], [0.0, 3.0], [-2.0, -2.0], [0.0, 0.0]])


def random_rings(grid: PolarGrid, device: torch.device, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn((4, grid.num_angles, grid.num_rings, 2), generator=generator)
    return torch.view_as_complex(parts).to(device)


def close(found: torch.Tensor, expected: np.ndarray, tolerance: float = 0.04) -> bool:
    return np.abs(found.cpu().numpy() - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("box", "rings"), BOXES)
def test_form_is_the_class_as_the_particle_shows_it(box, rings, device):
    grid = PolarGrid(box, rings)
    classes = grid.harmonics(grid.sample(pictures(box).to(device)))
    found = form(grid, classes, PSI.to(device), SHIFT.to(device))
    for k, (psi, shift) in enumerate(zip(PSI.tolist(), SHIFT.tolist(), strict=True)):
        assert close(found[k], seen(picture(box, k), psi, shift, grid))
        assert close(found[k], polar(picture(box, k, psi, shift), grid))


@pytest.mark.parametrize(("box", "rings"), BOXES)
def test_adjoint_takes_the_particle_into_the_class(box, rings, device):
    grid = PolarGrid(box, rings)
    poses = list(zip(PSI.tolist(), SHIFT.tolist(), strict=True))
    particles = np.stack([picture(box, k, psi, shift) for k, (psi, shift) in enumerate(poses)])
    samples = grid.sample(torch.from_numpy(particles).float().to(device))
    found = grid.from_harmonics(adjoint(grid, samples, PSI.to(device), SHIFT.to(device)))
    for k in range(4):
        assert close(found[k], polar(picture(box, k), grid))


@pytest.mark.parametrize(("box", "rings"), BOXES)
@pytest.mark.parametrize("weighted", [False, True])
def test_form_and_adjoint_are_adjoint(box, rings, weighted, device):
    # <W form(A), X> = <A, adjoint(W X)> with CTF / sigma^2 as the weight
    grid = PolarGrid(box, rings)
    rings_of_class, image = random_rings(grid, device, 1), random_rings(grid, device, 2)
    classes = grid.harmonics(rings_of_class)
    weight = random_rings(grid, device, 3).real if weighted else torch.ones((), device=device)
    psi, shift = PSI.to(device), SHIFT.to(device)
    in_particle = grid.inner(weight * form(grid, classes, psi, shift), image)
    taken = adjoint(grid, weight * image, psi, shift)
    product = (classes.conj() * taken).real * grid.harmonic_weights().to(device)[:, None]
    in_class = product.sum(1) @ grid.ring_weights.to(device)
    torch.testing.assert_close(in_particle, in_class, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize(("box", "rings"), BOXES)
def test_adjoint_undoes_form(box, rings, device):
    grid = PolarGrid(box, rings)
    classes = grid.harmonics(grid.sample(pictures(box).to(device)))
    psi, shift = PSI.to(device), SHIFT.to(device)
    back = adjoint(grid, form(grid, classes, psi, shift), psi, shift)
    torch.testing.assert_close(back, classes, atol=2e-3 * float(classes.abs().max()), rtol=0)


def test_poses_keep_lengths(device):
    grid = PolarGrid(40, 18)
    samples = grid.sample(pictures(40).to(device))
    seen_by_particle = form(grid, grid.harmonics(samples), PSI.to(device), SHIFT.to(device))
    before, after = grid.inner(samples, samples), grid.inner(seen_by_particle, seen_by_particle)
    torch.testing.assert_close(before, after, rtol=2e-3, atol=0)


def test_the_oracle_turns_frequencies_as_pixels():
    grid = PolarGrid(32, 10)
    fx, fy = np.einsum("ij,jas->ias", turn(0.7), np.stack(frequencies(grid)))
    one = fourier(picture(32, 0), fx, fy)
    other = polar(picture(32, 0, 0.7), grid)
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())
    assert plane_sum(np.abs(one) ** 2) == pytest.approx(plane_sum(np.abs(other) ** 2), rel=1e-4)


@pytest.mark.parametrize(("box", "rings"), BOXES)
def test_aligned_samples_are_those_of_the_adjoint(box, rings, device):
    grid, row = PolarGrid(box, rings), torch.tensor([2, 0, 1, 3, 0], device=device)
    image, psi = random_rings(grid, device, 1), grid.nearest(PSI.to(device)[row] + 0.3)
    step = math.pi / grid.num_angles
    assert float((psi / step - (psi / step).round()).abs().max()) < 1e-3
    assert float((psi - PSI.to(device)[row] - 0.3).abs().max()) <= 0.501 * step
    shift = SHIFT.to(device)[row] * 1.1
    found = aligned(grid, image, row, psi, shift)
    exact = adjoint(grid, image[row], psi, shift)
    torch.testing.assert_close(grid.harmonics(found), exact, rtol=1e-3, atol=1e-3)
