import math

import pytest
import torch

from cryo2d.em.search import PoseSearch, shift_disc
from cryo2d.geometry.polar import PolarGrid


@pytest.mark.parametrize(("radius", "step"), [(5.0, 1.0), (3.0, 1.4), (0.5, 1.0), (0.0, 2.0)])
def test_shifts_fill_the_disc(radius, step):
    points = shift_disc(radius, step)
    torch.testing.assert_close(points[0], torch.zeros(2))
    assert float(points.norm(dim=1).max()) <= radius + 1e-4
    apart = torch.cdist(points, points) + 1e3 * torch.eye(len(points))
    assert float(apart.min()) >= step - 1e-4
    # no place in the disc is further from a shift than the hexagonal lattice's covering radius
    generator = torch.Generator().manual_seed(0)
    places = (2 * torch.rand((500, 2), generator=generator) - 1) * radius
    places = places[places.norm(dim=1) <= max(radius - step, 0)]
    if len(places):
        assert float(torch.cdist(places, points).min(1).values.max()) <= step / math.sqrt(3) + 1e-4


def test_shifts_are_symmetric_and_ordered():
    points = shift_disc(4.0, 1.1)
    assert float(torch.cdist(-points, points).min(1).values.max()) < 1e-4
    assert bool((points.norm(dim=1).diff() >= -1e-4).all())


@pytest.mark.parametrize("extent", [20.0, 40.0, 64.0])
def test_steps_follow_from_extent_and_resolution(extent):
    search = PoseSearch(extent=extent, box=64, max_shift=6.0)
    for rings in (3, 6, 12, 30):
        wavelength = 64 / rings
        count = search.num_rotations(rings)
        assert count % 4 == 0
        rim = 0.5 * extent * 2 * math.pi / count
        # neighbouring rotations move the rim by half a wavelength at most
        assert rim <= 0.5 * wavelength + 1e-6
        assert search.shift_step(rings) <= max(1.0, 0.34 * wavelength)
        assert float(search.shifts(rings).norm(dim=1).max()) <= 6.0 + 1e-4


def test_coarse_rings_stay_inside_the_box_and_the_band():
    for extent in (8.0, 32.0, 64.0):
        search = PoseSearch(extent=extent, box=64, max_shift=6.0)
        assert 3 <= search.coarse_rings <= 32
        assert search.rings(5) == min(5, search.coarse_rings)
        PolarGrid(64, search.coarse_rings)


def test_classes_without_a_weight_are_not_searched_again():
    search = PoseSearch(extent=40.0, box=64, max_shift=6.0)
    for temperature in (1.0, 2.25, 16.0):
        # a class that gains the whole margin in the second search, and the best class nothing
        behind = search.behind(temperature) - search.margin
        assert 0.01 < math.exp(-behind / temperature) < 0.02
