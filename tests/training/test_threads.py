import threading
import time

import pytest
import torch

from cryo2d.training.threads import Threads


@pytest.fixture(autouse=True)
def threads_of_torch():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("items", [0, 1, 2, 7])
def test_every_item_is_done_once_and_told_in_order(count, items):
    found = Threads(count)(lambda thread, item: (thread, 10 * item), range(items))
    assert [value for _, value in found] == [10 * n for n in range(items)]
    assert [thread for thread, _ in found] == [n % count for n in range(items)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 7, 24, 25])
def test_every_thread_is_dealt_as_many_rows(count, rows):
    parts = Threads(count).dealt(torch.arange(rows), most=4)
    assert torch.cat([torch.arange(0), *parts]).tolist() == list(range(rows))
    sizes = [len(part) for part in parts]
    assert max(sizes, default=0) <= 4
    if sizes:
        assert max(sizes) - min(sizes) <= 1
    if rows >= count:
        assert len(parts) % count == 0


def test_shares_are_done_at_the_same_time():
    meeting = threading.Barrier(2)
    assert sorted(Threads(2)(lambda _, item: meeting.wait(timeout=60.0), range(2))) == [0, 1]


def test_each_thread_computes_alone_and_without_gradients():
    torch.set_num_threads(2)
    weight = torch.ones(3, requires_grad=True)

    def work(thread: int, item: int) -> tuple[int, bool]:
        return torch.get_num_threads(), (2.0 * weight).requires_grad

    with torch.no_grad():
        assert Threads(2)(work, range(2)) == [(1, False), (1, False)]
        # a single item has all of torch's own threads
        assert Threads(2)(work, range(1)) == [(2, False)]
    assert torch.get_num_threads() == 2


def test_a_failure_is_told_once_all_have_ended():
    ended = []

    def work(thread: int, item: int) -> None:
        if thread == 0:
            raise torch.OutOfMemoryError("no room")
        time.sleep(0.2)
        ended.append(thread)

    torch.set_num_threads(2)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        Threads(2)(work, range(2))
    assert ended == [1]
    assert torch.get_num_threads() == 2
