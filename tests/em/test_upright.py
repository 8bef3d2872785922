import math

import numpy as np
import pytest
import torch

from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.prior import CountRegularizer
from cryo2d.em.solve import WienerSolver, images_of, least_squares
from cryo2d.em.stats import SufficientStats
from cryo2d.em.upright import Upright
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.solvent import SolventMask
from cryo2d.simulate.filaments import HELICES, lying_rotations
from cryo2d.simulate.phantom import project

COUNT = 24


def tubes(helix, box: int, pixel_size: float, *, inner: float, noise: float):
    """Averages of tubes at any angle inside a soft mask ``[k y x]``, and the angles."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    turns = torch.from_numpy(lying_rotations(rng, COUNT)).float()
    shift = torch.from_numpy(rng.normal(0, 1.5, (COUNT, 2))).float()
    images = project(helix.phantom(1.6 * box * pixel_size), turns, shift, box, pixel_size)
    images = images / images.amax((1, 2), keepdim=True)
    images += noise * torch.randn(images.shape, generator=generator)
    axis = torch.arange(box) - box // 2
    radius = torch.hypot(axis[:, None].float(), axis.float()) / (box / 2)
    images *= ((inner + 0.12 - radius) / 0.12).clamp(0, 1)
    return images, torch.atan2(turns[:, 1, 2], turns[:, 0, 2])


def off_axis(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Angle between two axes (degree)."""
    difference = torch.rad2deg(first - second) % 180
    return torch.minimum(difference, 180 - difference)


@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("inner", [0.85, 0.6])
@pytest.mark.parametrize("helix", HELICES, ids=lambda helix: helix.name)
def test_the_axis_of_any_tube_is_found(helix, inner, noise):
    """The box is 288 A wide: the thickest tube, 250 A, fills the masks from rim to rim."""
    images, angles = tubes(helix, 64, 4.5, inner=inner, noise=noise)
    found = off_axis(Upright(PolarGrid(64, 28), 0).axes(images), angles)
    assert found.max() < (2.0 if noise else 0.9)
    assert found.square().mean().sqrt() < (0.9 if noise else 0.4)


def test_a_short_piece_of_a_tube():
    """Both ends inside the mask."""
    rng = np.random.default_rng(1)
    turns = torch.from_numpy(lying_rotations(rng, COUNT)).float()
    images = project(HELICES[3].phantom(200.0), turns, None, 64, 4.5)
    angles = torch.atan2(turns[:, 1, 2], turns[:, 0, 2])
    assert off_axis(Upright(PolarGrid(64, 28), 0).axes(images), angles).max() < 2.0


def test_turned_statistics_give_turned_averages():
    grid = PolarGrid(48, 22)
    images, angles = tubes(HELICES[3], 48, 6.0, inner=0.85, noise=0.0)
    stats = SufficientStats.zeros(grid, COUNT, 1)
    stats.num[:] = grid.harmonics(grid.sample(images))
    stats.den[:] = 1.0
    upright = Upright(grid, 0)
    turns = upright.turns(images)
    assert turns.abs().max() <= math.pi / 2 + 1e-6
    turned = stats.turned(turns)
    averages = images_of(grid, least_squares(grid, turned.num[0], turned.den[0]))
    assert off_axis(upright.axes(averages), torch.tensor(math.pi / 2)).max() < 0.2
    # y = R(psi) x: what a particle's psi would have to grow by
    assert off_axis(angles + turns, torch.tensor(math.pi / 2)).max() < 1.0
    back = turned.turned(-turns)
    torch.testing.assert_close(back.num, stats.num)
    for name in ("den", "count", "power", "particles"):
        assert getattr(turned, name) is getattr(stats, name)


def test_blank_averages_stay():
    turns = Upright(PolarGrid(32, 12), 0).turns(torch.zeros(2, 32, 32))
    assert turns.tolist() == [0.0, 0.0]


def optimizer(grid: PolarGrid, iteration: int | None) -> OnlineEM:
    solvent = SolventMask(grid.box, 0.4 * grid.box, 0.48 * grid.box, neighbours=False)
    return OnlineEM(
        ClassModel(torch.zeros(COUNT, grid.box, grid.box), torch.ones(1, grid.num_rings)),
        solver=WienerSolver(grid, solvent, CountRegularizer()),
        noise=NoiseModel(),
        upright=None if iteration is None else Upright(grid, iteration),
    )


@pytest.mark.parametrize("whole", [False, True])
def test_the_averages_are_turned_once_at_their_iteration(whole):
    grid = PolarGrid(48, 22)
    images, angles = tubes(HELICES[3], 48, 6.0, inner=0.85, noise=0.0)
    stats = SufficientStats.zeros(grid, COUNT, 1)
    stats.num[:] = 50 * grid.harmonics(grid.sample(images))
    stats.den[:] = 50.0
    stats.count[:] = 50.0
    plain, turning = optimizer(grid, None), optimizer(grid, 1)
    for iteration in range(2):
        for one in (plain, turning):
            one.step(stats=stats, iteration=iteration, whole=whole and iteration == 1)
        same = torch.equal(plain.model.references, turning.model.references)
        assert same is (iteration == 0)
    measure = Upright(grid, 0)
    assert off_axis(measure.axes(plain.model.references.detach()), angles).max() < 1.0
    assert (
        off_axis(measure.axes(turning.model.references.detach()), torch.tensor(math.pi / 2)).max()
        < 0.5
    )
    # the next iteration starts from sums that are turned too
    solved = turning.solver(turning.stats).averages
    torch.testing.assert_close(solved, turning.model.references.detach())
