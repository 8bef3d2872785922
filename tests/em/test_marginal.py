import dataclasses

import numpy as np
import pytest
import torch
from reference import seen
from synthetic import Synthetic, angle_between, synthetic

from cryo2d.em.fine import LocalGrid
from cryo2d.em.marginal import Marginalise, MarginalPosterior
from cryo2d.em.posterior import Posterior, maximise
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.score import PoseScorer
from cryo2d.em.search import PoseSearch
from cryo2d.em.solve import WienerSolver, least_squares
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.shells import ring_correlation
from cryo2d.geometry.transform import rotate_vector
from cryo2d.physics.image import adjoint
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.physics.solvent import SolventMask

REACH = 2.0


def scorer_of(data: Synthetic, device: torch.device, **settings) -> PoseScorer:
    search = PoseSearch(extent=0.95 * data.grid.box, box=data.grid.box, max_shift=REACH)
    settings = {"rings": data.grid.num_rings} | settings
    return PoseScorer(data.averages.to(device), data.grid, search, **settings)


def expected(
    data: Synthetic,
    device: torch.device,
    step: Marginalise | None = None,
    uncertainty: float = 1.0,
    scaled: bool = False,
    pull: float = 0.0,
) -> tuple[MarginalPosterior, WeightedImages]:
    images, prior = data.weighted(device, scaled), torch.zeros(3, device=device)
    step = step or Marginalise()
    scorer = scorer_of(data, device, pull=torch.tensor(pull, device=device))
    return step(scorer, images, log_prior=prior, uncertainty=uncertainty), images


def sums(data: Synthetic, posterior, images: WeightedImages) -> SufficientStats:
    stats = SufficientStats.zeros(data.grid, 3, 1, images.image.device)
    posterior.add_to(stats, data.grid, images)
    return stats


def class_evidence(
    data: Synthetic, row: int, spacing: float = 0.5, pull: float = 0.0
) -> np.ndarray:
    """Log of the mean likelihood of each class over 36 rotations and a disc of shifts."""
    samples, ctf = data.observed(row)
    weight = data.grid.ring_weights.numpy() / data.sigma2 / data.grid.num_angles
    fx, fy = (f.numpy() for f in data.grid.frequencies)
    steps = np.arange(-REACH, REACH + 1e-6, spacing)
    disc = np.array([(x, y) for x in steps for y in steps if np.hypot(x, y) <= REACH + 1e-6])
    moves = np.exp(2j * np.pi * (disc[:, :1] * fx.ravel() + disc[:, 1:] * fy.ravel()))
    logs = np.empty((3, 36, len(disc)))
    for k, average in enumerate(data.averages.numpy()):
        for r in range(36):
            model = ctf * seen(average, 2 * np.pi * r / 36, (0.0, 0.0), data.grid)
            cross = (moves @ (weight * samples.conj() * model).ravel()).real
            logs[k, r] = cross - 0.5 * (weight * np.abs(model) ** 2).sum()
            logs[k, r] -= pull * (disc**2).sum(1)
    top = logs.max()
    return np.log(np.exp(logs - top).mean((1, 2))) + top


@pytest.mark.parametrize("pull", [0.0, 0.5])
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_class_posterior_is_that_of_the_sum_over_poses(sigma, pull, device):
    data = synthetic(4, sigma=sigma, rings=8)
    posterior, _ = expected(data, device, pull=pull)
    found = posterior.classes.cpu().numpy()
    said = (posterior.evidence - posterior.evidence[:, :1]).cpu().numpy()
    for row in range(2):
        logs = class_evidence(data, row, pull=pull)
        near = logs > logs.max() - 8.0
        np.testing.assert_allclose(said[row][near], (logs - logs[0])[near], atol=0.6)
        exact = np.exp(logs - logs.max())
        np.testing.assert_allclose(found[row], exact / exact.sum(), atol=0.06)


@pytest.mark.parametrize("pull", [0.0, 0.5])
@pytest.mark.parametrize(("sigma", "atol"), [(1.0, 0.6), (2.0, 0.1)])
def test_one_search_gives_the_evidence_at_every_contrast(sigma, atol, pull, device):
    data = synthetic(40, sigma=sigma)
    images, none = data.weighted(device), torch.zeros(3, device=device)
    scorer = scorer_of(data, device, pull=torch.tensor(pull, device=device))
    step, contrasts = Marginalise(), (0.6, 1.0, 1.2)
    together = step.evidences(scorer, images, contrasts)
    for found, contrast in zip(together.unbind(2), contrasts, strict=True):
        seen_so = dataclasses.replace(images, scale=contrast * images.scale)
        own = step(scorer, seen_so, log_prior=none, uncertainty=1.0).evidence
        alone = step.evidences(scorer, seen_so, (1.0,))[..., 0]
        near = own > own.amax(1, keepdim=True) - 8.0
        torch.testing.assert_close(alone[near], own[near], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[near], own[near], rtol=1e-4, atol=atol)


@pytest.mark.parametrize("uncertainty", [1.0, 1.5])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 3.0])
def test_classes_that_are_far_behind_are_not_missed(sigma, uncertainty, monkeypatch, device):
    data = synthetic(40, sigma=sigma)
    few, images = expected(data, device, uncertainty=uncertainty)
    seen = few.logs.scorer, images, (0.6, 1.0, 1.2)
    looks = Marginalise().evidences(*seen)
    monkeypatch.setattr("cryo2d.em.marginal.NEAR", 1e9)
    every, _ = expected(data, device, uncertainty=uncertainty)
    torch.testing.assert_close(few.classes, every.classes, atol=1e-5, rtol=0)
    for name, value in vars(few.peak().candidates.poses).items():
        assert torch.equal(value, getattr(every.peak().candidates.poses, name))
    exact = Marginalise().evidences(*seen)
    torch.testing.assert_close(looks.softmax(1), exact.softmax(1), atol=1e-5, rtol=0)
    # of clear particles most classes are
    assert torch.equal(looks, exact) == (sigma > 1.0)


@pytest.mark.parametrize("uncertainty", [1.0, 3.0])
@pytest.mark.parametrize("sigma", [0.3, 2.0, 10.0])
def test_every_particle_counts_once(sigma, uncertainty, device):
    data = synthetic(30, sigma=sigma)
    posterior, images = expected(data, device, uncertainty=uncertainty)
    one = torch.ones(30, device=device)
    torch.testing.assert_close(posterior.classes.sum(1), one, rtol=1e-4, atol=0)
    torch.testing.assert_close(posterior.local.sum(1), torch.ones_like(posterior.weight))
    stats = sums(data, posterior, images)
    assert float(stats.count.sum()) == pytest.approx(30, rel=0.02)
    for half in (0, 1):
        share = float((images.half == half).sum())
        assert float(stats.count[half].sum()) == pytest.approx(share, rel=0.02)


def test_the_sums_are_those_of_all_poses_with_their_weights(device):
    data = synthetic(6, sigma=2.0, rings=8, scale_spread=0.3)
    posterior, images = expected(data, device, scaled=True)
    stats, grid = sums(data, posterior, images), data.grid
    scorer, local = posterior.logs.scorer, posterior.logs.scorer.fine.local
    num = torch.zeros_like(stats.num)
    den = torch.zeros_like(stats.den)

    def add(row: int, k: int, psi, shift, weight, rings: int) -> None:
        """One pose after the other, as its definition has it."""
        alpha, half = images.scale[row], images.half[row]
        moved = adjoint(grid, images.image[row].expand(len(psi), -1, -1), psi, shift)
        orders = grid.num_angles if rings == grid.num_rings else scorer.coarse.grid.num_angles
        num[half, k, :orders, :rings] += (
            alpha * (weight[:, None, None] * moved).sum(0)[:orders, :rings]
        )
        den[half, k] += alpha**2 * weight.sum() * images.transfer[row]

    turns = local.turns.repeat_interleave(len(local.moves))
    moves = local.moves.repeat(len(local.turns), 1)
    start = posterior.cells.start
    for i in range(len(posterior.weight)):
        psi = start.psi[i] + turns
        shift = start.shift[i] + rotate_vector(moves, -psi)
        weight = posterior.weight[i] * posterior.local[i]
        add(int(start.particle[i]), int(start.classes[i]), psi, shift, weight, grid.num_rings)
    coarse = scorer.coarse
    place = torch.arange(len(coarse.psi) * coarse.num_shifts, device=device)
    psi = coarse.psi[place // coarse.num_shifts]
    shift = scorer.image_shift(place % coarse.num_shifts, psi)
    for k in range(3):
        weights = torch.exp(
            posterior.logs(k, torch.arange(6, device=device)) - posterior.level[:, k]
        )
        for row in range(6):
            mine = (start.particle == row) & (start.classes == k)
            weights[posterior.cells.index[mine], row] = 0.0
            add(row, k, psi, shift, weights[:, row], coarse.grid.num_rings)
    for name, exact in (("num", num), ("den", den)):
        scale = float(exact.abs().max())
        torch.testing.assert_close(getattr(stats, name), exact, atol=0.02 * scale, rtol=0)


@pytest.mark.usefixtures("exact_products")
def test_gathering_is_the_adjoint_of_scoring(device):
    data = synthetic(7, sigma=0.5)
    images, scorer = data.weighted(device), scorer_of(data, device)
    coarse, generator = scorer.coarse, torch.Generator().manual_seed(1)
    parts = scorer.coarse_parts(images)
    reference = coarse.grid.harmonics(coarse.grid.sample(data.averages.to(device)))
    weight = (
        coarse.grid.ring_weights.to(device) * coarse.grid.harmonic_weights().to(device)[:, None]
    )
    for k in range(3):
        scores = coarse.scores(parts, k)
        assert scores.shape == (len(coarse.psi) * coarse.num_shifts, 7)
        weights = torch.rand(scores.shape, generator=generator).to(device)
        summed = coarse.gather(parts, weights)
        product = (weight * (summed.conj() * reference[k]).real).sum()
        assert float(product) == pytest.approx(float((weights * scores).sum()), rel=1e-3)
        best = coarse.best(parts)
        torch.testing.assert_close(scores.amax(0), best.cross[:, k], rtol=1e-4, atol=1e-3)
        row = scores.argmax(0)
        torch.testing.assert_close(row % coarse.num_shifts, best.shift[:, k])
        turned = angle_between(coarse.psi[row // coarse.num_shifts], best.psi[:, k])
        assert float(turned.max()) < 1e-4


def test_gathering_on_the_local_grid_undoes_its_poses(device):
    data = synthetic(5, sigma=0.5)
    grid, local = data.grid, LocalGrid(0.2, 1.5, 2, device)
    aligned = data.weighted(device).image
    for i in range(len(local.share)):
        weights = torch.zeros((5, len(local.share)), device=device)
        weights[:, i] = 1.0
        psi, move = local.turns[i // len(local.moves)], local.moves[i % len(local.moves)]
        exact = adjoint(grid, aligned, psi.expand(5), move.expand(5, 2)).sum(0)
        scale = float(exact.abs().max())
        found = local.gather(grid, local.mixed(aligned, weights))
        torch.testing.assert_close(found, exact, atol=2e-2 * scale, rtol=0)
    assert float(local.share.sum()) == pytest.approx(1.0)


def test_clear_particles_get_what_maximisation_gives_them(device):
    data = synthetic(60, sigma=0.1)
    posterior, images = expected(data, device)
    peak = posterior.peak()
    prior = torch.zeros(3, device=device)
    best = maximise(scorer_of(data, device), images, log_prior=prior, uncertainty=1.0)
    poses, others = peak.best_poses, best.best_poses
    assert torch.equal(poses.particle, torch.arange(60, device=device))
    assert torch.equal(poses.classes, others.classes)
    assert float(angle_between(poses.psi, others.psi).median()) < 1e-3
    assert float(angle_between(poses.psi, others.psi).max()) < 0.06
    assert float((poses.shift - others.shift).norm(dim=1).max()) < 0.3
    torch.testing.assert_close(peak.class_ess, torch.ones(60, device=device), atol=1e-3, rtol=0)
    hard = sums(data, posterior.hard(), images)
    assert float(hard.count.sum()) == pytest.approx(60, rel=1e-4)
    same = sums(data, best.hard(), images)
    scale = float(same.num.abs().max())
    torch.testing.assert_close(hard.num, same.num, atol=0.1 * scale, rtol=0)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_classes_of_the_best_poses_are_nearly_those_of_all(sigma, device):
    data = synthetic(200, sigma=sigma)
    scorer, images = scorer_of(data, device), data.weighted(device)
    prior = torch.zeros(3, device=device)
    exact = Marginalise()(scorer, images, log_prior=prior, uncertainty=1.0).classes
    best = maximise(scorer, images, log_prior=prior, uncertainty=1.0).candidates
    # the best pose of each class alone
    alone = dataclasses.replace(best, evidence=best.loglik)
    away = []
    for found in (best, alone):
        classes, pair = torch.zeros_like(exact), (found.poses.particle, found.poses.classes)
        classes[pair] = Posterior.of(found, uncertainty=1.0).weight
        away.append(float((classes - exact).abs().sum(1).mean()) / 2)
    assert away[0] < 0.5 * away[1]
    assert away[0] < 0.06


def test_noise_alone_raises_no_ghost_of_the_reference(device):
    # particles without signal, aligned to their best pose, reproduce the reference
    data = synthetic(300, sigma=0.3)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(data.images.shape, generator=generator)
    data = dataclasses.replace(data, images=noise, sigma2=1.0)
    scorer = scorer_of(data, device)
    images, prior = data.weighted(device), torch.zeros(3, device=device)
    grid, weight = data.grid, data.grid.ring_weights.to(device)
    reference = scorer.harmonics
    ghost = []
    for step in (maximise, Marginalise()):
        stats = sums(data, step(scorer, images, log_prior=prior, uncertainty=1.0), images)
        average = least_squares(grid, stats.num.sum(0), stats.den.sum(0))
        both = ((average.conj() * reference).real * weight).sum((1, 2))
        one = (reference.abs().square() * weight).sum((1, 2))
        ghost.append(float((both / one).mean()))
    assert ghost[0] > 0.5
    assert abs(ghost[1]) < 0.65 * ghost[0]


def test_effective_numbers_grow_with_the_noise(device):
    numbers = []
    for sigma in (0.2, 3.0):
        found = expected(synthetic(20, sigma=sigma), device)[0].peak()
        row = found.best
        numbers.append(
            [float(v[row].mean()) for v in (found.candidates.pose_ess, found.candidates.shift_ess)]
        )
    assert numbers[1][0] > 10 * numbers[0][0]
    assert numbers[1][1] > 10 * numbers[0][1]


def test_particles_do_not_mix(device):
    data = synthetic(8, sigma=1.0)
    together, images = expected(data, device)
    scorer, prior = scorer_of(data, device), torch.zeros(3, device=device)
    for row in range(8):
        one = type(images)(
            **{f.name: getattr(images, f.name)[row : row + 1] for f in dataclasses.fields(images)}
        )
        alone = Marginalise()(scorer, one, log_prior=prior, uncertainty=1.0)
        torch.testing.assert_close(alone.classes[0], together.classes[row], rtol=1e-3, atol=1e-4)


def test_pictures_and_cells_agree_on_the_frame(device):
    # the average of noise-free particles is the picture they were made from
    data = synthetic(90, sigma=0.02)
    posterior, images = expected(data, device)
    stats = sums(data, posterior, images)
    average = least_squares(data.grid, stats.num.sum(0), stats.den.sum(0))
    truth = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    first, second = (data.grid.from_harmonics(v) for v in (average, truth))
    cross = data.grid.inner(first, second)
    norm = data.grid.inner(first, first) * data.grid.inner(second, second)
    assert float((cross / norm.sqrt()).min()) > 0.96


def test_on_noisy_particles_it_beats_maximisation_against_the_truth(device):
    data = synthetic(500, sigma=2.5, reach=1.0, num_classes=2)
    images, prior, grid = data.weighted(device), torch.zeros(2, device=device), data.grid
    truth = grid.harmonics(grid.sample(data.averages.to(device)))
    low_pass = torch.exp(-((grid.radii / 4.0) ** 2)).to(device)
    solver = WienerSolver(grid, SolventMask(32, 14.0, 15.5, neighbours=False), FrcRegularizer())
    agreement = []
    for step in (maximise, Marginalise()):
        references = grid.synthesize(grid.from_harmonics(truth * low_pass))
        for _ in range(4):
            search = PoseSearch(extent=30.0, box=32, max_shift=1.5)
            scorer = PoseScorer(references, grid, search, rings=grid.num_rings)
            stats = SufficientStats.zeros(grid, 2, 1, device)
            step(scorer, images, log_prior=prior, uncertainty=1.0).add_to(stats, grid, images)
            references = solver(stats).averages
        frc = ring_correlation(grid, grid.harmonics(grid.sample(references)), truth)
        agreement.append(frc[:, 2:7].mean(0))
    assert float(agreement[1].mean()) > float(agreement[0].mean()) + 0.08
    assert bool((agreement[1] > agreement[0] - 0.02).all())
