import numpy as np
import pytest
import torch

from cryo2d.data.sampler import Shares, VisitPlan, half_sets

SIZES = [(100, 7), (100, 33), (100, 100), (10, 25), (1, 1)]


def plan_of(count: int, batch: int, **changes: int) -> VisitPlan:
    settings = {"iterations": 30, "full_iterations": 1, "seed": 4} | changes
    return VisitPlan(num_particles=count, batch=batch, **settings)


@pytest.mark.parametrize(("count", "batch"), SIZES)
def test_every_pass_visits_every_particle_once(count, batch):
    plan = plan_of(count, batch)
    stream = torch.cat([plan.rows(t) for t in range(plan.iterations)])
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count].tolist()) == list(range(count))
    assert all(len(plan.rows(t)) == min(batch, count) for t in range(plan.iterations))


@pytest.mark.parametrize("count", [10_000, 100, 30])
def test_batches_grow_evenly_and_stay_one_stream(count):
    plan = plan_of(count, 30, growth=5.0)
    sizes = np.array([len(plan.rows(t)) for t in range(plan.iterations)])
    even = np.linspace(10, 50, 2 * plan.iterations + 1)[1::2]
    assert np.abs(sizes - np.minimum(even, count)).max() <= 0.5
    stream = torch.cat([plan.rows(t) for t in range(plan.iterations)])
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count].tolist()) == list(range(count))


@pytest.mark.parametrize(("count", "batch"), SIZES)
def test_an_iteration_does_not_depend_on_those_before(count, batch):
    plan = plan_of(count, batch)
    forward = [plan.rows(t) for t in range(plan.total)]
    # another object, backwards: as a resumed run asks
    again = plan_of(count, batch)
    for t in reversed(range(plan.total)):
        assert torch.equal(again.rows(t), forward[t])


def test_passes_and_seeds_differ():
    plan, other = plan_of(100, 100), plan_of(100, 100, seed=5)
    assert not torch.equal(plan.rows(0), plan.rows(1))
    assert not torch.equal(plan.rows(0), other.rows(0))


def test_the_global_random_state_does_not_matter():
    torch.manual_seed(0)
    first = plan_of(50, 20).rows(3), half_sets(50, 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = plan_of(50, 20).rows(3), half_sets(50, 1)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_full_iterations_come_last_in_file_order():
    plan = plan_of(20, 6, iterations=3, full_iterations=2)
    assert plan.total == 5
    assert [plan.is_full(t) for t in range(5)] == [False, False, False, True, True]
    for t in (3, 4):
        assert plan.rows(t).tolist() == list(range(20))
    assert plan_of(20, 6, iterations=0).is_full(0)


@pytest.mark.parametrize("count", [1, 10, 101])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_half_sets_are_equal_and_random(count, seed):
    half = half_sets(count, seed)
    assert set(half.tolist()) <= {0, 1}
    assert abs(2 * int(half.sum()) - count) <= 1
    assert torch.equal(half, half_sets(count, seed))
    if count > 50:
        assert half.tolist() != [i % 2 for i in range(count)]
        assert not torch.equal(half, half_sets(count, seed + 1))
        # not in step with the order of a pass either
        order = plan_of(count, count, seed=seed).rows(0)
        assert 0.2 < float((half[order].diff() == 0).float().mean()) < 0.8


@pytest.mark.parametrize(("count", "size"), [(100, 3), (10, 10), (2, 5), (7, 1)])
def test_every_particle_belongs_to_one_process(count, size):
    shares = Shares.even(count, size)
    rows = [row for rank in range(size) for row in shares.block(rank)]
    assert rows == list(range(count))
    lengths = [len(shares.block(rank)) for rank in range(size)]
    assert max(lengths) - min(lengths) <= 1
    visited = plan_of(count, 6).rows(3)
    parts = shares.split(visited)
    assert sorted(torch.cat(parts).tolist()) == sorted(visited.tolist())
    for rank, part in enumerate(parts):
        assert set(part.tolist()) <= set(shares.block(rank))


def test_rows_that_are_taken_out_leave_their_block():
    shares = Shares.even(9, 3).without(np.array([8, 0, 3, 4, 5]))
    assert [list(shares.block(rank)) for rank in range(3)] == [[0, 1], [], [2, 3]]
