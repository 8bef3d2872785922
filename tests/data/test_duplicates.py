import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryo2d.data import duplicates
from cryo2d.data.duplicates import UnknownPositionError, aligned_centres, find_duplicates


def _crowd(seed: int, count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "micrograph": rng.choice(["a.mrc", "b.mrc", "c.mrc"], count).astype(object),
        "centre": rng.uniform(0, 120, (count, 2)),
        "posterior": np.round(rng.uniform(0, 1, count), 1),
        "error": rng.normal(size=count),
    }


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_kept_are_apart_and_removed_are_near_a_better_one(seed: int):
    crowd = _crowd(seed)
    found = find_duplicates(**crowd, min_separation=20.0)
    distance = np.linalg.norm(crowd["centre"][:, None] - crowd["centre"][None], axis=-1)
    same = crowd["micrograph"][:, None] == crowd["micrograph"][None]
    near = same & (distance < 20.0) & ~np.eye(len(distance), dtype=bool)
    assert not near[np.ix_(found.keep, found.keep)].any()
    for row in np.flatnonzero(~found.keep):
        best = found.survivor[row]
        assert found.keep[best]
        assert near[row, best]
        assert (crowd["posterior"][best], -crowd["error"][best]) >= (
            crowd["posterior"][row],
            -crowd["error"][row],
        )
    np.testing.assert_array_equal(found.survivor[found.keep], np.flatnonzero(found.keep))


@pytest.mark.parametrize("neighbours", [100, 0])
def test_same_as_the_obvious_greedy_loop(neighbours, monkeypatch):
    # with 0 every crowd is too dense for its pairs to be listed
    monkeypatch.setattr(duplicates, "MOST_NEIGHBOURS", neighbours)
    crowd = _crowd(3, 200)
    found = find_duplicates(**crowd, min_separation=15.0)
    keep: list[int] = []
    for row in np.lexsort((crowd["error"], -crowd["posterior"])):
        rivals = [k for k in keep if crowd["micrograph"][k] == crowd["micrograph"][row]]
        gap = np.linalg.norm(crowd["centre"][rivals] - crowd["centre"][row], axis=1)
        if not (gap < 15.0).any():
            keep.append(int(row))
    assert sorted(keep) == np.flatnonzero(found.keep).tolist()
    for row in np.flatnonzero(~found.keep):
        # the best of those that it is too near to
        own = [k for k in keep if crowd["micrograph"][k] == crowd["micrograph"][row]]
        gap = np.linalg.norm(crowd["centre"][own] - crowd["centre"][row], axis=1)
        assert found.survivor[row] == np.array(own)[gap < 15.0][0]


def test_picks_that_all_lie_at_one_place_fill_no_memory(monkeypatch):
    monkeypatch.setattr(duplicates, "_near_pairs", lambda *_: pytest.fail("all pairs are listed"))
    count = 5000
    centre, error = np.zeros((count, 2)), np.arange(count, 0.0, -1)
    micrograph = np.full(count, "a.mrc", object)
    found = find_duplicates(micrograph, centre, np.ones(count), error)
    assert np.flatnonzero(found.keep).tolist() == [count - 1]
    assert set(found.survivor.tolist()) == {count - 1}


def test_the_order_of_the_rows_does_not_matter():
    crowd = _crowd(5)
    crowd["posterior"] = np.random.default_rng(0).permutation(len(crowd["error"])) / 100
    shuffle = np.random.default_rng(1).permutation(len(crowd["error"]))
    straight = find_duplicates(**crowd).keep
    shuffled = find_duplicates(**{name: value[shuffle] for name, value in crowd.items()}).keep
    np.testing.assert_array_equal(straight[shuffle], shuffled)


def test_micrographs_do_not_meet_and_equal_posteriors_go_by_error():
    centre = np.zeros((3, 2))
    found = find_duplicates(
        np.array([0, 0, 1]), centre, np.array([0.9, 0.9, 0.1]), np.array([2.0, 1.0, 5.0])
    )
    assert found.keep.tolist() == [False, True, True]
    assert found.survivor.tolist() == [1, 1, 2]


def test_a_particle_without_posterior_loses():
    found = find_duplicates(
        np.array([0, 0]), np.zeros((2, 2)), np.array([np.nan, 0.01]), np.array([np.nan, 1.0])
    )
    assert found.keep.tolist() == [False, True]


def test_exact_separation_is_no_duplicate():
    centre = np.array([[0.0, 0.0], [20.0, 0.0]])
    assert find_duplicates(np.zeros(2), centre, np.ones(2), np.ones(2), 20.0).keep.all()


def test_no_particles():
    empty = find_duplicates(np.array([]), np.empty((0, 2)), np.array([]), np.array([]))
    assert len(empty.keep) == 0


def test_two_picks_of_one_particle_meet_after_their_shifts():
    rng = np.random.default_rng(0)
    true_centre = rng.uniform(500, 3000, (20, 2))
    offset = rng.uniform(-40, 40, (20, 2))
    # an off-centre pick finds its particle at -shift from the middle of the box
    picked = (true_centre + offset) / 0.83
    centre = aligned_centres(picked[:, 0], picked[:, 1], np.full(20, 0.83), offset)
    np.testing.assert_allclose(centre, true_centre)


def test_unknown_pixel_size_is_refused():
    with pytest.raises(UnknownPositionError, match="micrograph_pixel_size"):
        aligned_centres(np.ones(2), np.ones(2), np.array([1.0, np.nan]), np.zeros((2, 2)))
