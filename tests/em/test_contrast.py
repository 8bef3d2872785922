import dataclasses

import pytest
import torch
from synthetic import synthetic

from cryo2d.em.contrast import ICE, LEAST_SCALE, MOST_SCALE, Contrasts, normalised
from cryo2d.em.stats import SufficientStats, accumulate


def contrasts(device, sigma=0.3, contrast=1.0, particles=240):
    data = synthetic(particles, sigma=sigma, reach=1.5)
    stats = SufficientStats.zeros(data.grid, 3, 1, device)
    images = data.weighted(device)
    images = dataclasses.replace(images, image=contrast * images.image)
    poses = data.poses(device)
    accumulate(stats, data.grid, images, poses, torch.ones_like(poses.psi))
    part = data.grid.up_to(data.grid.num_rings - 2)
    averages = part.harmonics(part.sample(data.averages.to(device)))
    return Contrasts.of(part, stats, averages), data


@pytest.mark.parametrize("contrast", [0.7, 1.0, 1.3])
def test_the_contrast_of_the_members_is_found(contrast, device):
    found, data = contrasts(device, contrast=contrast)
    scale = torch.stack([data.scale[data.classes == k].mean() for k in range(3)])
    torch.testing.assert_close(found.mean.cpu(), contrast * scale, atol=0.05, rtol=0)


def test_noise_spreads_the_contrasts(device):
    quiet, noisy = (contrasts(device, sigma=sigma)[0].deviation for sigma in (0.3, 0.6))
    # power of the noise four times as large
    spread = ((noisy**2 - ICE**2) / (quiet**2 - ICE**2)).sqrt()
    torch.testing.assert_close(spread.cpu(), torch.full((3,), 2.0), atol=0.1, rtol=0)


def test_parts_of_the_members(device):
    found = Contrasts(
        torch.tensor([1.0, 1.2, 0.1], device=device), torch.tensor([0.1, 0.2, 1.0], device=device)
    )
    half = torch.full((3,), 0.5, device=device)
    torch.testing.assert_close(found.at(half), found.mean)
    low = found.at(torch.full((3,), 0.1587, device=device))
    torch.testing.assert_close(low.cpu(), torch.tensor([0.9, 1.0, 0.0]), atol=1e-3, rtol=0)
    last = found[torch.tensor([2], device=device)]
    assert last.mean.tolist() == pytest.approx([0.1])


def test_scales_have_mean_one_in_each_group_and_are_clipped(device):
    optics = torch.arange(60, device=device) % 2
    scale = 1.0 + 4.0 * optics + 0.1 * torch.arange(60, device=device).remainder(3)
    found = normalised(scale, optics, 2)
    for group in (0, 1):
        assert float(found[optics == group].mean()) == pytest.approx(1.0, abs=1e-4)
    scale[:4] = torch.tensor([0.0, 0.0, 1e3, 1e3])
    found = normalised(scale, optics, 2)
    assert float(found.min()) == pytest.approx(LEAST_SCALE)
    assert float(found.max()) <= MOST_SCALE
