"""Threads that each work on a share of their own with one core: small tensors need no more."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


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

    def __call__(self, work: Callable[[int], T]) -> list[T]:
        """What the work returns for thread 0, 1, ..., done at the same time.

        Args:
            work: does a thread's share, whose number it is given; without gradients.
        """
        if self.count == 1:
            return [work(0)]

        def alone(thread: int) -> T:
            with torch.no_grad():  # which every thread has for itself
                return work(thread)

        before = torch.get_num_threads()
        # the matrix library has one number for all threads
        torch.set_num_threads(1)
        try:
            shares = [self._pool.submit(alone, thread) for thread in range(self.count)]
            wait(shares)  # for all of them, even if one fails: they share what they work on
            return [share.result() for share in shares]
        finally:
            torch.set_num_threads(before)
