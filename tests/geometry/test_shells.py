import numpy as np
import pytest
import torch
from reference import frc

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import (
    resolution_at,
    ring_correlation,
    ring_power,
    sample_correlation,
)
from cryo2d.physics.mask import circular_mask

GRID = PolarGrid(32, 12)
FREQUENCY = torch.arange(1, 11) / 100.0  # 1/Angstrom: 100, 50, 33.3, 25, 20, ... 10 A


def averages(rng: np.random.Generator, device: torch.device) -> torch.Tensor:
    # inside the circle whose angular orders the grid resolves
    images = torch.from_numpy(rng.standard_normal((3, 32, 32))).float() * circular_mask(32, 12, 15)
    return GRID.sample(images.to(device))


def test_correlation_is_that_of_the_samples_ring_by_ring(rng, device):
    # over the half circle: the other half is the same once more
    first, second = averages(rng, device), averages(rng, device)
    second = 0.5 * first + second
    found = ring_correlation(GRID, GRID.harmonics(first), GRID.harmonics(second)).cpu()
    same = sample_correlation(first, second).cpu()
    for ours, sampled, one, two in zip(found, same, first.cpu(), second.cpu(), strict=True):
        theirs = frc(one.numpy().astype(complex), two.numpy().astype(complex))
        np.testing.assert_allclose(ours.numpy(), theirs, atol=5e-3)
        np.testing.assert_allclose(sampled.numpy(), theirs, atol=1e-5)


def test_correlation_is_symmetric_bounded_and_knows_no_scale(rng, device):
    first, second = (GRID.harmonics(averages(rng, device)) for _ in range(2))
    found = ring_correlation(GRID, first, second)
    assert float(found.abs().max()) <= 1.0
    torch.testing.assert_close(ring_correlation(GRID, second, first), found)
    torch.testing.assert_close(ring_correlation(GRID, 7.0 * first, 0.1 * second), found)
    one = ring_correlation(GRID, first, first)
    torch.testing.assert_close(one, torch.ones_like(one))
    torch.testing.assert_close(ring_correlation(GRID, first, -first), -one)


def test_empty_averages_correlate_with_nothing(rng, device):
    full = GRID.harmonics(averages(rng, device))
    found = ring_correlation(GRID, full, torch.zeros_like(full))
    assert float(found.abs().max()) == 0.0


def test_power_is_the_mean_square_of_the_samples(rng, device):
    samples = averages(rng, device)
    found = ring_power(GRID, GRID.harmonics(samples))
    torch.testing.assert_close(found, samples.abs().square().mean(1), rtol=1e-2, atol=1e-3)


def test_resolution_on_known_curves(device):
    falling = torch.linspace(1.0, 0.1, 10)
    curves = torch.stack(
        [
            torch.ones(10),  # never falls
            torch.zeros(10),  # never rises
            (torch.arange(10) < 5).float(),  # a step between rings 5 and 6
            torch.cat((torch.tensor([1.0, 1, 1, 0, 1]), torch.ones(5))),  # first fall counts
            falling,
        ]
    ).to(device)
    found = 1.0 / resolution_at(curves, FREQUENCY, 0.5).cpu()
    # falling by 0.1 a ring: 0.5 at ring 6
    expected = torch.tensor([0.10, 0.01, 0.055, 0.035, 0.06])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_lower_threshold_is_met_later(rng, device):
    curves = torch.from_numpy(np.sort(rng.uniform(0, 1, (50, 10)))[:, ::-1].copy()).float()
    curves = curves.to(device)
    strict = resolution_at(curves, FREQUENCY, 0.5)
    lax = resolution_at(curves, FREQUENCY, 0.143)
    assert bool((lax <= strict + 1e-6).all())


@pytest.mark.parametrize("threshold", [0.5, 0.143])
def test_resolution_moves_steadily_with_the_curve(threshold, device):
    # no jump when a ring crosses the threshold
    steps = torch.linspace(-0.05, 0.05, 201)
    base = torch.tensor([1.0, 0.9, 0.8, threshold, 0.1, 0, 0, 0, 0, 0])
    curves = base.expand(201, 10).clone()
    curves[:, 3] += steps
    frequency = 1.0 / resolution_at(curves.to(device), FREQUENCY, threshold)
    assert float(frequency.diff().abs().max()) < 2e-4
    assert bool((frequency.diff() >= -1e-7).all())
