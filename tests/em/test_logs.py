import pytest
import torch

from cryo2d.em.logs import log_total_, most_of, rows_near, segment_argmax, segment_logsumexp


@pytest.mark.parametrize("dim", [0, 1])
def test_totals_over_an_axis(dim, device):
    logs = torch.tensor([[0.0, 1.0, -1e4], [3e4, 2.0, -1e4]], device=device)
    torch.testing.assert_close(log_total_(logs.clone(), dim), logs.logsumexp(dim))


def test_segments(device):
    logs = torch.tensor([0.0, 1.0, 2.0, -1e30, 5.0], device=device)
    segment = torch.tensor([0, 1, 0, 1, 2], device=device)
    expected = torch.stack((logs[[0, 2]].logsumexp(0), logs[1], logs[4], torch.log(0 * logs[0])))
    torch.testing.assert_close(segment_logsumexp(logs, segment, 4), expected)
    assert segment_argmax(logs, segment, 4).tolist() == [2, 1, 4, -1]
    assert segment_argmax(torch.zeros(5, device=device), segment, 3).tolist() == [0, 1, 4]


@pytest.mark.parametrize(("rows", "count"), [(720, 8), (7, 8), (31 * 37, 8), (64, 1)])
def test_the_most_of_each_column_are_found(rows, count, device):
    values = torch.randn((rows, 50), generator=torch.Generator().manual_seed(4)).to(device)
    # a mass of the largest in one group, and none
    values[: min(rows, 20), 0] += 50.0
    found, place = most_of(values, count)
    expected = values.topk(min(rows, count), dim=0)
    assert torch.equal(found, expected.values)
    assert torch.equal(place, expected.indices)


def test_rows_near_the_best_of_a_particle(device):
    first = torch.tensor([[0.0, -3.0, -9.0], [-4.0, 0.0, -6.0]], device=device)
    second = torch.tensor([[0.0, -8.0, -9.0], [-9.0, 0.0, -4.0]], device=device)
    near = rows_near(torch.stack((first, second), dim=2), 5.0)
    assert {k: rows.tolist() for k, rows in near.items()} == {0: [0, 1], 1: [0, 1], 2: [1]}
