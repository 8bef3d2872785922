import dataclasses

import numpy as np
import pytest
import torch
from benchmarks.clamp import (
    comparison,
    convergence,
    grid_of,
    mask_of,
    projections,
    statistics,
)
from reference import picture
from scipy.optimize import nnls

from cryo2d.em.clamp import ClampedSolver, Misfit, conjugate_gradients, non_negative
from cryo2d.em.prior import CountRegularizer, FrcRegularizer
from cryo2d.em.solve import WienerSolver
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.mask import radius_grid
from cryo2d.physics.solvent import SolventMask

BOX, CLASSES = 48, 8
GRID, SOLVENT = grid_of(BOX), mask_of(BOX)
CLAMPED = ClampedSolver(GRID, SOLVENT, FrcRegularizer())
POSITIVE = dataclasses.replace(CLAMPED, positive=True)
OUTSIDE = radius_grid(BOX) >= SOLVENT.outer


@pytest.fixture(scope="module")
def truth():
    return projections(CLASSES, BOX)


@pytest.fixture(scope="module", params=[60.0, 3000.0], ids=["noisy", "clear"])
def stats(request, truth):
    return statistics(truth, GRID, request.param)


def to(stats, device):
    return type(stats)(**{name: value.to(device) for name, value in stats.as_dict().items()})


def small(box, grid, seed=0):
    """A noisy target, sums and Wiener weights that vary as steeply as those of real data."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.arange(1.0, grid.num_rings + 1)
    den = (0.003 + torch.sin(0.9 * ring + torch.arange(3.0)[:, None]) ** 2) / (1 + 9 / ring**2)
    wiener = (1.1 - ring / grid.num_rings).clamp(min=0).expand(3, -1)
    images = np.stack([picture(box, k) for k in range(3)])
    target = torch.from_numpy(images).float()
    target = target + 0.3 * torch.randn(target.shape, generator=generator)
    return target, 100.0 * den, wiener


def hessian(box, den, wiener):
    """The matrix of J over pixels, from the definition of the discrete Fourier transform."""
    k = np.fft.fftfreq(box, 1.0 / box)
    ky, kx = (grid.ravel() for grid in np.meshgrid(k, k, indexing="ij"))
    y, x = (grid.ravel() for grid in np.indices((box, box)))
    wave = np.exp(-2j * np.pi * (np.outer(ky, y) + np.outer(kx, x)) / box) / box
    weight = np.maximum(den / den.max(), 1e-3) / np.maximum(wiener, 0.1)
    weight = np.append(weight / weight.max(), 1.0)
    at = np.interp(np.hypot(ky, kx), np.arange(1, len(weight) + 1), weight)
    at[0] = 0.0
    return ((wave.conj().T * at) @ wave).real


def generic(box, target, den, wiener, support, positive):
    """The minimum by dense linear algebra in double precision."""
    inside = support.numpy().astype(bool).ravel()
    images = np.zeros((len(target), box * box))
    for k in range(len(target)):
        matrix = hessian(box, den[k].double().numpy(), wiener[k].double().numpy())
        pull = (matrix @ target[k].double().numpy().ravel())[inside]
        matrix = matrix[np.ix_(inside, inside)]
        if positive:
            root = np.linalg.cholesky(matrix)
            images[k, inside] = nnls(root.T, np.linalg.solve(root, pull), maxiter=5000)[0]
        else:
            images[k, inside] = np.linalg.solve(matrix, pull)
    return images.reshape(-1, box, box)


@pytest.mark.parametrize("box", [20, 21])
@pytest.mark.parametrize("positive", [False, True])
def test_agrees_with_a_generic_solver(box, positive, device):
    grid = PolarGrid(box, 8)
    target, den, wiener = small(box, grid)
    support = (radius_grid(box) < 0.4 * box).float()
    expected = generic(box, target, den, wiener, support, positive)
    misfit = Misfit.of_rings(grid, *(x.to(device) for x in (target, den, wiener)))
    free = support.to(device).expand_as(misfit.target)
    found = conjugate_gradients(misfit, free, torch.zeros_like(misfit.target), CLAMPED.steps)
    if positive:
        found = non_negative(misfit, free, found, CLAMPED.rounds)
        assert 0.05 < (expected == 0)[:, support.numpy() > 0].mean() < 0.95
    error = np.linalg.norm(found.cpu().numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-4


def test_misfit_is_the_weighted_distance_in_fourier_space(device):
    box, grid = 20, PolarGrid(20, 8)
    target, den, wiener = small(box, grid)
    misfit = Misfit.of_rings(grid, *(x.to(device) for x in (target, den, wiener)))
    images = torch.zeros_like(misfit.target)
    for k, value in enumerate(misfit(images).tolist()):
        pixels = target[k].double().numpy().ravel()
        matrix = hessian(box, den[k].double().numpy(), wiener[k].double().numpy())
        assert value == pytest.approx(pixels @ matrix @ pixels, rel=1e-4)


def test_the_solvent_level_is_free(device):
    # adding a constant to an image costs nothing: the level outside need not be sought
    grid = PolarGrid(20, 8)
    misfit = Misfit.of_rings(grid, *(x.to(device) for x in small(20, grid)))
    images = torch.zeros_like(misfit.target)
    torch.testing.assert_close(misfit(images + 3.0), misfit(images), rtol=1e-4, atol=0)


def test_without_solvent_it_is_the_wiener_average_at_once(stats, device):
    stats = to(stats, device)
    misfit = CLAMPED.misfit(CLAMPED.filtered(stats), stats.den.sum(0))
    everywhere = torch.ones_like(misfit.target)
    found = conjugate_gradients(misfit, everywhere, torch.zeros_like(everywhere), 1)
    expected = misfit.target - misfit.target.mean((1, 2), keepdim=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("solver", [CLAMPED, POSITIVE], ids=["clamped", "positive"])
def test_the_solvent_is_exactly_flat(solver, stats, device):
    averages = solver(to(stats, device)).averages.cpu()
    assert float(averages[:, OUTSIDE].abs().max()) == 0.0
    assert float(averages[:, ~OUTSIDE].std(1).min()) > 0.1
    if solver.positive:
        assert float(averages.min()) == 0.0


def test_the_background_is_flatter_than_that_of_the_ordinary_average(stats, truth):
    standard = comparison(CLAMPED, stats, truth)
    ordinary = standard.unmasked[:, OUTSIDE].std(1)
    assert float(ordinary.min()) > 0.01
    for solver in (CLAMPED, POSITIVE):
        assert bool((solver(stats).averages[:, OUTSIDE].std(1) < ordinary / 20.0).all())


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("regularizer", [FrcRegularizer(), CountRegularizer()])
def test_the_misfit_is_below_that_of_masked_averages(neighbours, regularizer, stats):
    solvent = dataclasses.replace(SOLVENT, neighbours=neighbours)
    solver = ClampedSolver(GRID, solvent, regularizer)
    ordinary = WienerSolver(GRID, solvent, regularizer)(stats)
    clamped, positive = solver(stats), dataclasses.replace(solver, positive=True)(stats)
    torch.testing.assert_close(clamped.frc, ordinary.frc)
    misfit = solver.misfit(solver.filtered(stats), stats.den.sum(0))
    assert bool((misfit(clamped.averages) < misfit(ordinary.averages)).all())
    assert bool((misfit(clamped.averages) <= misfit(positive.averages)).all())
    cut = ordinary.averages.clamp(min=0.0)
    assert bool((misfit(positive.averages) < misfit(cut)).all())


@pytest.mark.parametrize("solver", [CLAMPED, POSITIVE], ids=["clamped", "positive"])
def test_the_optimality_conditions_hold(solver, stats, device):
    stats = to(stats, device)
    solution = solver(stats)
    raw = solver.filtered(stats)
    misfit, support = solver.misfit(raw, stats.den.sum(0)), solver.support(raw)
    assert float(convergence(misfit, support, solution.averages).max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("positive", [False, True])
def test_200_classes_of_box_128_converge_in_the_usual_steps(positive):
    grid, solvent = grid_of(128), mask_of(128)
    stats = statistics(projections(200, 128), grid, 300.0)
    solver = ClampedSolver(grid, solvent, FrcRegularizer(), positive=positive)
    solution = solver(stats)
    raw = solver.filtered(stats)
    misfit, support = solver.misfit(raw, stats.den.sum(0)), solver.support(raw)
    assert float(convergence(misfit, support, solution.averages).max()) < 1e-4


def test_nothing_is_lost_inside(stats, truth):
    standard = comparison(CLAMPED, stats, truth)
    level = standard.level[:, None, None]
    ordinary = standard.correlation(standard.unmasked - level)
    for solver in (CLAMPED, POSITIVE):
        clamped = standard.correlation(solver(stats).averages)
        assert float(clamped.mean()) >= float(ordinary.mean())
        assert float((clamped - ordinary).min()) > -0.01


def test_a_flat_solvent_restores_what_the_contrast_transfer_lost(truth):
    # the lowest frequencies, which a defocused microscope hardly sees
    stats = statistics(truth, GRID, 3000.0)
    standard = comparison(CLAMPED, stats, truth)
    masked = WienerSolver(GRID, SOLVENT, FrcRegularizer())(stats).averages
    clamped = CLAMPED(stats).averages
    assert float((standard.error(clamped) / standard.error(masked)).mean()) < 0.95


def test_non_negativity_is_never_worse_than_cutting(device):
    grid = PolarGrid(20, 8)
    target, *rings = (x.to(device) for x in small(20, grid))
    support = (radius_grid(20) < 8).float().to(device).expand_as(target)
    misfit = Misfit.of_rings(grid, target, *rings)
    start = support * target
    cut = misfit(start.clamp(min=0.0))
    for rounds in range(6):
        assert bool((misfit(non_negative(misfit, support, start, rounds)) <= cut).all())


@pytest.mark.parametrize("solver", [CLAMPED, POSITIVE], ids=["clamped", "positive"])
def test_contrast_and_number_of_particles_scale_as_they_should(solver, stats):
    usual = solver(stats).averages
    tolerance = 1e-3 * float(usual.abs().max())
    brighter = dataclasses.replace(stats, num=3.0 * stats.num)
    torch.testing.assert_close(solver(brighter).averages, 3.0 * usual, rtol=0, atol=3 * tolerance)
    more = solver(stats.scaled(1000.0)).averages
    torch.testing.assert_close(more, usual, rtol=0, atol=tolerance)


@pytest.mark.parametrize("solver", [CLAMPED, POSITIVE], ids=["clamped", "positive"])
def test_a_class_without_particles_is_blank_and_disturbs_no_other(solver, stats):
    gone = stats.scaled(1.0)
    for sums in (gone.num, gone.den, gone.count):
        sums[:, 3] = 0.0
    averages, others = solver(gone).averages, [k for k in range(CLASSES) if k != 3]
    assert float(averages[3].abs().max()) == 0.0
    torch.testing.assert_close(averages[others], solver(stats).averages[others])


def test_more_steps_change_nothing_once_converged(stats):
    longer = dataclasses.replace(CLAMPED, steps=4 * CLAMPED.steps)(stats).averages
    atol = 1e-4 * float(longer.abs().max())
    torch.testing.assert_close(CLAMPED(stats).averages, longer, rtol=0, atol=atol)


def test_neighbours_are_solvent(device):
    y, x = np.indices((BOX, BOX)) - BOX // 2
    particle = np.exp(-(x**2 + y**2) / (2 * 4.0**2))
    stranger = np.exp(-((x - 18) ** 2 + y**2) / (2 * 2.5**2))
    images = torch.from_numpy(np.stack([particle, particle + stranger])).float()
    stats = to(statistics(images / images.std(), GRID, 3000.0), device)
    solver = ClampedSolver(GRID, SolventMask(BOX, 20.0, 22.0), FrcRegularizer())
    alone, beside = solver(stats).averages.cpu()
    there = torch.from_numpy(stranger > 0.5)
    assert float(beside[there].abs().max()) == 0.0
    assert float(alone[there].abs().max()) > 0.0
    assert float(beside[BOX // 2, BOX // 2]) > 0.8 * float(alone[BOX // 2, BOX // 2])
