import dataclasses

import numpy as np
import pytest
import torch
from reference import posterior

from cryo2d.em.fine import Poses
from cryo2d.em.posterior import Posterior
from cryo2d.em.score import Candidates

PARTICLES, CLASSES = 5, 4


def candidates(device: torch.device, seed: int = 0, missing: bool = True) -> Candidates:
    """Scores of every class for every particle, sorted by class; some pairs left out."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(CLASSES).repeat_interleave(PARTICLES)
    particle = torch.arange(PARTICLES).repeat(CLASSES)
    if missing:
        kept = (classes != particle % CLASSES) | (particle == 0)
        classes, particle = classes[kept], particle[kept]
    count = len(classes)
    columns = 3.0 * torch.rand((8, count), generator=generator)
    poses = Poses(particle, classes, columns[0], columns[1:3].T)
    poses = Poses(*(value.to(device) for value in vars(poses).values()))
    loglik, evidence, cross, power, pose_ess = columns[3:].to(device)
    ess = pose_ess + 1, pose_ess + 2
    return Candidates(poses, loglik, evidence, cross, power, *ess, PARTICLES)


def tables(found: Candidates, values: torch.Tensor, fill: float) -> np.ndarray:
    """One value per particle and class ``[n k]``."""
    out = np.full((PARTICLES, CLASSES), fill)
    rows, columns = found.poses.particle.cpu().numpy(), found.poses.classes.cpu().numpy()
    out[rows, columns] = values.cpu().numpy()
    return out


@pytest.mark.parametrize("uncertainty", [0.3, 1.0, 4.0])
def test_posterior_by_definition(uncertainty, device):
    found = candidates(device)
    ours = tables(found, Posterior.of(found, uncertainty=uncertainty).weight, 0.0)
    error = tables(found, -2.0 * found.evidence, np.inf)
    for mine, theirs in zip(ours, error, strict=True):
        np.testing.assert_allclose(mine, posterior(theirs, uncertainty), atol=1e-5)


def test_it_sums_to_one_and_knows_no_offset(device):
    found = candidates(device)
    weight = Posterior.of(found, uncertainty=1.5).weight
    total = torch.zeros(PARTICLES, device=device).index_add_(0, found.poses.particle, weight)
    torch.testing.assert_close(total, torch.ones_like(total))
    # each particle has an offset of its own: its image power
    offset = torch.tensor([0.0, 1e4, -1e4, 3.0, 900.0], device=device)[found.poses.particle]
    moved = dataclasses.replace(found, evidence=found.evidence + offset)
    torch.testing.assert_close(
        Posterior.of(moved, uncertainty=1.5).weight, weight, atol=2e-3, rtol=0
    )
    # far beyond what single precision resolves, the likeliest are equals
    far = dataclasses.replace(found, evidence=found.evidence + 1e8)
    weight = Posterior.of(far, uncertainty=1.5).weight
    total = torch.zeros(PARTICLES, device=device).index_add_(0, found.poses.particle, weight)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e3, 1e6, 1e12])
def test_no_likelihood_is_too_small_or_too_large(scale, device):
    found = candidates(device)
    found = dataclasses.replace(found, evidence=scale * found.evidence)
    ours = Posterior.of(found, uncertainty=1.0)
    total = torch.zeros(PARTICLES, device=device).index_add_(0, found.poses.particle, ours.weight)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    assert bool(torch.isfinite(ours.class_ess).all())


def test_limits_of_the_temperature(device):
    found = candidates(device)
    cold, hot = (Posterior.of(found, uncertainty=f) for f in (1e-3, 1e4))
    torch.testing.assert_close(cold.weight, cold.hard().weight)
    count = torch.bincount(found.poses.particle)[found.poses.particle]
    torch.testing.assert_close(hot.weight, 1.0 / count, atol=1e-4, rtol=0)
    torch.testing.assert_close(cold.class_ess, torch.ones(PARTICLES, device=device))
    torch.testing.assert_close(
        hot.class_ess, torch.bincount(found.poses.particle).float(), rtol=1e-3, atol=0
    )
    assert torch.equal(cold.best, Posterior.of(found, uncertainty=10.0).best)


def test_effective_classes_by_definition(device):
    found = candidates(device)
    whole = Posterior.of(found, uncertainty=1.0)
    weight = tables(found, whole.weight, 0.0)
    np.testing.assert_allclose(whole.class_ess.cpu().numpy(), 1.0 / (weight**2).sum(1), rtol=1e-5)


def test_the_best_candidate_is_the_most_probable(device):
    found = candidates(device)
    whole = Posterior.of(found, uncertainty=1.0)
    expected = tables(found, found.evidence, -np.inf).argmax(1)
    np.testing.assert_array_equal(found.poses.classes[whole.best].cpu().numpy(), expected)
    np.testing.assert_array_equal(
        found.poses.particle[whole.best].cpu().numpy(), np.arange(PARTICLES)
    )
    hard = whole.hard()
    assert float(hard.weight.sum()) == PARTICLES
    assert bool((hard.weight[whole.best] == 1).all())


def test_of_equal_candidates_one_is_best(device):
    found = candidates(device, missing=False)
    tied = Posterior.of(
        dataclasses.replace(found, evidence=torch.zeros_like(found.evidence)), uncertainty=1.0
    )
    assert float(tied.hard().weight.sum()) == PARTICLES
    torch.testing.assert_close(tied.weight, torch.full_like(tied.weight, 1 / CLASSES))
    assert bool((found.poses.classes[tied.best] == 0).all())


def test_assignments_are_those_of_the_best_candidate(device):
    found = candidates(device)
    whole = Posterior.of(found, uncertainty=1.0)
    power = 20.0 + torch.arange(PARTICLES, device=device).float()
    scale = 1.0 + 0.1 * torch.arange(PARTICLES, device=device)
    got = whole.assignments(power, scale, pixel_size=2.5)
    assert len(got) == PARTICLES
    for n, row in enumerate(whole.best.tolist()):
        assert int(got.class_index[n]) == int(found.poses.classes[row])
        torch.testing.assert_close(got.shift[n], 2.5 * found.poses.shift[row])
        torch.testing.assert_close(got.psi[n], found.poses.psi[row])
        assert float(got.class_posterior[n]) == float(whole.weight[row])
        assert float(got.pose_ess[n]) == float(found.pose_ess[row])
        assert float(got.shift_ess[n]) == float(found.shift_ess[row])
    expected = power - scale * got.cross_cor + scale**2 * got.slice_pow
    torch.testing.assert_close(got.error, expected)
    # alpha_min is where the error is least
    for factor in (0.9, 1.1):
        other = dataclasses.replace(got, alpha=factor * got.alpha_min)
        least = dataclasses.replace(got, alpha=got.alpha_min)
        assert bool((other.error >= least.error - 1e-4).all())
