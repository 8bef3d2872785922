import dataclasses

import numpy as np
import pytest
import torch
from reference import seen, taken
from synthetic import PIXEL, Synthetic, synthetic

from cryo2d.em.posterior import Posterior
from cryo2d.em.score import Candidates
from cryo2d.em.solve import images_of, least_squares
from cryo2d.em.stats import SufficientStats, accumulate, add_residual
from cryo2d.physics.image import adjoint

CLASSES = 3


def soft(data: Synthetic, device: torch.device, seed: int = 0) -> Posterior:
    """Every class at the true pose, with random weights."""
    count = len(data.images)
    generator = torch.Generator().manual_seed(seed)
    poses = data.poses(device)
    row = torch.arange(count, device=device).repeat(CLASSES)
    classes = torch.arange(CLASSES, device=device).repeat_interleave(count)
    every = dataclasses.replace(poses[row], classes=classes)
    logs = torch.rand(CLASSES * count, generator=generator).to(device)
    one = torch.ones_like(logs)
    return Posterior.of(Candidates(every, logs, logs, one, one, one, one, count), uncertainty=1.0)


def zeros(data: Synthetic, device: torch.device, groups: int = 1) -> SufficientStats:
    return SufficientStats.zeros(data.grid, CLASSES, groups, device)


def summed(
    data: Synthetic, device: torch.device, posterior: Posterior, scaled: bool = False, **settings
) -> SufficientStats:
    stats = zeros(data, device)
    posterior.add_to(stats, data.grid, data.weighted(device, scaled), **settings)
    return stats


def assert_same(one: SufficientStats, other: SufficientStats, tolerance: float = 1e-4) -> None:
    for name, value in one.as_dict().items():
        scale = float(value.abs().max()) + 1e-20
        torch.testing.assert_close(other.as_dict()[name], value, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("box", [32, 33])
def test_sums_by_definition(box, device):
    data = synthetic(6, box=box, rings=10, reach=0.5, scale_spread=0.3, astigmatism=400.0)
    posterior = soft(data, device)
    stats = summed(data, device, posterior, scaled=True, least=0.0)
    grid = data.grid
    found = grid.from_harmonics(stats.num).cpu().numpy()
    num = np.zeros(found.shape, dtype=complex)
    den, count = np.zeros((2, CLASSES, 10)), np.zeros((2, CLASSES))
    poses = posterior.candidates.poses
    for i, weight in enumerate(posterior.weight.tolist()):
        n, k = int(poses.particle[i]), int(poses.classes[i])
        half, alpha = int(data.half[n]), float(data.scale[n])
        rotated = taken(
            data.images[n].numpy(),
            data.ctf[n : n + 1],
            PIXEL,
            float(poses.psi[i]),
            poses.shift[i].tolist(),
            grid,
        )
        num[half, k] += weight * alpha * rotated / data.sigma2
        _, ctf = data.observed(n)
        den[half, k] += weight * alpha**2 * (ctf**2).mean(0) / data.sigma2
        count[half, k] += weight
    np.testing.assert_allclose(found, num, atol=0.05 * np.abs(num).max())
    np.testing.assert_allclose(stats.den.cpu().numpy(), den, rtol=1e-3)
    np.testing.assert_allclose(stats.count.cpu().numpy(), count, rtol=1e-4)


def test_the_sums_of_parts_are_the_sum(device):
    data = synthetic(10, sigma=0.3)
    images, posterior = data.weighted(device), soft(data, device)
    whole = summed(data, device, posterior)
    particle = posterior.candidates.poses.particle
    parts = []
    for rows in (particle < 4, particle >= 4):
        alone = dataclasses.replace(posterior, weight=posterior.weight * rows)
        parts.append(zeros(data, device))
        alone.add_to(parts[-1], data.grid, images)
    assert_same(whole, parts[0] + parts[1])
    chunks = zeros(data, device)
    poses, weight = posterior.candidates.poses, posterior.weight
    accumulate(chunks, data.grid, images, poses, weight, chunk=7)
    assert_same(whole, chunks)


def test_half_sets_add_up_to_the_whole(device):
    data = synthetic(10, sigma=0.3)
    images, posterior = data.weighted(device), soft(data, device)
    whole = zeros(data, device)
    one_half = dataclasses.replace(images, half=torch.zeros_like(images.half))
    posterior.add_to(whole, data.grid, one_half)
    halves = summed(data, device, posterior)
    for name in ("num", "den", "count"):
        one, other = getattr(whole, name), getattr(halves, name)
        assert float(one[1].abs().max()) == 0.0
        scale = float(one.abs().max())
        torch.testing.assert_close(other.sum(0), one[0], atol=1e-4 * scale, rtol=0)
    assert float(halves.count.sum()) == pytest.approx(10, rel=1e-4)


def test_the_order_of_the_particles_does_not_matter(device):
    data = synthetic(9, sigma=0.3)
    images = data.weighted(device)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1)).to(device)
    poses = data.poses(device)
    first, second = zeros(data, device), zeros(data, device)
    accumulate(first, data.grid, images, poses, torch.ones_like(poses.psi))
    shuffled = type(images)(
        **{f.name: getattr(images, f.name)[order] for f in dataclasses.fields(images)}
    )
    moved = dataclasses.replace(poses[order], particle=poses.particle)
    accumulate(second, data.grid, shuffled, moved, torch.ones_like(moved.psi))
    assert_same(first, second)


def test_small_weights_are_dropped_and_the_rest_makes_one(device):
    data = synthetic(9, sigma=0.3)
    posterior = soft(data, device)
    stats = summed(data, device, posterior, least=0.34)
    assert float(stats.count.sum()) == pytest.approx(9, rel=1e-4)
    particle, weight = posterior.candidates.poses.particle, posterior.weight
    kept = torch.where(weight >= 0.34, weight, 0.0)
    total = torch.zeros(9, device=device).index_add_(0, particle, kept)
    same = dataclasses.replace(posterior, weight=kept / total[particle])
    assert_same(summed(data, device, same, least=0.0), stats)


def test_scaling_and_blending(device):
    data = synthetic(6, sigma=0.3)
    one, other = (summed(data, device, soft(data, device, seed)) for seed in (0, 1))
    assert_same(one, one.blend(other, 0.0))
    assert_same(other, one.blend(other, 1.0))
    half = one.scaled(0.5) + other.scaled(0.5)
    assert_same(half, one.blend(other, 0.5))
    assert_same(one, one + zeros(data, device))


@pytest.mark.parametrize("box", [32, 33])
def test_moving_the_sums_moves_the_average(box, device):
    data = synthetic(30, box=box, rings=13, sigma=0.0, reach=1.0)
    poses, stats = data.poses(device), zeros(data, device)
    accumulate(stats, data.grid, data.weighted(device), poses, torch.ones_like(poses.psi))
    # to the right and up by whole pixels
    shift = torch.tensor([[2.0, -1.0], [0.0, 3.0], [-1.0, 0.0]], device=device)
    moved = stats.moved(data.grid, shift)

    def averages(sums: SufficientStats) -> torch.Tensor:
        return images_of(data.grid, least_squares(data.grid, sums.num.sum(0), sums.den.sum(0)))

    before, after = averages(stats), averages(moved)
    for k, (x, y) in enumerate(shift.int().tolist()):
        expected = torch.roll(before[k], shifts=(y, x), dims=(0, 1))[5:-5, 5:-5]
        error = (after[k, 5:-5, 5:-5] - expected).abs().max()
        assert float(error) < 0.05 * float(expected.abs().max())
    assert torch.equal(moved.den, stats.den)
    assert torch.equal(moved.count, stats.count)
    shift[1] = 0.0
    assert torch.equal(stats.moved(data.grid, shift).num[:, 1], stats.num[:, 1])
    assert torch.equal(stats.moved(data.grid, 0.0 * shift).num, stats.num)


def test_moving_there_and_back(device):
    data = synthetic(12, sigma=0.2)
    stats = summed(data, device, soft(data, device))
    shift = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.0, 0.0]], device=device)
    there = stats.moved(data.grid, shift)
    # but for the highest angular orders, which a shift carries beyond the last one
    assert_same(stats, there.moved(data.grid, -shift), tolerance=0.03)


def test_residual_power_by_definition(device):
    data = synthetic(6, rings=10, sigma=0.3, scale_spread=0.2)
    images, poses = data.weighted(device, scaled=True), data.poses(device)
    optics = torch.arange(6, device=device) % 2
    images = dataclasses.replace(images, optics=optics)
    harmonics = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    stats = zeros(data, device, groups=3)
    add_residual(stats, data.grid, images, poses, harmonics)
    expected = np.zeros((3, 10))
    for n in range(6):
        average = data.averages[int(data.classes[n])].numpy()
        model = seen(average, float(data.psi[n]), data.shift[n].tolist(), data.grid)
        samples, ctf = data.observed(n)
        difference = samples - float(data.scale[n]) * ctf * model
        expected[n % 2] += (np.abs(difference) ** 2).mean(0)
    np.testing.assert_allclose(stats.power.cpu().numpy(), expected, rtol=0.02, atol=0.02)
    assert stats.particles.tolist() == [3.0, 3.0, 0.0]


def test_rings_beyond_the_alignment_keep_their_whole_power(device):
    data = synthetic(6, rings=10, sigma=0.3)
    images, poses = data.weighted(device), data.poses(device)
    harmonics = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    few, whole = zeros(data, device), zeros(data, device)
    add_residual(few, data.grid, images, poses, harmonics[..., :6])
    add_residual(whole, data.grid, images, poses, harmonics)
    torch.testing.assert_close(few.power[:, :6], whole.power[:, :6], rtol=1e-4, atol=1e-4)
    raw = data.batch(device).rings.abs().square().mean(1).sum(0)
    torch.testing.assert_close(few.power[0, 6:], raw[6:], rtol=1e-4, atol=1e-4)


def test_residual_of_a_perfect_fit_is_the_noise(device):
    data = synthetic(200, sigma=0.5)
    images, poses = data.weighted(device), data.poses(device)
    harmonics = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    stats = zeros(data, device)
    add_residual(stats, data.grid, images, poses, harmonics)
    power = (stats.power / stats.particles[:, None])[0]
    torch.testing.assert_close(power.cpu(), torch.full((12,), data.sigma2), rtol=0.08, atol=0)
    assert float(power.mean()) == pytest.approx(data.sigma2, rel=0.03)


def test_particles_taken_into_their_class_beforehand_change_nothing(device):
    data = synthetic(20, sigma=0.3)
    images, posterior = data.weighted(device), soft(data, device)
    harmonics = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    best = posterior.best_poses
    taken = adjoint(data.grid, images.image, best.psi, best.shift)
    for one in (posterior, posterior.hard()):
        found = []
        for given in (None, taken):
            found.append(zeros(data, device))
            one.add_to(found[-1], data.grid, images, given)
            add_residual(found[-1], data.grid, images, best, harmonics[..., :7], given)
        assert_same(*found)
