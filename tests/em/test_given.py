import dataclasses

import numpy as np
import pytest
import torch
from reference import chi2, seen
from synthetic import PIXEL, Synthetic, search_of, synthetic

from cryo2d.em.given import KeepPoses
from cryo2d.em.score import PoseScorer
from cryo2d.em.stats import SufficientStats
from cryo2d.types import GivenPoses


def keeping(data: Synthetic) -> KeepPoses:
    """The true poses, in Angstrom."""
    return KeepPoses(GivenPoses(data.psi, PIXEL * data.shift), PIXEL)


def found(data: Synthetic, device: torch.device, rows: torch.Tensor | None = None, **settings):
    images, prior = data.weighted(device), torch.zeros(3, device=device)
    if rows is not None:
        names = [f.name for f in dataclasses.fields(images)]
        images = type(images)(**{name: getattr(images, name)[rows] for name in names})
    settings = {"rings": data.grid.num_rings} | settings
    scorer = PoseScorer(data.averages.to(device), data.grid, search_of(data.grid.box), **settings)
    return keeping(data)(scorer, images, log_prior=prior, uncertainty=1.0), images


def test_classes_are_found_at_the_poses_given(device):
    data = synthetic(30, sigma=0.5)
    posterior, images = found(data, device)
    best = posterior.best_poses
    assert torch.equal(best.classes.cpu(), data.classes)
    torch.testing.assert_close(best.psi.cpu(), data.psi)
    torch.testing.assert_close(best.shift.cpu(), data.shift)
    result = posterior.assignments(images.power.sum(1), images.scale, PIXEL)
    torch.testing.assert_close(result.shift.cpu(), PIXEL * data.shift)
    assert float(result.pose_ess.max()) == float(result.shift_ess.max()) == 1.0
    stats = SufficientStats.zeros(data.grid, 3, 1, device)
    posterior.add_to(stats, data.grid, images)
    assert float(stats.count.sum()) == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize("first_ring", [0, 4])
def test_log_likelihood_is_minus_half_chi_squared(first_ring, device):
    data = synthetic(6, sigma=0.3)
    posterior, _ = found(data, device, first_ring=first_ring)
    noise = np.where(np.arange(data.grid.num_rings) >= first_ring, data.sigma2, np.inf)
    candidates = posterior.candidates
    assert len(candidates.loglik) == 6 * 3
    for i in range(len(candidates.loglik)):
        row, k = int(candidates.poses.particle[i]), int(candidates.poses.classes[i])
        samples, ctf = data.observed(row)
        average, psi = data.averages[k].numpy(), float(data.psi[row])
        model = ctf * seen(average, psi, data.shift[row].tolist(), data.grid)
        gain = 0.5 * (chi2(samples, 0 * model, noise) - chi2(samples, model, noise))
        tolerance = 0.04 * chi2(0 * samples, model, noise)
        assert float(candidates.loglik[i]) == pytest.approx(gain, abs=tolerance)


def test_a_batch_finds_its_own_poses(device):
    data = synthetic(12, sigma=0.5)
    rows = torch.tensor([7, 2, 11], device=device)
    posterior, _ = found(data, device, rows)
    torch.testing.assert_close(posterior.best_poses.psi.cpu(), data.psi[rows.cpu()])
    assert torch.equal(posterior.best_poses.classes.cpu(), data.classes[rows.cpu()])
