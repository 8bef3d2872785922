"""What classifications agree on, against counting pairs one by one."""

from itertools import combinations

import numpy as np
import pytest
from classified import easy, table_of

from cryo2d.data import consensus as consensus_module
from cryo2d.data.consensus import (
    adjusted_rand,
    consensus,
    contingency,
    matched,
    shared_rows,
    stability,
)


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


def test_stability_is_the_overlap_of_those_with_a_particle(rng):
    one, two, three = (rng.integers(0, 4, 60) for _ in range(3))
    of_particle, of_class = stability(one, [two, three])
    for i in range(60):
        here, *there = ({*np.flatnonzero(c == c[i]).tolist()} - {i} for c in (one, two, three))
        overlap = [2 * len(here & other) / (len(here) + len(other)) for other in there]
        assert of_particle[i] == pytest.approx(np.mean(overlap))
    for k in range(4):
        assert of_class[k] == pytest.approx(of_particle[one == k].mean())


def test_a_class_that_others_halve_or_double_is_stable_by_two_thirds():
    whole, halves = np.zeros(2000, int), np.arange(2000) % 2
    assert stability(whole, [halves])[1][0] == pytest.approx(2 / 3, abs=1e-3)
    assert stability(halves, [whole])[1] == pytest.approx(2 / 3, abs=1e-3)


def test_the_same_classes_are_wholly_stable_and_a_class_of_one_is_neither():
    one = np.array([0, 0, 0, 1, 1, 2])
    of_particle, of_class = stability(one, [(one + 1) % 3])
    assert of_class[:2].tolist() == [1, 1]
    assert np.isnan(of_class[2])
    assert np.isnan(of_particle[5])


def runs_of(truth: np.ndarray, rng: np.random.Generator, count: int = 5) -> list[np.ndarray]:
    """Runs that put a sixth of the particles anywhere, and each splits one of the classes."""
    size, found = int(truth.max()) + 1, []
    for number in range(count):
        label = rng.permutation(size)[truth]
        astray = rng.random(len(truth)) < 1 / 6
        label[astray] = rng.integers(0, size, astray.sum())
        label[(label == number) & (rng.random(len(truth)) < 0.5)] = size
        found.append(label)
    return found


@pytest.mark.parametrize("compared", [5000, 150])
def test_the_consensus_is_nearer_to_the_truth_than_any_run(rng, monkeypatch, compared):
    monkeypatch.setattr(consensus_module, "COMPARED", compared)
    truth = rng.permutation(np.arange(480) % 6)
    runs = runs_of(truth, rng)
    single = [adjusted_rand(contingency(one, truth)) for one in runs]
    found = consensus(runs, 6)
    assert max(single) < 0.8
    assert adjusted_rand(contingency(found, truth)) > 0.93
    assert (np.diff(np.bincount(found)) <= 0).all()
    # particles that are in the wrong class are less stable
    wrong = contingency(found, truth).argmax(1)[found] != truth
    of_particle, _ = stability(found, runs)
    if wrong.any():
        assert of_particle[wrong].mean() < of_particle[~wrong].mean() - 0.2


def test_blocks_of_particles_change_nothing(rng, monkeypatch):
    runs = runs_of(rng.integers(0, 6, 300), rng)
    whole = consensus(runs, 6)
    monkeypatch.setattr(consensus_module, "AT_ONCE", 50)
    assert np.array_equal(consensus(runs, 6), whole)


def test_what_all_runs_say_is_the_consensus(rng):
    one = np.repeat([2, 0, 1], [50, 30, 20])
    assert (
        consensus([one, (one + 1) % 3], 3).tolist() == np.repeat([0, 1, 2], [50, 30, 20]).tolist()
    )
    assert consensus([np.array([4])] * 3, 2).tolist() == [0]


def test_particles_are_known_by_their_image(tmp_path, rng):
    table = table_of(easy(20), tmp_path)
    one, two = table.take(rng.permutation(20)[:15]), table.take(rng.permutation(20)[:15])
    first, second = shared_rows([one, two])
    assert (one.image_index[first] == two.image_index[second]).all()
    assert set(one.image_index[first]) == set(one.image_index) & set(two.image_index)
    elsewhere = table_of(easy(20), tmp_path / "other")
    assert len(shared_rows([table, elsewhere])[0]) == 0
