"""Posteriors as far as a judged sample lets them be believed."""

import numpy as np
import pytest
import torch
from synthetic import picture

from cryo2d.training.judge import calibrated, same_view


def stated(count: int, device: torch.device) -> torch.Tensor:
    """Posteriors of every size, many near 1 ``[n]``."""
    generator = torch.Generator().manual_seed(3)
    return torch.sigmoid(4.0 * torch.randn(count, generator=generator) + 2.0).to(device)


@pytest.mark.parametrize(("offset", "slope"), [(0.0, 1.0), (-1.0, 0.5), (0.4, 0.7), (-0.5, 1.5)])
def test_the_line_of_the_logits_is_found(offset, slope, device):
    posterior = stated(4000, device)
    true = torch.sigmoid(offset + slope * torch.logit(posterior, eps=1e-6))
    judged = true.clone()
    judged[torch.arange(4000, device=device) % 4 > 0] = torch.nan
    torch.testing.assert_close(calibrated(posterior, judged), true, atol=0.01, rtol=0.0)


def test_posteriors_of_the_sample_are_right_on_average(device):
    # what is judged is no function of the posterior, and mostly far below it
    posterior = stated(3000, device)
    generator = torch.Generator().manual_seed(4)
    chance = torch.rand(3000, generator=generator).to(device)
    judged = torch.where(chance < 0.4, 0.1, 1.0) * posterior
    found = calibrated(posterior, judged)
    assert abs(float(found.mean() - judged.mean())) < 0.005
    order = posterior.argsort()
    assert bool((found[order].diff() >= 0.0).all())


def test_extreme_posteriors_stay_finite(device):
    sure = torch.ones(100, device=device)
    assert float((calibrated(sure, torch.full_like(sure, 0.5)) - 0.5).abs().max()) < 0.05
    none = torch.zeros(100, device=device)
    assert bool(calibrated(none, sure).isfinite().all())


def test_without_a_sample_nothing_changes(device):
    posterior = stated(50, device)
    posterior[3] = torch.nan
    judged = torch.full_like(posterior, torch.nan)
    torch.testing.assert_close(calibrated(posterior, judged), posterior, equal_nan=True)
    judged[:5] = 0.5
    torch.testing.assert_close(calibrated(posterior, judged), posterior, equal_nan=True)
    judged[:40] = 0.5
    assert calibrated(posterior, judged).isnan().nonzero().tolist() == [[3]]


def test_classes_of_one_view_count_as_one(rng, device):
    poses = [
        (0, 0.0, (0.0, 0.0)),
        (1, 0.0, (0.0, 0.0)),
        (0, 1.0, (1.0, -1.0)),
        (2, 0.5, (0.0, 0.0)),
    ]
    views = np.stack([picture(48, kind, psi, shift) for kind, psi, shift in poses])
    noisy = views + 0.05 * views.std() * rng.standard_normal(views.shape)
    same = same_view(torch.from_numpy(noisy).float().to(device), pixel_size=4.0)
    assert same.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
