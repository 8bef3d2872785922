"""Memory that runs out at any moment of the work."""

import logging
from dataclasses import fields

import pytest
import torch

from cryo2d.em.stats import SufficientStats
from cryo2d.errors import EnvironmentFault
from cryo2d.geometry.polar import PolarGrid
from cryo2d.training.portions import Portions
from cryo2d.types import CtfParams, ParticleBatch

COUNT = 13


class Work:
    """Adds particles to the sums in two steps, and runs out of memory where it is told to.

    Args:
        stats: sums.
        holds: particles that fit.
        fails_at: number of the step that fails, from 1, whatever its size; 0 for none.
    """

    def __init__(self, stats: SufficientStats, *, holds: int = COUNT, fails_at: int = 0) -> None:
        self.stats, self.holds, self.fails_at = stats, holds, fails_at
        self.steps = 0

    def __call__(self, batch: ParticleBatch) -> None:
        for sums in (self.stats.count, self.stats.num):
            sums += float(batch.index.sum())
            self.steps += 1
            if self.steps == self.fails_at or len(batch) > self.holds:
                raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.fixture
def batch() -> ParticleBatch:
    one = torch.ones(COUNT)
    index = torch.arange(COUNT)
    ctf = CtfParams(*[one for _ in fields(CtfParams)])
    rings = torch.zeros((COUNT, 1, 1), dtype=torch.complex64)
    return ParticleBatch(index, rings, ctf, index, index % 2, one)


@pytest.fixture
def stats() -> SufficientStats:
    return SufficientStats.zeros(PolarGrid(16, 8), 2, 1)


def is_counted_once(stats: SufficientStats) -> bool:
    total = COUNT * (COUNT - 1) / 2
    return bool((stats.count == total).all() and (stats.num == total).all())


@pytest.mark.parametrize("fails_at", range(1, 5))
def test_whichever_step_fails_every_particle_counts_once(fails_at, batch, stats):
    work = Work(stats, fails_at=fails_at)
    portions = Portions()
    # the second batch is the one that fails late
    portions(batch, stats.as_dict(), work)
    for sums in stats.as_dict().values():
        sums.zero_()
    portions(batch, stats.as_dict(), work)
    assert is_counted_once(stats)
    assert work.steps >= fails_at


@pytest.mark.parametrize("holds", [1, 2, 6, 12])
def test_portions_become_as_small_as_they_have_to(holds, batch, stats, caplog):
    portions = Portions()
    with caplog.at_level(logging.WARNING, logger="cryo2d"):
        portions(batch, stats.as_dict(), Work(stats, holds=holds))
    assert is_counted_once(stats)
    assert portions.most <= holds
    assert "The memory of the device is short" in caplog.text
    # what did not fit once is not tried again
    work = Work(stats, holds=holds)
    portions(batch, stats.as_dict(), work)
    assert work.steps == 2 * -(-COUNT // portions.most)


def test_one_particle_that_does_not_fit_is_an_end_with_a_reason(batch, stats):
    with pytest.raises(EnvironmentFault, match="does not hold one particle.*CUDA out of memory"):
        Portions()(batch, stats.as_dict(), Work(stats, holds=0))
