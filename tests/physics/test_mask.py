import numpy as np
import pytest
import torch

from cryo2d.physics.mask import circular_mask, radius_grid


@pytest.mark.parametrize("box", [32, 33])
def test_distance_from_the_centre(box):
    found = radius_grid(box)
    for row, column in [(0, 0), (box // 2, box // 2), (3, 20), (box - 1, 5)]:
        expected = np.hypot(row - box // 2, column - box // 2)
        assert float(found[row, column]) == pytest.approx(expected)


@pytest.mark.parametrize("box", [32, 33])
def test_one_inside_zero_outside_falling_between(box):
    mask, radius = circular_mask(box, 8.0, 12.0), radius_grid(box)
    assert bool((mask[radius <= 8.0] == 1).all())
    assert float(mask[radius >= 12.0].abs().max()) == pytest.approx(0, abs=1e-6)
    order = radius.flatten().argsort()
    assert bool((mask.flatten()[order].diff() <= 1e-6).all())
    # the raised cosine is at half height in the middle
    assert float(circular_mask(33, 4.0, 8.0)[16, 16 + 6]) == pytest.approx(0.5, abs=1e-6)


def test_a_hard_edge_is_a_disc():
    mask = circular_mask(33, 8.5, 8.5)
    torch.testing.assert_close(mask, (radius_grid(33) <= 8.5).float())


def test_symmetric_about_the_centre():
    mask = circular_mask(33, 9.0, 14.0)
    for other in (mask.flip(0), mask.flip(1), mask.T):
        torch.testing.assert_close(mask, other)
    even = circular_mask(32, 9.0, 14.0)[1:, 1:]  # the centre of an even box is pixel 16
    torch.testing.assert_close(even, even.flip(0, 1))
