import math

import pytest
import torch
from reference import pictures
from synthetic import NoMask, synthetic

from cryo2d.em.seed import add_to_classes, low_passed_averages, random_subsets
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.solvent import SolventMask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_subsets_are_even_and_repeatable():
    classes, psi = random_subsets(100, 7, generator())
    counts = torch.bincount(classes, minlength=7)
    assert int(counts.max() - counts.min()) <= 1
    assert float(psi.min()) >= 0
    assert float(psi.max()) < 2 * math.pi
    again = random_subsets(100, 7, generator())
    assert torch.equal(classes, again[0])
    assert torch.equal(psi, again[1])
    assert not torch.equal(classes, random_subsets(100, 7, generator(1))[0])


def test_every_particle_is_used_once(device):
    data = synthetic(20)
    stats = SufficientStats.zeros(data.grid, 4, 1, device)
    add_to_classes(stats, data.grid, data.weighted(device), *random_subsets(20, 4, generator()))
    torch.testing.assert_close(stats.count.sum(0), torch.full((4,), 5.0, device=device))
    assert float(stats.den.min()) >= 0


def test_low_pass_falls_to_a_half(device):
    grid = PolarGrid(32, 14)
    stats = SufficientStats.zeros(grid, 2, 1, device)
    images = pictures(32, 2).to(device)
    stats.num[0] = grid.harmonics(grid.sample(images))
    stats.den[0] = 1.0
    solvent = NoMask(32, 1.0, 2.0)
    found = low_passed_averages(stats, grid, solvent, rings=5.0)
    before, after = grid.sample(images).abs(), grid.sample(found).abs()
    ratio = (after * before).sum(1) / before.square().sum(1)
    expected = 0.5 ** ((grid.radii / 5.0) ** 2)
    torch.testing.assert_close(ratio[0, 1:6].cpu(), expected[1:6], atol=0.05, rtol=0)
    double = low_passed_averages(stats, grid, solvent, rings=5.0, scale=2.0)
    torch.testing.assert_close(double, 2.0 * found)


@pytest.mark.parametrize("box", [32, 33])
def test_first_averages_are_inside_the_mask(box, device):
    data = synthetic(20, box=box)
    stats = SufficientStats.zeros(data.grid, 4, 1, device)
    add_to_classes(stats, data.grid, data.weighted(device), *random_subsets(20, 4, generator()))
    solvent = SolventMask(box, 10.0, 13.0)
    found = low_passed_averages(stats, data.grid, solvent, rings=5.0)
    assert found.shape == (4, box, box)
    assert bool(torch.isfinite(found).all())
    outside = solvent.circle.to(device) == 0
    assert float(found[:, outside].abs().max()) == 0.0
    assert float(found.abs().amax((1, 2)).min()) > 0
