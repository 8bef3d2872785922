import math

import numpy as np
import pytest
import torch
from reference import frequencies, picture, pictures, plane_sum, polar

from cryo2d.geometry.polar import PolarGrid, even_size

GRIDS = [
    PolarGrid(32, 14),
    PolarGrid(33, 16),
    PolarGrid(32, 16, padding=1.0),
    PolarGrid(33, 10, padding=1.5, num_angles=40),
    PolarGrid(30, 15, padding=3.0),
]


def random_rings(grid: PolarGrid, count: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    parts = torch.randn((count, grid.num_angles, grid.num_rings, 2), generator=generator)
    return torch.view_as_complex(parts).to(device)


@pytest.mark.parametrize("grid", GRIDS)
def test_frequencies_are_those_of_the_rings(grid):
    for ours, theirs in zip(grid.frequencies, frequencies(grid), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-7)
    assert grid.num_angles % 2 == 0
    assert grid.padded >= grid.box * grid.padding


@pytest.mark.parametrize("grid", GRIDS)
def test_samples_are_the_fourier_transform(grid, device):
    images = pictures(grid.box)
    found = grid.sample(images.to(device)).cpu().numpy()
    for image, samples in zip(images.numpy(), found, strict=True):
        expected = polar(image, grid)
        # padding buys accuracy
        tolerance = {1.0: 0.05, 1.5: 0.02}.get(grid.padding, 0.01)
        assert np.abs(samples - expected).max() < tolerance * np.abs(expected).max()


def test_noise_that_fills_the_box_is_sampled_too(rng, device):
    grid = PolarGrid(32, 16)
    image = rng.standard_normal((32, 32))
    found = grid.sample(torch.from_numpy(image).float()[None].to(device))[0].cpu().numpy()
    expected = polar(image, grid)
    error = np.sqrt((np.abs(found - expected) ** 2).mean() / (np.abs(expected) ** 2).mean())
    assert error < 0.05


def test_more_padding_is_more_exact_and_takes_more_memory(rng):
    image = rng.standard_normal((32, 32))
    errors, sizes = [], []
    for padding in (1.0, 1.5, 2.0, 3.0):
        grid = PolarGrid(32, 13, padding=padding)
        found = grid.sample(torch.from_numpy(image).float()[None])[0].numpy()
        errors.append(np.abs(found - polar(image, grid)).max())
        sizes.append(grid.padded**2)
    assert all(worse > 1.3 * better for worse, better in zip(errors, errors[1:], strict=False))
    assert errors[0] > 5 * errors[2]
    assert sizes[0] < sizes[1] < 0.6 * sizes[2] < sizes[3]


@pytest.mark.parametrize("box", [32, 33])
def test_a_point_in_the_centre_has_a_flat_transform(box, device):
    image = torch.zeros((1, box, box), device=device)
    image[0, box // 2, box // 2] = box
    samples = PolarGrid(box, box // 2).sample(image)
    torch.testing.assert_close(samples, torch.ones_like(samples), atol=1e-2, rtol=0)


def test_images_do_not_mix(rng, device):
    grid = PolarGrid(32, 12)
    images = torch.from_numpy(rng.standard_normal((3, 32, 32))).float().to(device)
    one_by_one = torch.cat([grid.sample(image[None]) for image in images])
    torch.testing.assert_close(grid.sample(images), one_by_one)
    weights = torch.tensor([2.0, -1.0, 0.5], device=device)
    mixed = torch.einsum("n,nyx->yx", weights, images)[None]
    expected = torch.einsum("n,nas->as", weights.to(one_by_one), one_by_one)[None]
    torch.testing.assert_close(grid.sample(mixed), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_synthesize_is_the_adjoint_of_sample(grid, rng, device):
    images = torch.from_numpy(rng.standard_normal((3, grid.box, grid.box))).float().to(device)
    rings = random_rings(grid, 3, device)
    in_fourier = grid.inner(grid.sample(images), rings)
    in_space = (images * grid.synthesize(rings)).sum((1, 2))
    torch.testing.assert_close(in_fourier, in_space, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("grid", [PolarGrid(32, 16), PolarGrid(33, 16), PolarGrid(48, 20)])
def test_synthesize_undoes_sample(grid, device):
    # blurred, so that nothing lies beyond the outermost ring
    images = pictures(grid.box).to(device)
    found = grid.synthesize(grid.sample(images))
    # ring 0 is not sampled: the mean of the box, at most
    centre = slice(grid.box // 6, -(grid.box // 6))
    difference = (found - images)[:, centre, centre]
    difference = difference - difference.mean((1, 2), keepdim=True)
    assert float(difference.abs().max()) < 0.04 * float(images.max())


@pytest.mark.parametrize("grid", GRIDS)
def test_inner_product_is_a_sum_over_the_plane(grid, device):
    rings = random_rings(grid, 2, device)
    product = (rings[0].conj() * rings[1]).real.cpu().double().numpy()
    found = float(grid.inner(rings[:1], rings[1:])[0])
    assert found == pytest.approx(plane_sum(product), rel=1e-4, abs=0.05)


def test_inner_product_in_fourier_is_that_of_the_images(device):
    # without the means, which lie on the ring that is not sampled
    grid = PolarGrid(48, 24)
    images = pictures(48).to(device)
    images = images - images.mean((1, 2), keepdim=True)
    samples = grid.sample(images)
    found = grid.inner(samples[:, None], samples[None])
    expected = torch.einsum("iyx,jyx->ij", images, images)
    assert float((found - expected).abs().max()) < 0.05 * float(expected.max())


@pytest.mark.parametrize("grid", GRIDS)
def test_harmonics_and_back(grid, device):
    samples = grid.sample(pictures(grid.box).to(device))
    back = grid.from_harmonics(grid.harmonics(samples))
    torch.testing.assert_close(back, samples, atol=4e-3 * float(samples.abs().max()), rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_harmonics_of_harmonics_are_exact(grid, device):
    # any coefficients are those of some ring, as long as order 0 is real
    coefficients = random_rings(grid, 2, device)
    coefficients[:, 0] = coefficients[:, 0].real.to(coefficients)
    back = grid.harmonics(grid.from_harmonics(coefficients))
    torch.testing.assert_close(back, coefficients, atol=1e-4, rtol=1e-4)


def test_harmonics_are_coefficients_of_a_fourier_series(device):
    grid = PolarGrid(32, 3, num_angles=16)
    value = 0.7 - 0.4j
    for order in range(16):
        wave = torch.exp(1j * order * grid.angles)
        # the other half circle is the complex conjugate: order -m comes with (-1)^m conj(c)
        other = (-1) ** order * complex(value).conjugate() * wave.conj()
        ring = value.real + 0 * wave if order == 0 else value * wave + other
        found = grid.harmonics(ring[None, :, None].expand(1, -1, 3).to(torch.complex64).to(device))
        expected = torch.zeros((1, 16, 3), dtype=torch.complex64, device=device)
        expected[:, order] = value.real if order == 0 else value
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_parseval(grid, device):
    coefficients = random_rings(grid, 2, device)
    coefficients[:, 0] = coefficients[:, 0].real.to(coefficients)
    rings = grid.from_harmonics(coefficients)
    product = (coefficients[0].conj() * coefficients[1]).real
    in_orders = (product * grid.harmonic_weights().to(device)[:, None]).sum(0)
    in_angles = (rings[0].conj() * rings[1]).real.mean(0)
    torch.testing.assert_close(in_orders, in_angles, atol=1e-3, rtol=1e-4)


def test_angles_resolve_the_whole_box(device):
    # beyond the highest order there is nothing, so that more angles change nothing
    few, many = PolarGrid(48, 20), PolarGrid(48, 20, num_angles=160)
    images = pictures(48).to(device)
    first = few.harmonics(few.sample(images))
    second = many.harmonics(many.sample(images))
    scale = float(first.abs().max())
    torch.testing.assert_close(first, second[:, : few.num_angles], atol=1e-3 * scale, rtol=0)
    assert float(second[:, few.num_angles :].abs().max()) < 1e-3 * scale


def test_rotated_pictures_have_the_same_ring_power(device):
    grid = PolarGrid(48, 20)
    turned = np.stack([picture(48, 0, psi) for psi in (0.0, 0.4, 1.9, 4.0)])
    power = grid.sample(torch.from_numpy(turned).float().to(device)).abs().square().mean(1)
    expected = power[:1].expand_as(power)
    torch.testing.assert_close(power, expected, atol=0.03 * float(power.max()), rtol=0)


@pytest.mark.parametrize(("value", "size"), [(1, 8), (8, 8), (8.1, 16), (math.pi * 16, 56)])
def test_even_size(value, size):
    assert even_size(value) == size


def test_inner_rings_need_fewer_angles(device):
    grid = PolarGrid(64, 32)  # of 104 angles
    assert [grid.thinned(rings).num_angles for rings in (32, 17, 16, 9, 8, 3)] == [
        104,
        104,
        52,
        52,
        26,
        26,
    ]
    images = pictures(64).to(device)
    for rings in (16, 8):
        thin = grid.thinned(rings)
        samples = grid.sample(images)[:, :: grid.num_angles // thin.num_angles, :rings]
        torch.testing.assert_close(thin.sample(images), samples)
        whole = grid.up_to(rings).sample(images)
        first, second = whole[0], whole[1]
        torch.testing.assert_close(
            thin.inner(samples[0], samples[1]),
            grid.up_to(rings).inner(first, second),
            rtol=1e-3,
            atol=1e-3,
        )
