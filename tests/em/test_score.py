import dataclasses

import numpy as np
import pytest
import torch
from reference import chi2, search, seen
from synthetic import Synthetic, angle_between, search_of, synthetic

from cryo2d.em.posterior import Posterior
from cryo2d.em.score import Candidates, PoseScorer


def scorer_of(data: Synthetic, device: torch.device, **settings) -> PoseScorer:
    box = data.grid.box
    search = search_of(box, **settings.pop("search", {}))
    averages = data.averages.to(device)
    return PoseScorer(averages, data.grid, search, **({"rings": data.grid.num_rings} | settings))


def candidates_of(data: Synthetic, device: torch.device, **settings) -> Candidates:
    uncertainty = settings.pop("uncertainty", 1.0)
    scaled = settings.pop("scaled", False)
    prior = settings.pop("log_prior", torch.zeros(len(data.averages), device=device))
    # every class is refined, however unlikely
    settings["search"] = {"margin": 1e9} | settings.get("search", {})
    images = data.weighted(device, scaled)
    return scorer_of(data, device, **settings).candidates(
        images, log_prior=prior, uncertainty=uncertainty
    )


def best(found: Candidates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    row = Posterior.of(found, uncertainty=1.0).best
    poses = found.poses[row]
    assert torch.equal(poses.particle, torch.arange(found.num_particles, device=row.device))
    return poses.classes.cpu(), poses.psi.cpu(), poses.shift.cpu()


@pytest.mark.parametrize(("box", "rings", "jitter"), [(32, 14, 0.0), (33, 15, 0.3), (48, 16, -0.5)])
def test_it_finds_class_rotation_and_shift(box, rings, jitter, device):
    data = synthetic(16, box=box, rings=rings, num_classes=4, sigma=0.15, astigmatism=300.0)
    classes, psi, shift = best(candidates_of(data, device, jitter=jitter))
    torch.testing.assert_close(classes, data.classes)
    turned, moved = angle_between(psi, data.psi), (shift - data.shift).norm(dim=1)
    assert float(turned.median()) < 0.03
    assert float(turned.max()) < 0.1
    assert float(moved.median()) < 0.25
    assert float(moved.max()) < 0.7


@pytest.mark.parametrize("box", [32, 33])
def test_it_finds_the_pose_of_the_exhaustive_search(box, device):
    data = synthetic(2, box=box, rings=7, num_classes=2, sigma=0.4)
    classes, psi, shift = best(candidates_of(data, device))
    psis = np.arange(0, 2 * np.pi, np.pi / 18)
    shifts = [(x, y) for x in np.arange(-3.0, 3.1) for y in np.arange(-3.0, 3.1)]
    noise = np.full(7, data.sigma2)
    for i in range(2):
        samples, ctf = data.observed(i)
        averages = data.averages.numpy()
        table = search(samples, ctf, 1.0, averages, data.grid, noise, psis, shifts)
        k, r, t = np.unravel_index(table.argmin(), table.shape)
        assert int(classes[i]) == k
        assert float(angle_between(psi[i], torch.tensor(psis[r]))) < np.pi / 18
        assert np.abs(shift[i].numpy() - shifts[t]).max() < 1.0
        # between the grid points it is at least as good
        model = ctf * seen(averages[k], float(psi[i]), shift[i].tolist(), data.grid)
        assert chi2(samples, model, noise) <= table.min() + 1.0


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("first_ring", [0, 3])
def test_log_likelihood_is_minus_half_chi_squared(scaled, first_ring, device):
    data = synthetic(6, sigma=0.4, scale_spread=0.3)
    found = candidates_of(data, device, scaled=scaled, first_ring=first_ring)
    images = data.weighted(device, scaled)
    noise = np.where(np.arange(12) >= first_ring, data.sigma2, np.inf)
    assert len(found.loglik) == 6 * 3
    for i in range(len(found.loglik)):
        row, k = int(found.poses.particle[i]), int(found.poses.classes[i])
        samples, ctf = data.observed(row)
        shift = found.poses.shift[i].tolist()
        model = ctf * seen(data.averages[k].numpy(), float(found.poses.psi[i]), shift, data.grid)
        alpha, empty = float(images.scale[row]), chi2(samples, 0 * model, noise)
        gain = -0.5 * (chi2(samples, alpha * model, noise) - empty)
        slice_pow = chi2(0 * samples, model, noise)
        cross_cor = empty + slice_pow - chi2(samples, model, noise)
        tolerance = 0.04 * slice_pow
        assert float(found.slice_pow[i]) == pytest.approx(slice_pow, abs=tolerance)
        assert float(found.cross_cor[i]) == pytest.approx(cross_cor, abs=tolerance)
        assert float(found.loglik[i]) == pytest.approx(gain, abs=tolerance)


def test_scores_and_posterior_columns_say_the_same(device):
    data = synthetic(6, sigma=0.4, scale_spread=0.3)
    found = candidates_of(data, device, scaled=True)
    alpha = data.scale.to(device)[found.poses.particle]
    expected = 0.5 * alpha * found.cross_cor - 0.5 * alpha**2 * found.slice_pow
    torch.testing.assert_close(found.loglik, expected, rtol=1e-4, atol=1e-3)


def test_astigmatism_hardly_matters_to_the_norm(device):
    # ring means of CTF^2 stand for the product with the rotated average
    data = synthetic(6, sigma=0.4, astigmatism=600.0)
    found, noise = candidates_of(data, device), np.full(12, data.sigma2)
    for i in range(len(found.loglik)):
        row, k = int(found.poses.particle[i]), int(found.poses.classes[i])
        shift = found.poses.shift[i].tolist()
        model = seen(data.averages[k].numpy(), float(found.poses.psi[i]), shift, data.grid)
        exact = chi2(0 * model, data.observed(row)[1] * model, noise)
        assert float(found.slice_pow[i]) == pytest.approx(exact, rel=0.15)


def test_a_prior_adds_to_the_log_likelihood(device):
    data = synthetic(6, sigma=0.4)
    flat = candidates_of(data, device)
    prior = torch.tensor([0.0, -1.5, 2.0], device=device)
    found = candidates_of(data, device, log_prior=prior, uncertainty=1.7)
    # divided by f^2 in the posterior, the prior itself is not tempered
    expected = flat.loglik + 1.7**2 * prior[flat.poses.classes]
    torch.testing.assert_close(found.loglik, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("uncertainty", [1.0, 1.7])
def test_the_prior_of_shifts_adds_to_the_log_likelihood(uncertainty, device):
    data = synthetic(6, sigma=0.4, scale_spread=0.3)
    pull = torch.tensor(0.3, device=device)
    found = candidates_of(data, device, pull=pull, uncertainty=uncertainty, scaled=True)
    alpha = data.scale.to(device)[found.poses.particle]
    likelihood = 0.5 * alpha * found.cross_cor - 0.5 * alpha**2 * found.slice_pow
    prior = -0.3 * found.poses.shift.square().sum(1)
    expected = likelihood + uncertainty**2 * prior
    torch.testing.assert_close(found.loglik, expected, rtol=1e-4, atol=1e-3)
    # what was found without it lies further out, and is worth no more with it
    flat = candidates_of(data, device, uncertainty=uncertainty, scaled=True)
    cost = uncertainty**2 * 0.3 * flat.poses.shift.square().sum(1)
    own = data.classes.to(device)
    mine = [one.poses.classes == own[one.poses.particle] for one in (found, flat)]
    order = [
        one.poses.particle[rows].argsort() for one, rows in zip((found, flat), mine, strict=True)
    ]
    most, least = found.loglik[mine[0]][order[0]], (flat.loglik - cost)[mine[1]][order[1]]
    assert len(most) == len(least) == 6
    assert bool((most > least - 0.05).all())
    lengths = [one.poses.shift.norm(dim=1).mean() for one in (found, flat)]
    assert float(lengths[0]) < float(lengths[1])


def test_a_narrow_prior_keeps_particles_where_they_were_picked(device):
    data = synthetic(6, sigma=0.4)
    found = candidates_of(data, device, pull=torch.tensor(1e4, device=device))
    assert float(found.poses.shift.norm(dim=1).max()) < 0.1


def test_shifts_far_beyond_the_prior_are_not_searched(device):
    data = synthetic(6, sigma=0.4)
    flat = scorer_of(data, device)
    wide, narrow = (
        scorer_of(data, device, pull=torch.tensor(0.5 / deviation**2, device=device))
        for deviation in (4.0, 0.5)
    )
    assert torch.equal(wide.coarse.shifts, flat.coarse.shifts)
    assert 1 < len(narrow.coarse.shifts) < len(flat.coarse.shifts)
    assert float(narrow.coarse.shifts.norm(dim=1).max()) <= 3.5 * 0.5


def test_unlikely_classes_are_left_out(device):
    data = synthetic(9, sigma=0.2)
    every = candidates_of(data, device)
    few = candidates_of(data, device, search={"margin": 12.0})
    assert len(few.loglik) < len(every.loglik)
    weight = Posterior.of(every, uncertainty=1.0).weight
    kept = {(int(p), int(k)) for p, k in zip(few.poses.particle, few.poses.classes, strict=True)}
    pairs = zip(every.poses.particle.tolist(), every.poses.classes.tolist(), strict=True)
    lost = [w for pair, w in zip(pairs, weight.tolist(), strict=True) if pair not in kept]
    assert max(lost) < 0.01
    hot = candidates_of(data, device, search={"margin": 12.0}, uncertainty=100.0)
    assert len(hot.loglik) == len(every.loglik)


def test_at_most_so_many_candidates(device):
    data = synthetic(8, num_classes=4, sigma=0.2)
    found = candidates_of(data, device, search={"candidates": 2})
    assert torch.bincount(found.poses.particle).tolist() == [2] * 8
    torch.testing.assert_close(best(found)[0], data.classes)


def test_particles_do_not_mix(device):
    data = synthetic(6, sigma=0.3)
    images, scorer = data.weighted(device), scorer_of(data, device, search={"margin": 1e9})
    prior = torch.zeros(3, device=device)
    together = scorer.candidates(images, log_prior=prior, uncertainty=1.0)
    rows = {f.name: getattr(images, f.name)[2:4] for f in dataclasses.fields(images)}
    alone = scorer.candidates(type(images)(**rows), log_prior=prior, uncertainty=1.0)
    for i in (0, 1):
        mine = alone.loglik[alone.poses.particle == i]
        other = together.loglik[together.poses.particle == i + 2]
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-2)


def test_turning_the_reference_turns_the_pose(device):
    # equivariance: the same particle against an average turned by beta
    data = synthetic(6, sigma=0.1)
    psi = best(candidates_of(data, device))[1]
    beta = 0.5
    grid = data.grid
    samples = grid.harmonics(grid.sample(data.averages))
    phase = torch.exp(-1j * beta * torch.arange(grid.num_angles))[:, None]
    turned = grid.synthesize(grid.from_harmonics(samples * phase)).to(device)
    scorer = PoseScorer(turned, grid, search_of(grid.box), rings=12)
    found = scorer.candidates(
        data.weighted(device), log_prior=torch.zeros(3, device=device), uncertainty=1.0
    )
    assert float(angle_between(best(found)[1], psi + beta).median()) < 0.03
