import pytest
import torch

from cryo2d.data.visits import GrowingPlan


def plan(**settings: object) -> GrowingPlan:
    usual = {"batch": 20, "iterations": 5, "full_iterations": 1}
    return GrowingPlan(**(usual | {"visits": 3, "old_share": 0.25, "seed": 1} | settings))


def run(growing: GrowingPlan, iteration: int) -> torch.Tensor:
    rows = growing.rows(iteration)
    growing.visit(rows)
    return rows


def test_no_particle_of_the_opening_is_visited_twice_before_every_other_was_once():
    growing = plan()
    growing.grow(50)
    for iteration in range(5):
        rows = run(growing, iteration)
        assert len(rows) == len(rows.unique()) == 20
        assert growing.counts.max() - growing.counts.min() <= 1


def test_particles_that_come_later_get_their_visits_beside_old_ones():
    growing = plan()
    growing.grow(50)
    for iteration in range(10):
        run(growing, iteration)
    assert growing.due == 0
    growing.grow(15)
    for iteration in range(10, 13):
        rows = run(growing, iteration)
        assert len(rows) == len(rows.unique()) == 20
        assert (rows >= 50).sum() == 15
    assert growing.due == 0
    assert (growing.counts[50:] == 3).all()


@pytest.mark.parametrize("old_share", [0.0, 0.25, 0.5])
def test_visits_grow_in_proportion_to_the_particles(old_share):
    growing = plan(old_share=old_share)
    growing.grow(50)
    iteration = 0
    while iteration < 5 or growing.due >= growing.fresh:
        run(growing, iteration)
        iteration += 1
    before = int(growing.counts.sum())
    for arrival in range(1, 31):
        growing.grow(40)
        while growing.due >= growing.fresh:
            run(growing, iteration)
            iteration += 1
        visits = int(growing.counts.sum()) - before
        assert visits <= 3 * 40 * arrival / (1 - old_share) + 20
    assert visits > 0.9 * 3 * 40 * 30 / (1 - old_share)


def test_the_rows_depend_on_what_was_visited_alone():
    one, other = plan(), plan()
    one.grow(50)
    for iteration in range(3):
        run(one, iteration)
    other.grow(50)
    other.counts = one.counts.clone()
    assert torch.equal(one.rows(3), other.rows(3))


def test_the_last_passes_visit_everything():
    growing = plan(full_iterations=2)
    growing.grow(50)
    growing.now = 7
    assert growing.total == 9
    growing.close(8)
    assert growing.total == 10
    assert [growing.is_full(iteration) for iteration in (7, 8, 9)] == [False, True, True]
    assert growing.rows(8).tolist() == list(range(50))


def test_batches_of_the_opening_grow():
    growing = plan(growth=4.0)
    growing.grow(500)
    # from 8 to 32, 20 on average
    assert [len(run(growing, iteration)) for iteration in range(5)] == [10, 15, 20, 25, 30]
    assert growing.batch == 32


def test_without_an_opening_batches_have_their_mean_size():
    growing = plan(iterations=0, growth=4.0)
    growing.grow(50)
    assert growing.batch == 20
    assert len(run(growing, 0)) == growing.fresh  # none of them has had its visits
