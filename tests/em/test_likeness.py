import dataclasses

import pytest
import torch
from synthetic import NoMask, Synthetic, synthetic

from cryo2d.em.likeness import Likeness, Merge
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.solve import WienerSolver
from cryo2d.em.stats import SufficientStats, accumulate
from cryo2d.geometry.register import Registrar
from cryo2d.geometry.shells import ring_power

MERGE = Merge(total=10, rings=10, max_shift=4.0, at=(0.5,), shortest=0)


def solver_of(data: Synthetic) -> WienerSolver:
    return WienerSolver(data.grid, NoMask(data.grid.box, 1.0, 2.0), FrcRegularizer())


def at_truth(data: Synthetic, classes: torch.Tensor, device: torch.device) -> SufficientStats:
    """Sums of the particles at their true poses, in given classes ``[n]``."""
    poses = dataclasses.replace(data.poses(device), classes=classes.to(device))
    stats = SufficientStats.zeros(data.grid, int(classes.max()) + 1, 1, device)
    # members of a class alternate between the half-sets
    half = torch.zeros_like(classes)
    for k in classes.unique():
        own = (classes == k).nonzero()[:, 0]
        half[own] = torch.arange(len(own)) % 2
    images = dataclasses.replace(data.weighted(device), half=half.to(device))
    accumulate(stats, data.grid, images, poses, torch.ones_like(poses.psi))
    return stats


def divided(data: Synthetic) -> torch.Tensor:
    """The classes, but every second member of the first in a fourth."""
    classes = data.classes.clone()
    classes[(classes == 0).nonzero()[::2, 0]] = 3
    return classes


def moved_class(data: Synthetic, stats: SufficientStats, k: int) -> SufficientStats:
    """The sums with one class turned and shifted."""
    count, device = stats.count.shape[1], stats.den.device
    psi, shift = torch.zeros(count, device=device), torch.zeros((count, 2), device=device)
    psi[k], shift[k] = 1.1, torch.tensor([1.5, -0.7], device=device)
    return stats.moved(data.grid, shift).turned(psi)


def test_classes_of_one_view_become_one_whatever_their_frames(device):
    data = synthetic(120, sigma=0.3, reach=1.5)
    stats = moved_class(data, at_truth(data, divided(data), device), 3)
    solver = solver_of(data)
    found = MERGE(stats, stats.count.sum(0), 5, solver)
    assert found is not None
    assert found.kept.tolist() == [0]
    assert found.stats.count.sum(0).tolist() == pytest.approx([40, 40, 40, 0])
    assert found.recent.tolist() == pytest.approx([40, 40, 40, 0])
    together = at_truth(data, data.classes, device)
    one, other = solver(found.stats).averages[:3], solver(together).averages
    error = (one - other).square().mean((1, 2)).sqrt()
    assert (error < 0.2 * other.square().mean((1, 2)).sqrt()).all()
    # the two differ by noise alone, and those that stay are as they were
    assert torch.equal(found.stats.num[:, [1, 2]], stats.num[:, [1, 2]])
    assert float(found.stats.num[:, 3].abs().max()) == 0.0
    assert found.difference.shape == stats.num[0, :1].shape


def test_contrast_makes_no_other_view(device):
    data = synthetic(120, sigma=0.3, reach=1.5)
    stats = at_truth(data, divided(data), device)
    num = stats.num.clone()
    for contrast, alike in ((0.75, True), (1.3, True), (0.3, False)):
        num[:, 3] = contrast * stats.num[:, 3]
        changed = dataclasses.replace(stats, num=num)
        found = MERGE(changed, stats.count.sum(0), 5, solver_of(data))
        assert (found is not None) == alike


def test_it_merges_at_its_time_and_only_what_is_alike(device):
    data = synthetic(120, sigma=0.3, reach=1.5)
    stats = at_truth(data, data.classes, device)
    assert MERGE(stats, stats.count.sum(0), 5, solver_of(data)) is None
    twice = at_truth(data, divided(data), device)
    assert [t for t in range(10) if MERGE(twice, twice.count.sum(0), t, solver_of(data))] == [5]


def test_a_short_run_has_no_time_for_it(device):
    data = synthetic(120, sigma=0.3, reach=1.5)
    twice, solver = at_truth(data, divided(data), device), solver_of(data)
    short, long = (dataclasses.replace(MERGE, total=total, shortest=20) for total in (18, 20))
    assert short(twice, twice.count.sum(0), 9, solver) is None
    assert long(twice, twice.count.sum(0), 10, solver) is not None


def test_odds_are_those_of_the_particles(device):
    # by how much members of one class prefer its picture to that of another at the same pose
    data = synthetic(240, sigma=0.5, reach=0.0)
    stats = at_truth(data, data.classes, device)
    alike = Likeness(data.grid.num_rings, 2.0)(stats, solver_of(data), 1e9)
    images, grid = data.weighted(device), data.grid
    pictures = grid.harmonics(grid.sample(data.averages.to(device)))
    registrar = Registrar(grid, 2.0, mirror=False)
    moved = registrar.moved(pictures[alike.second], alike.pose)
    apart = ring_power(grid, pictures[alike.first] - moved) * grid.ring_weights.to(device)
    expected = 0.5 * apart @ images.transfer.mean(0)
    error = 2.0 * (torch.pi * grid.num_rings**2) ** 0.5 * (1 / 80 + 1 / 80)
    assert len(alike.odds) > 0
    torch.testing.assert_close(alike.odds + error, expected, rtol=0.3, atol=3.0)


def test_noise_brings_no_odds(device):
    # halves of one class, many times over: the mean of the odds is that of no difference
    found = []
    for seed in range(6):
        data = synthetic(120, sigma=0.4, reach=1.0, seed=seed)
        stats = at_truth(data, divided(data), device)
        alike = Likeness(8, 2.0)(stats, solver_of(data), 1e9)
        pair = (alike.first == 0) & (alike.second == 3)
        assert int(pair.sum()) == 1
        error = 2.0 * (torch.pi * 64) ** 0.5 * (1 / 20 + 1 / 20)
        found.append(float(alike.odds[pair]) + error)
    assert abs(sum(found) / len(found)) < 3.0


def test_a_class_takes_in_several_and_is_not_taken_in(device):
    data = synthetic(180, sigma=0.3, reach=1.0)
    classes = data.classes.clone()
    own = (classes == 0).nonzero()[:, 0]
    classes[own[1::3]], classes[own[2::3]] = 3, 4
    stats = at_truth(data, classes, device)
    found = MERGE(stats, stats.count.sum(0), 5, solver_of(data))
    assert found is not None
    count = found.stats.count.sum(0)
    assert sorted(count.tolist()) == pytest.approx([0, 0, 60, 60, 60])
    assert float(found.stats.count.sum()) == pytest.approx(float(stats.count.sum()))
