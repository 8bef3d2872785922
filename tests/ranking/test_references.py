import numpy as np
import pytest
import torch

from cryo2d.errors import InputError
from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.averages import ClassAverages
from cryo2d.io.mrc import write_stack
from cryo2d.physics.solvent import gaussian
from cryo2d.ranking.references import Volume, compared, quasi_uniform_axes
from cryo2d.simulate.fold import random_rotations
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.phantom import Phantom, project

BOX, PIXEL = 32, 7.0


def density(phantom: Phantom) -> np.ndarray:
    """The phantom as a volume ``[z y x]``, sampled at the voxels' centres."""
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    sigma = np.hypot(phantom.sigma, 0.3 * PIXEL)  # the width of a pixel
    wave = [
        np.exp(-((axis[:, None] - phantom.positions[:, i]) ** 2) / (2 * sigma**2))
        / (sigma * np.sqrt(2 * np.pi))
        for i in range(3)
    ]
    return np.einsum("xa,ya,za,a->zyx", *wave, phantom.weight).astype(np.float32)


@pytest.fixture(scope="module")
def solenoid() -> Phantom:
    return molecules(["solenoid"])[0]


def test_a_slice_is_the_projection(solenoid):
    grid = PolarGrid(BOX, 10)
    turns = torch.from_numpy(random_rotations(np.random.default_rng(0), 4))
    images = project(solenoid, turns, None, BOX, PIXEL)
    volume = Volume(torch.from_numpy(density(solenoid)), PIXEL)
    # the x and y axes of an image in the frame of the molecule
    rings = volume.slices(turns[:, :2].float(), grid, PIXEL)
    direct = grid.sample(images)
    cross = (
        grid.inner(rings, direct) / (grid.inner(rings, rings) * grid.inner(direct, direct)).sqrt()
    )
    assert (cross > 0.99).all()


def test_directions_are_even():
    axes = quasi_uniform_axes(200)
    directions = torch.linalg.cross(axes[:, 0], axes[:, 1])
    np.testing.assert_allclose((axes @ axes.mT).numpy(), np.eye(2)[None].repeat(200, 0), atol=1e-5)
    both = torch.cat([directions, -directions])
    nearest = (directions @ both.T - 2 * torch.eye(200, 400)).amax(1)
    assert nearest.min() > np.cos(np.radians(13))
    assert np.allclose(both.T @ both / 400, np.eye(3) / 3, atol=0.01)


def test_averages_are_found_among_the_projections(solenoid, tmp_path):
    write_stack(tmp_path / "map.mrc", density(solenoid), PIXEL)
    turns = torch.from_numpy(random_rotations(np.random.default_rng(3), 2))
    shift = torch.tensor([[1.0, -1.5], [0.0, 0.5]])
    views = project(solenoid, turns, shift, BOX, PIXEL)
    noise = gaussian(torch.randn(1, BOX, BOX, generator=torch.Generator().manual_seed(0)), 1.5)
    other = project(molecules(["shell"])[0], turns[:1], None, BOX, PIXEL)
    images = torch.cat([views, gaussian(views, 2.0), noise, other]).numpy()
    found = compared(ClassAverages(images, PIXEL, {}), tmp_path / "map.mrc")
    correlation, sharp = found["reference_correlation"], found["reference_sharpness"]
    assert (correlation[:2] > 0.9).all()
    assert (correlation[4:] < correlation[:2].min() - 0.15).all()
    assert (sharp[:2] > 0.7).all()
    assert (sharp[2:4] < 0.6 * sharp[:2]).all()
    assert (found["reference_resolution"][2:4] > 0).all()


@pytest.mark.parametrize(
    ("shape", "pixel_size", "found"), [((4, 8, 8), 2.0, "8 x 8 x 4"), ((8, 8, 8), 0.0, "pixel")]
)
def test_something_else_is_no_volume(tmp_path, shape, pixel_size, found):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_stack(tmp_path / "map.mrc", values, pixel_size)
    with pytest.raises(InputError, match=found):
        Volume.read(tmp_path / "map.mrc")
