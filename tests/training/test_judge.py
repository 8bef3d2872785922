"""Posteriors as far as a judged sample lets them be believed."""

import pytest
import torch

from cryo2d.em.likeness import Alike
from cryo2d.geometry.register import Registration
from cryo2d.training.judge import CONTRASTS, at_contrast, calibrated, contrasts, same_view


def stated(count: int, device: torch.device) -> torch.Tensor:
    """Posteriors of every size, many near 1 ``[n]``."""
    generator = torch.Generator().manual_seed(3)
    return torch.sigmoid(4.0 * torch.randn(count, generator=generator) + 2.0).to(device)


@pytest.mark.parametrize(
    ("offset", "high", "low"),
    [(0.0, 1.0, 1.0), (-1.0, 0.5, 0.5), (0.4, 0.7, 0.7), (-0.5, 1.5, 0.4), (0.3, 0.3, 1.2)],
)
def test_the_curve_is_found(offset, high, low, device):
    posterior = stated(4000, device)
    p = posterior.clamp(1e-6, 1.0 - 1e-6)
    true = torch.sigmoid(offset + high * p.log() - low * torch.log1p(-p))
    judged = true.clone()
    judged[torch.arange(4000, device=device) % 4 > 0] = torch.nan
    off = (calibrated(posterior, judged, torch.ones_like(posterior)) - true).abs()
    # but for posteriors far from any in the sample
    assert float(off.quantile(0.999)) < 0.01


def test_posteriors_of_the_sample_are_right_on_average(device):
    # what is judged is no function of the posterior, and mostly far below it
    posterior = stated(3000, device)
    generator = torch.Generator().manual_seed(4)
    chance = torch.rand(3000, generator=generator).to(device)
    judged = torch.where(chance < 0.4, 0.1, 1.0) * posterior
    found = calibrated(posterior, judged, torch.ones_like(posterior))
    assert abs(float(found.mean() - judged.mean())) < 0.01
    order = posterior.argsort()
    assert bool((found[order].diff() >= 0.0).all())


def test_a_weight_is_as_many_particles(device):
    posterior = stated(300, device)
    judged = torch.where(torch.arange(300, device=device) % 3 == 0, 0.2, 0.9) * posterior
    number = torch.arange(300, device=device) % 4 + 1
    once = calibrated(posterior, judged, number.float())
    of = torch.arange(300, device=device).repeat_interleave(number)
    often = calibrated(posterior[of], judged[of], torch.ones_like(posterior[of]))
    torch.testing.assert_close(once[of], often)
    seen = seen_of(torch.tensor([1.0, 0.7]), torch.arange(300) % 2, power=20.0).to(device)
    found = contrasts(seen, number.float())
    torch.testing.assert_close(found, contrasts(seen[of], torch.ones_like(posterior[of])))


def test_extreme_posteriors_stay_finite(device):
    sure = torch.ones(100, device=device)
    assert float((calibrated(sure, torch.full_like(sure, 0.5), sure) - 0.5).abs().max()) < 0.05
    none = torch.zeros(100, device=device)
    assert bool(calibrated(none, sure, sure).isfinite().all())


def test_without_a_sample_nothing_changes(device):
    posterior = stated(50, device)
    posterior[3] = torch.nan
    judged = torch.full_like(posterior, torch.nan)
    torch.testing.assert_close(
        calibrated(posterior, judged, torch.ones_like(posterior)), posterior, equal_nan=True
    )
    judged[:5] = 0.5
    torch.testing.assert_close(
        calibrated(posterior, judged, torch.ones_like(posterior)), posterior, equal_nan=True
    )
    judged[:40] = 0.5
    assert calibrated(posterior, judged, torch.ones_like(posterior)).isnan().nonzero().tolist() == [
        [3]
    ]


def test_like_pairs_are_the_same_view_both_ways(device):
    pair = torch.tensor([0, 1], device=device), torch.tensor([2, 3], device=device)
    odds, none = torch.zeros(2, device=device), torch.zeros((2, 2), device=device)
    pose = Registration(odds, odds, none, odds > 1)
    same = same_view(Alike(*pair, odds, pose), 4)
    assert same.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


def seen_of(contrast: torch.Tensor, classes: torch.Tensor, power: float) -> torch.Tensor:
    """Log evidence of particles whose classes have averages of such contrasts ``[s k c]``."""
    generator = torch.Generator().manual_seed(5)
    own = torch.zeros((len(classes), len(contrast))).scatter(1, classes[:, None], 1.0)
    # <image, average> has the mean c power where it is the right one, and the variance power
    cross = own * contrast * power + power**0.5 * torch.randn(own.shape, generator=generator)
    c = torch.tensor(CONTRASTS)
    return c * cross[:, :, None] - 0.5 * c**2 * power


def test_the_contrast_of_each_average_is_found(device):
    true = torch.tensor([1.0, 0.7, 1.1, 0.85])
    seen = seen_of(true, torch.arange(2000) % 4, power=20.0).to(device)
    found = contrasts(seen, torch.ones_like(seen[:, 0, 0]))
    torch.testing.assert_close(found.cpu(), true, atol=0.06, rtol=0.0)
    best = at_contrast(seen, found).logsumexp(1).mean()
    for other in (found + 0.1, found - 0.1, torch.ones_like(found)):
        assert float(best) > float(at_contrast(seen, other).logsumexp(1).mean())


def test_few_particles_hardly_change_a_contrast(device):
    seen = seen_of(torch.tensor([1.0, 0.6]), torch.tensor([0, 0, 0, 0, 0, 1]), power=20.0)
    assert (
        float((contrasts(seen.to(device), torch.ones(6, device=device)) - 1.0).abs().max()) < 0.15
    )


def test_contrasts_stay_where_they_were_seen(device):
    seen = seen_of(torch.tensor([2.0, 0.1]), torch.arange(400) % 2, power=20.0).to(device)
    found = contrasts(seen, torch.ones_like(seen[:, 0, 0]))
    torch.testing.assert_close(found.cpu(), torch.tensor((CONTRASTS[-1], CONTRASTS[0])))
    there = at_contrast(seen, torch.ones(2, device=device))
    torch.testing.assert_close(there, seen[:, :, 1], rtol=1e-5, atol=1e-4)
