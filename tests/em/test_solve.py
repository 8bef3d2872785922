from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import frc, picture, pictures, wiener
from synthetic import Synthetic, synthetic

from cryo2d.em.prior import LocalRegularizer
from cryo2d.em.solve import Recenter, WienerSolver, images_of, least_squares
from cryo2d.em.stats import SufficientStats, accumulate
from cryo2d.geometry.fourier import fourier_shift
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.solvent import SolventMask


class Constant:
    """The same Wiener weight everywhere; remembers the FRC it was given."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, frc: torch.Tensor, den: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        return torch.full_like(frc, self.weight)


def summed(data: Synthetic, device: torch.device, classes: int | None = None) -> SufficientStats:
    poses = data.poses(device)
    stats = SufficientStats.zeros(data.grid, classes or len(data.averages), 1, device)
    accumulate(stats, data.grid, data.weighted(device), poses, torch.ones_like(poses.psi))
    return stats


def solver(grid: PolarGrid, weight: float = 1.0, neighbours: bool = False) -> WienerSolver:
    half = grid.box / 2
    solvent = SolventMask(grid.box, 0.85 * half, 0.97 * half, neighbours=neighbours)
    return WienerSolver(grid, solvent, Constant(weight))


@pytest.mark.parametrize(("box", "rings"), [(32, 15), (33, 16)])
def test_many_clean_particles_give_the_picture_back(box, rings, device):
    # every defocus is different: together they have no zero
    data = synthetic(240, box=box, rings=rings, sigma=0.0, reach=1.0)
    found = solver(data.grid)(summed(data, device)).averages.cpu()
    for average, expected in zip(found, data.averages, strict=True):
        both = torch.stack((average.flatten(), expected.flatten()))
        assert float(torch.corrcoef(both)[0, 1]) > 0.98
        slope = float((average * expected).sum() / expected.square().sum())
        assert slope == pytest.approx(1.0, abs=0.1)


def test_the_wiener_solution_by_definition(device):
    data = synthetic(60, rings=12, sigma=0.3)
    stats = summed(data, device)
    weight = 0.7
    num = data.grid.from_harmonics(stats.num.sum(0)).cpu().numpy()
    den = stats.den.sum(0).cpu().numpy().astype(float)
    found = least_squares(data.grid, stats.num.sum(0), stats.den.sum(0)) * weight
    found = data.grid.from_harmonics(found).cpu().numpy()
    for k in range(3):
        expected = wiener(num[k], den[k], np.full(12, weight / (1 - weight)))
        # but for the floor under the CTF's zeros
        sound = den[k] > 0.05 * den[k].max()
        np.testing.assert_allclose(
            found[k][:, sound], expected[:, sound], atol=0.03 * np.abs(expected).max()
        )
    whole, less = (solver(data.grid, w)(stats).averages for w in (1.0, 0.7))
    torch.testing.assert_close(less, 0.7 * whole, atol=1e-4, rtol=1e-3)


def test_least_squares_is_where_the_sum_of_squares_is_least(device):
    # derivative of den |A|^2 - 2 Re<num, A> vanishes, and the sums' scale does not matter
    data = synthetic(60, sigma=0.3)
    stats = summed(data, device).scaled(3.0)
    num, den = stats.num.sum(0), stats.den.sum(0)
    found = least_squares(data.grid, num, den)
    gradient = den[:, None] * found - num
    assert float(gradient.abs().max()) < 0.02 * float(num.abs().max())
    torch.testing.assert_close(
        least_squares(data.grid, 50.0 * num, 50.0 * den), found, rtol=1e-4, atol=1e-5
    )


def test_a_class_without_particles_is_blank(device):
    data = synthetic(30, num_classes=2, sigma=0.3)
    stats = summed(data, device, classes=4)
    solution = solver(data.grid, neighbours=True)(stats)
    assert bool(torch.isfinite(solution.averages).all())
    assert float(solution.averages[2:].abs().max()) == 0.0
    assert float(solution.frc[2:].abs().max()) == 0.0
    assert float(solution.averages[:2].abs().amax((1, 2)).min()) > 0


@pytest.mark.parametrize("neighbours", [False, True])
def test_averages_are_zero_outside_the_mask(neighbours, device):
    data = synthetic(30, sigma=0.5)
    found = solver(data.grid, neighbours=neighbours)(summed(data, device)).averages
    outside = solver(data.grid).solvent.circle.to(device) == 0
    assert int(outside.sum()) > 0
    assert float(found[:, outside].abs().max()) == 0.0


def test_averages_are_weighted_where_the_half_sets_agree(device):
    data = synthetic(90, sigma=3.0, reach=0.5)
    stats = summed(data, device)
    plain = solver(data.grid)
    local = replace(plain, local=LocalRegularizer(3.0))
    before, after = (one(stats, apart=True) for one in (plain, local))
    # the same particles, less of the noise beside them, in both half-sets and in all
    clean = data.averages.to(device)
    old, new = (torch.stack((one.averages, *one.halves)) for one in (before, after))
    error, less = ((images - clean).square().sum((2, 3)) for images in (old, new))
    assert bool((less < error).all())
    # the reported resolution knows nothing of it
    torch.testing.assert_close(after.frc, before.frc)


def test_correlation_of_the_halves(device):
    clean = synthetic(120, sigma=0.05, reach=1.0)
    noisy = synthetic(120, sigma=20.0, reach=1.0)
    good = solver(clean.grid)(summed(clean, device)).frc
    bad = solver(noisy.grid)(summed(noisy, device)).frc
    assert float(good[:, :8].min()) > 0.9
    assert float(bad.mean().abs()) < 0.15
    same = summed(clean, device)
    same = SufficientStats(
        same.num[:1].expand_as(same.num),
        same.den[:1].expand_as(same.den),
        same.count,
        same.power,
        same.particles,
    )
    one = solver(clean.grid)(same).frc
    torch.testing.assert_close(one, torch.ones_like(one), atol=1e-4, rtol=0)


def test_correlation_by_definition(device):
    data = synthetic(60, sigma=0.6, reach=1.0)
    stats, solve = summed(data, device), solver(data.grid)
    found = solve(stats).frc.cpu().numpy()
    grid, solvent = data.grid, solve.solvent
    samples = []
    for half in (0, 1):
        images = images_of(grid, least_squares(grid, stats.num[half], stats.den[half]))
        flat = solvent.flatten(images, solvent.circle.to(device).expand_as(images))
        samples.append(grid.sample(flat).cpu().numpy().astype(complex))
    for k in range(3):
        np.testing.assert_allclose(found[k], frc(samples[0][k], samples[1][k]), atol=5e-3)


@pytest.mark.parametrize("binary", [False, True])
def test_recentring_walks_an_average_home(binary, device):
    recenter = Recenter(threshold=0.3, binary=binary, max_step=3.0)
    home = pictures(48).to(device)
    home = fourier_shift(home, recenter.shift(home))
    home = fourier_shift(home, recenter.shift(home))
    away = torch.tensor([[5.0, -4.0], [0.0, 7.0], [-6.0, 0.0], [2.0, 2.0]], device=device)
    images = fourier_shift(home, away)
    path = [recenter.shift(images)]
    for _ in range(8):
        images = fourier_shift(images, path[-1])
        path.append(recenter.shift(images))
    # which pixels count changes a little with the place between pixels
    assert float(path[-1].norm(dim=1).max()) < 0.3
    assert float((sum(path[:-1]) + away).norm(dim=1).max()) < 0.5
    assert float(torch.stack(path).norm(dim=-1).max()) <= 3.0 + 1e-4


def test_recentring_leaves_what_is_centred_and_what_is_blank(device):
    centred = torch.zeros((2, 33, 33), device=device)
    centred[0, 14:19, 14:19] = 1.0
    assert float(Recenter().shift(centred).abs().max()) < 1e-5
    dark = -torch.ones((1, 33, 33), device=device)
    assert float(Recenter().shift(dark).abs().max()) == 0.0


def test_recentring_points_from_the_mass_to_the_centre(device):
    image = torch.zeros((1, 32, 32), device=device)
    image[0, 18, 15] = 1.0  # row 18 is below, column 15 left of pixel 16
    torch.testing.assert_close(Recenter().shift(image), torch.tensor([[1.0, -2.0]], device=device))


def test_dim_pixels_do_not_pull(device):
    image = torch.zeros((1, 32, 32), device=device)
    image[0, 16, 16] = 1.0
    image[0, 2:6, 2:6] = 0.1
    assert float(Recenter(threshold=0.2).shift(image).norm()) < 1e-5
    assert float(Recenter(threshold=0.05).shift(image).norm()) > 1.0


def test_moves_too_short_to_matter_are_not_made(device):
    image = torch.zeros((1, 32, 32), device=device)
    image[0, 16, 16], image[0, 16, 17] = 1.0, 0.25
    torch.testing.assert_close(Recenter().shift(image), torch.tensor([[-0.2, 0.0]], device=device))
    assert float(Recenter(min_step=0.3).shift(image).abs().max()) == 0.0


def test_images_and_harmonics(device):
    grid = PolarGrid(33, 16)
    images = torch.from_numpy(np.stack([picture(33, 0)])).float().to(device)
    found = images_of(grid, grid.harmonics(grid.sample(images)))
    inner = slice(8, 25)
    assert float((found - images)[:, inner, inner].std()) < 0.01


def test_a_half_set_alone_knows_nothing_of_the_other(device):
    data = synthetic(120, sigma=0.3)
    stats = summed(data, device)
    solve = solver(data.grid)
    other = replace(stats, num=stats.num.clone(), den=stats.den.clone())
    other.num[1], other.den[1] = stats.num[1].flip(0), 2.0 * stats.den[1].flip(0)
    first, second = solve(stats, apart=True).halves
    kept, changed = solve(other, apart=True).halves
    torch.testing.assert_close(kept, first)
    assert float((changed - second).abs().max()) > 0.5 * float(second.abs().max())


def test_a_half_set_has_half_the_signal_to_noise_ratio(device):
    # w = SSNR / (1 + SSNR); w of both 0.75 is SSNR 3, a half-set's 1.5, its w 0.6
    data = synthetic(120, sigma=0.3)
    stats = summed(data, device)
    found = solver(data.grid, 0.75)(stats, apart=True).halves
    for half in (0, 1):
        alone = replace(
            stats, num=stats.num[[half, half]], den=stats.den[[half, half]], count=stats.count
        )
        expected = solver(data.grid, 0.6)(alone).averages
        torch.testing.assert_close(found[half], expected, atol=1e-4, rtol=1e-3)
