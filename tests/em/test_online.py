import dataclasses

import pytest
import torch
from synthetic import NoMask, Synthetic, search_of, synthetic

from cryo2d.em.clamp import ClampedSolver
from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.population import Reseed
from cryo2d.em.posterior import Posterior
from cryo2d.em.prior import CountRegularizer, FrcRegularizer
from cryo2d.em.score import PoseScorer
from cryo2d.em.solve import Recenter, WienerSolver
from cryo2d.em.stats import SufficientStats, accumulate, add_residual
from cryo2d.physics.preprocess import WeightedImages
from cryo2d.physics.solvent import SolventMask
from cryo2d.training.threads import Threads


class Ones:
    """No prior: plain least squares."""

    def __call__(
        self, frc: torch.Tensor, den: torch.Tensor, particle: torch.Tensor
    ) -> torch.Tensor:
        return torch.ones_like(frc)


def optimizer_of(data: Synthetic, device: torch.device, **settings) -> OnlineEM:
    model = ClassModel(data.averages, data.noise(torch.device("cpu"))).to(device)
    solver = WienerSolver(data.grid, NoMask(data.grid.box, 1.0, 2.0), Ones())
    return OnlineEM(model, **({"solver": solver, "noise": NoiseModel()} | settings))


def part(images: WeightedImages, rows: slice) -> WeightedImages:
    names = [f.name for f in dataclasses.fields(images)]
    return WeightedImages(**{name: getattr(images, name)[rows] for name in names})


def at_truth(data: Synthetic, device: torch.device, rows: slice) -> SufficientStats:
    """Sums of some particles at their true poses."""
    images, poses = part(data.weighted(device), rows), data.poses(device)[rows]
    stats = SufficientStats.zeros(data.grid, len(data.averages), 1, device)
    poses = dataclasses.replace(poses, particle=torch.arange(len(images), device=device))
    accumulate(stats, data.grid, images, poses, torch.ones_like(poses.psi))
    harmonics = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    add_residual(stats, data.grid, images, poses, harmonics)
    return stats


def assert_same(one: SufficientStats, other: SufficientStats) -> None:
    for name, value in one.as_dict().items():
        scale = float(value.abs().max()) + 1e-20
        torch.testing.assert_close(other.as_dict()[name], value, atol=1e-4 * scale, rtol=0)


def test_a_whole_step_on_all_data_is_batch_em(device):
    data = synthetic(24)
    every = at_truth(data, device, slice(None))
    once = optimizer_of(data, device)
    once.step(stats=every, iteration=0)
    for how in ("gamma", "whole"):
        again = optimizer_of(data, device)
        again.step(stats=at_truth(data, device, slice(0, 9)), iteration=0)
        again.param_groups[0]["lr"] = 1.0 if how == "gamma" else 0.2
        again.step(stats=every, iteration=1, whole=how == "whole")
        torch.testing.assert_close(again.model.references, once.model.references)
        torch.testing.assert_close(again.model.noise, once.model.noise)
        torch.testing.assert_close(again.model.weights, once.model.weights)


def test_sums_are_blended_as_means_over_particles(device):
    data = synthetic(30)
    first, second = at_truth(data, device, slice(0, 24)), at_truth(data, device, slice(24, 30))
    optimizer = optimizer_of(data, device)
    optimizer.step(stats=first, iteration=0)
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step(stats=second, iteration=1)
    # 24 particles and 6: a fifth of the mean is the sum of all, up to the scale
    assert_same((first + second).scaled(6 / 30), optimizer.stats)
    assert float(optimizer.stats.count.sum()) == pytest.approx(6, rel=1e-4)


def test_a_class_that_a_small_batch_misses_is_not_dead(device):
    data = synthetic(30)

    def sums(scale: float, *, third: bool) -> SufficientStats:
        stats = at_truth(data, device, slice(0, 30)).scaled(scale)
        if not third:
            for tensor in (stats.num, stats.den, stats.count):
                tensor[:, 2] = 0.0
        return stats

    # of 3 and of 300 particles
    for scale, gone in ((0.1, False), (10.0, True)):
        optimizer = optimizer_of(data, device, reseed=Reseed(total=4, at=(0.25,)))
        optimizer.step(stats=sums(1.0, third=True), iteration=0)
        optimizer.param_groups[0]["lr"] = 0.3
        optimizer.step(stats=sums(scale, third=False), iteration=1)
        assert (2 in optimizer.begun.tolist()) == gone


@pytest.mark.parametrize("regularizer", [FrcRegularizer(), CountRegularizer()])
@pytest.mark.parametrize("kind", [WienerSolver, ClampedSolver])
def test_classes_are_solved_for_alone_or_together(kind, regularizer, device, monkeypatch):
    monkeypatch.setattr("cryo2d.em.online._TOGETHER", 1)
    data = synthetic(60)
    solver = kind(data.grid, SolventMask(32, 9.0, 12.0), regularizer)
    found = []
    for workers in (None, Threads(2), Threads(7)):
        optimizer = optimizer_of(data, device, solver=solver, recenter=Recenter())
        every = at_truth(data, device, slice(None))
        shift = torch.tensor([[2.0, -1.0]], device=device).expand(3, 2)
        every = every.moved(data.grid, shift)
        found.append(optimizer.step(stats=every, iteration=0, apart=True, workers=workers))
    for other in found[1:]:
        for name in ("averages", "frc", "halves"):
            one = getattr(found[0], name)
            near = 1e-4 * float(one.abs().max())
            torch.testing.assert_close(getattr(other, name), one, atol=near, rtol=0)


def test_a_step_size_of_zero_changes_nothing(device):
    data = synthetic(24)
    optimizer = optimizer_of(data, device)
    optimizer.step(stats=at_truth(data, device, slice(0, 12)), iteration=0)
    before = optimizer.model.references.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(stats=at_truth(data, device, slice(12, 24)), iteration=1)
    torch.testing.assert_close(optimizer.model.references.detach(), before)


def test_state_survives_saving_and_loading(device, tmp_path):
    data = synthetic(24)
    one = optimizer_of(data, device)
    one.step(stats=at_truth(data, device, slice(0, 12)), iteration=0)
    torch.save({"optimizer": one.state_dict(), "model": one.model.state_dict()}, tmp_path / "state")
    saved = torch.load(tmp_path / "state", weights_only=True)
    other = optimizer_of(data, device)
    other.load_state_dict(saved["optimizer"])
    other.model.load_state_dict(saved["model"])
    for optimizer in (one, other):
        optimizer.param_groups[0]["lr"] = 0.3
        optimizer.step(stats=at_truth(data, device, slice(12, 24)), iteration=1)
    assert torch.equal(one.model.references, other.model.references)
    for name, value in one.stats.as_dict().items():
        assert torch.equal(value, other.stats.as_dict()[name])


def test_the_model_says_what_the_sums_say(device):
    data = synthetic(24)
    optimizer = optimizer_of(data, device)
    solution = optimizer.step(stats=at_truth(data, device, slice(None)), iteration=0)
    model = optimizer.model
    torch.testing.assert_close(model.references.detach(), solution.averages)
    torch.testing.assert_close(model.frc, solution.frc)
    torch.testing.assert_close(model.weights, torch.full((3,), 1 / 3, device=device))


def test_an_average_off_centre_comes_home_with_its_sums(device):
    # solving again from the moved sums gives the moved average
    data = synthetic(120, sigma=0.1, reach=1.0)
    recenter = Recenter(threshold=0.3)
    optimizer = optimizer_of(data, device, recenter=recenter)
    off = torch.tensor([[3.0, 0.0], [0.0, -2.0], [1.0, 2.0]], device=device)
    stats = at_truth(data, device, slice(None)).moved(data.grid, off)
    first = recenter.shift(optimizer.solver(stats).averages)
    found = optimizer.step(stats=stats, iteration=0).averages
    torch.testing.assert_close(optimizer.stats.num, stats.moved(data.grid, first).num)
    solved = optimizer.solver(optimizer.stats).averages
    inner = slice(6, -6)
    error = (found - solved)[:, inner, inner].square().mean().sqrt()
    assert float(error) < 0.05 * float(solved[:, inner, inner].square().mean().sqrt())
    still = optimizer_of(data, device, recenter=recenter)
    kept = still.step(stats=stats, iteration=0, whole=True).averages
    torch.testing.assert_close(kept, optimizer.solver(stats).averages)


def test_a_clamped_average_stays_flat_when_it_is_centred(device):
    data = synthetic(60, sigma=0.3, reach=1.0)
    solver = ClampedSolver(data.grid, SolventMask(32, 9.0, 12.0), FrcRegularizer())
    optimizer = optimizer_of(data, device, solver=solver, recenter=Recenter(threshold=0.3))
    stats = at_truth(data, device, slice(None))
    assert float(optimizer.recenter.shift(solver(stats).averages).norm(dim=1).min()) > 0.1
    found = optimizer.step(stats=stats, iteration=0).averages
    outside = ~solver.support(solver.filtered(optimizer.stats)).bool()
    assert int(outside.sum()) > 1000
    assert float(found[outside].abs().max()) == 0.0
    assert float(found.abs().max()) > 0.1


@pytest.mark.parametrize("white", [False, True])
def test_noise_is_recovered(white, device):
    data = synthetic(240, sigma=0.6)
    optimizer = optimizer_of(data, device, noise=NoiseModel(white=white))
    optimizer.step(stats=at_truth(data, device, slice(None)), iteration=0)
    noise = optimizer.model.noise[0].cpu()
    assert float(noise.mean()) == pytest.approx(data.sigma2, rel=0.03)
    assert float((noise / data.sigma2 - 1).abs().max()) < (0.03 if white else 0.12)
    if white:
        torch.testing.assert_close(noise, noise[:1].expand(12))


def test_groups_without_particles_keep_their_noise(device):
    grid = synthetic(3).grid
    stats = SufficientStats.zeros(grid, 2, 3, device)
    stats.power[1], stats.particles[1] = 8.0, 4.0
    before = torch.full((3, 12), 7.0, device=device)
    found = NoiseModel()(stats, grid.ring_weights.to(device), before)
    assert found[:, 0].tolist() == [7.0, 2.0, 7.0]


def test_noise_has_a_floor(device):
    grid = synthetic(3).grid
    stats = SufficientStats.zeros(grid, 2, 1, device)
    stats.power[0, :6], stats.particles[0] = 1.0, 1.0
    found = NoiseModel(floor=0.1)(stats, grid.ring_weights.to(device), stats.power)
    torch.testing.assert_close(found[0, 6:], torch.full((6,), 0.05, device=device))


@pytest.mark.usefixtures("exact_products")
def test_log_likelihood_does_not_fall(device):
    # batch EM, no prior, no mask, fixed noise, poses maximised: every iteration is an improvement
    data = synthetic(60, sigma=0.8, reach=1.5, seed=3)
    images = data.weighted(device)
    generator = torch.Generator().manual_seed(0)
    optimizer = optimizer_of(data, device)
    start = data.averages.mean(0) + 0.15 * torch.randn((3, 32, 32), generator=generator)
    optimizer.model.references.data = start.to(device)
    search = search_of(32, margin=1e9)
    history = []
    for iteration in range(6):
        scorer = PoseScorer(optimizer.model.references.detach(), data.grid, search, rings=12)
        found = scorer.candidates(images, log_prior=torch.zeros(3, device=device), uncertainty=1.0)
        table = torch.full((60, 3), -torch.inf, device=device)
        table[found.poses.particle, found.poses.classes] = found.loglik
        history.append(float(table.logsumexp(1).sum()))
        stats = SufficientStats.zeros(data.grid, 3, 1, device)
        posterior = Posterior.of(found, uncertainty=1.0)
        posterior.add_to(stats, data.grid, images, least=0.0)
        stats.power[:] = data.sigma2
        stats.particles[:] = 1.0
        optimizer.step(stats=stats, iteration=iteration)
    gains = [after - before for before, after in zip(history, history[1:], strict=False)]
    assert gains[0] > 0
    assert min(gains) > -0.01 * abs(history[-1] - history[0])
