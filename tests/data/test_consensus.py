"""What classifications agree on, against counting pairs one by one."""

from itertools import combinations

import numpy as np
import pytest
from classified import easy, table_of

from cryo2d.data.consensus import adjusted_rand, contingency, matched, shared_rows, stability


def pairs_together(first, second):
    return [
        (first[i] == first[j], second[i] == second[j])
        for i, j in combinations(range(len(first)), 2)
    ]


def test_the_index_is_1_for_the_same_and_0_by_chance(rng):
    one = rng.integers(0, 5, 300)
    renamed = np.array([3, 0, 4, 1, 2])[one]
    assert adjusted_rand(contingency(one, renamed)) == pytest.approx(1)
    values = [adjusted_rand(contingency(one, rng.permutation(one))) for _ in range(30)]
    assert abs(np.mean(values)) < 0.01
    assert adjusted_rand(contingency(one, one * 0)) == pytest.approx(0)


def test_the_index_counts_pairs(rng):
    one, two = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
    two[:20] = one[:20]
    together = np.array(pairs_together(one, two))
    both, a, b = together.all(1).sum(), together[:, 0].sum(), together[:, 1].sum()
    chance = a * b / len(together)
    expected = (both - chance) / ((a + b) / 2 - chance)
    assert adjusted_rand(contingency(one, two)) == pytest.approx(expected)
    assert adjusted_rand(contingency(two, one)) == pytest.approx(expected)


def test_classes_find_their_partner():
    one = np.array([0] * 5 + [1] * 5 + [2] * 5 + [3] * 2)
    two = np.array([2] * 5 + [0] * 4 + [1] * 6 + [1] * 2)
    assert matched(contingency(one, two)).tolist() == [2, 0, 1, -1]


def test_stability_is_the_part_of_the_pairs_that_stay(rng):
    one, two, three = (rng.integers(0, 4, 60) for _ in range(3))
    of_particle, of_class = stability(one, [two, three])
    for k in range(4):
        members = np.flatnonzero(one == k)
        pairs = list(combinations(members, 2))
        parts = [np.mean([other[i] == other[j] for i, j in pairs]) for other in (two, three)]
        assert of_class[k] == pytest.approx(np.mean(parts))
        i = members[0]
        alone = [np.mean(other[members[1:]] == other[i]) for other in (two, three)]
        assert of_particle[i] == pytest.approx(np.mean(alone))


def test_the_same_classes_are_wholly_stable_and_a_class_of_one_is_neither():
    one = np.array([0, 0, 0, 1, 1, 2])
    of_particle, of_class = stability(one, [(one + 1) % 3])
    assert of_class[:2].tolist() == [1, 1]
    assert np.isnan(of_class[2])
    assert np.isnan(of_particle[5])


def test_particles_are_known_by_their_image(tmp_path, rng):
    table = table_of(easy(20), tmp_path)
    one, two = table.take(rng.permutation(20)[:15]), table.take(rng.permutation(20)[:15])
    first, second = shared_rows([one, two])
    assert (one.image_index[first] == two.image_index[second]).all()
    assert set(one.image_index[first]) == set(one.image_index) & set(two.image_index)
    elsewhere = table_of(easy(20), tmp_path / "other")
    assert len(shared_rows([table, elsewhere])[0]) == 0
