import dataclasses

import pytest
import torch

from cryo2d.em.population import Reseed
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.polar import PolarGrid

GRID = PolarGrid(32, 8)
RESEED = Reseed(total=10, at=(0.3, 0.6))


def stats_of(counts: list[float], device: torch.device) -> SufficientStats:
    """Classes with sums in proportion to their counts."""
    generator = torch.Generator().manual_seed(0)
    zero = SufficientStats.zeros(GRID, len(counts), 2, device)
    share = torch.tensor(counts, device=device)
    half = torch.stack((0.6 * share, 0.4 * share))
    noise = torch.view_as_complex(torch.randn((*zero.num.shape, 2), generator=generator))
    return dataclasses.replace(
        zero,
        num=noise.to(device) * half[:, :, None, None],
        den=half[:, :, None] * torch.arange(1.0, 9.0, device=device),
        count=half,
        power=torch.ones_like(zero.power),
    )


def reseeded(stats: SufficientStats, iteration: int = 3) -> SufficientStats:
    return RESEED(stats, stats.count.sum(0), iteration, torch.Generator().manual_seed(1))


def test_nothing_happens_between_its_iterations_or_to_living_classes(device):
    stats = stats_of([50.0, 30.0, 20.0, 0.0], device)
    assert [t for t in range(10) if reseeded(stats, t) is not stats] == [3, 6, 9]
    alive = stats_of([50.0, 30.0, 20.0, 15.0], device)
    assert reseeded(alive) is alive


def test_a_dead_class_shares_with_the_largest(device):
    stats = stats_of([60.0, 30.0, 1.0, 25.0], device)
    before = {name: value.clone() for name, value in stats.as_dict().items()}
    found = reseeded(stats)
    torch.testing.assert_close(
        found.count.sum(0), torch.tensor([30.0, 30.0, 30.0, 25.0], device=device)
    )
    for name in ("num", "den", "count"):
        value = getattr(found, name)
        # source and copy together hold what the source held
        torch.testing.assert_close(value[:, 0] + value[:, 2], before[name][:, 0])
        # the living others stay as they are
        torch.testing.assert_close(value[:, [1, 3]], before[name][:, [1, 3]])
        assert torch.equal(getattr(stats, name), before[name])
    torch.testing.assert_close(found.den[:, 2], found.den[:, 0])
    # like the copied class, but not the same
    difference = (found.num[:, 2] - found.num[:, 0]).abs().square().mean().sqrt()
    amplitude = found.num[:, 0].abs().square().mean().sqrt()
    assert 0.1 < float(difference / amplitude) < 1.5
    assert torch.equal(found.power, stats.power)


@pytest.mark.parametrize(
    "counts",
    [[60.0, 30.0, 0.0, 25.0], [100.0, 40.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0, 0.0]],
)
def test_afterwards_no_class_is_dead_and_no_particle_is_lost(counts, device):
    stats = stats_of(counts, device)
    found = reseeded(stats)
    assert float(found.count.sum()) == pytest.approx(sum(counts), rel=1e-5)
    assert float(found.count.sum(0).min()) > 0
    assert float(found.den.sum(0).min()) > 0


def test_the_particles_of_this_iteration_decide_who_is_dead(device):
    stats = stats_of([60.0, 30.0, 20.0, 25.0], device)
    recent = torch.tensor([50.0, 40.0, 0.0, 30.0], device=device)
    found = RESEED(stats, recent, 3, torch.Generator().manual_seed(1))
    assert float(found.count.sum(0)[2]) == pytest.approx(30.0)


def test_the_last_online_iteration_replaces_only_empty_classes(device):
    few = stats_of([60.0, 30.0, 5.0, 25.0], device)
    assert reseeded(few, 9) is few
    assert reseeded(few, 6) is not few
