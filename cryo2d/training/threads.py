"""Threads that each work on a share of their own with one core: small tensors need no more."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """The cores of a CPU, one thread each.

    Operations on tensors that fit into the caches gain little from many cores, and wait for each
    other after every one. Threads that go through many operations alone do not.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def dealt(self, rows: Tensor, most: int) -> list[Tensor]:
        """Rows in parts of one size, up to one, at most ``most`` each: as many for every thread."""
        rounds = max(1, -(-len(rows) // (most * self.count)))
        return [part for part in rows.tensor_split(rounds * self.count) if len(part)]

    def __call__(self, work: Callable[[int, Item], Result], items: Sequence[Item]) -> list[Result]:
        """What the work returns for each item, in their order.

        Args:
            work: is given the number of the thread that does it, from 0 on, and the item; it takes
                no gradients.
            items: dealt out to the threads in turn; one alone has the cores for its operations.
        """
        if self.count == 1:
            return [work(0, item) for item in items]

        def share(thread: int) -> list[Result]:
            with torch.no_grad():  # which every thread has for itself
                return [work(thread, item) for item in items[thread :: self.count]]

        before = torch.get_num_threads()
        # the matrix library has one number for all threads
        torch.set_num_threads(self.count if len(items) == 1 else 1)
        try:
            if len(items) == 1:
                return [work(0, items[0])]
            shares = [self._pool.submit(share, thread) for thread in range(self.count)]
            wait(shares)  # for all of them, even if one fails: they share what they work on
            found = [iter(share.result()) for share in shares]
        finally:
            torch.set_num_threads(before)
        return [next(found[place % self.count]) for place in range(len(items))]
