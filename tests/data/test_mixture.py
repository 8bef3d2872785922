"""Two populations are found again."""

import numpy as np
import pytest

from cryo2d.data.mixture import fit_mixture


def test_two_populations_are_found(rng):
    values = np.concatenate([rng.normal(0, 1, 6000), rng.normal(6, 0.5, 3000)])
    found = fit_mixture(rng.permutation(values))
    assert found.weight == pytest.approx([2 / 3, 1 / 3], abs=0.02)
    assert found.mean == pytest.approx([0, 6], abs=0.1)
    assert found.deviation == pytest.approx([1, 0.5], abs=0.05)
    assert found.separation > 5
    low, high = found.densities(np.array([found.cut]))
    assert low == pytest.approx(high, rel=0.01)
    assert 2.5 < found.cut < 5


def test_the_fit_moves_and_scales_with_the_values(rng):
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(4, 1, 500)])
    one, two = fit_mixture(values), fit_mixture(7 - 3 * values)
    assert two.mean == pytest.approx(7 - 3 * one.mean[::-1], rel=1e-3)
    assert two.cut == pytest.approx(7 - 3 * one.cut, rel=1e-2)


def test_one_population_is_not_called_two(rng):
    assert fit_mixture(rng.normal(0, 1, 5000)).separation < 2


def test_a_few_repeated_values_do_not_break_it():
    found = fit_mixture(np.array([1.0] * 50 + [2.0] * 50))
    assert found.mean == pytest.approx([1, 2], abs=1e-3)
    assert 1 < found.cut < 2
