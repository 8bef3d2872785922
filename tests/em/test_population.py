import dataclasses

import pytest
import torch

from cryo2d.em.contrast import Contrasts
from cryo2d.em.population import Reseed, common_signal
from cryo2d.em.stats import SufficientStats
from cryo2d.em.variety import Variety
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
    return RESEED(stats, stats.count.sum(0), iteration, torch.Generator().manual_seed(1)).stats


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
    assert found.changed.tolist() == [0, 2]
    assert float(found.stats.count.sum(0)[2]) == pytest.approx(30.0)


def test_the_last_online_iteration_replaces_only_empty_classes(device):
    few = stats_of([60.0, 30.0, 5.0, 25.0], device)
    assert reseeded(few, 9) is few
    assert reseeded(few, 6) is not few


def variety_of(strength: list[float], age: float, device: torch.device) -> Variety:
    """Components that are noise, of known strength."""
    generator = torch.Generator().manual_seed(3)
    part = GRID.up_to(5)
    averages = stats_of([1.0] * len(strength), device).num[0, :, :, :5]
    start = Variety.start(part, averages, generator)
    return dataclasses.replace(
        start,
        strength=torch.tensor(strength, device=device),
        age=torch.full((len(strength),), age, device=device),
    )


def split(stats: SufficientStats, iteration: int, variety: Variety, **settings) -> list[int]:
    """The classes that are changed."""
    reseed = Reseed(total=100, at=(0.1, 0.5, 0.9), **settings)
    found = reseed(stats, stats.count.sum(0), iteration, torch.Generator().manual_seed(1), variety)
    return found.changed.tolist()


def test_a_class_that_varies_is_split_along_its_variety(device):
    stats = stats_of([30.0, 60.0, 25.0, 0.0], device)
    variety = variety_of([5.0, 0.0, 0.1, 0.0], 0.0, device)
    reseed = Reseed(total=100, at=(0.5,))
    reseeded = reseed(stats, stats.count.sum(0), 50, torch.Generator().manual_seed(1), variety)
    found = reseeded.stats
    assert reseeded.source.tolist() == [0]
    assert reseeded.dead.tolist() == [3]
    average = found.num.sum(0) / found.den.sum(0)[:, None]
    before = stats.num.sum(0) / stats.den.sum(0)[:, None]
    component = torch.zeros_like(before[0])
    component[:, :5] = variety.component[0]
    torch.testing.assert_close(average[3], before[0] + component, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(average[0], before[0] - component, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("iteration", "strength", "age", "expected"),
    [
        (50, [0.0, 9.0, 3.0, 0.0], 0.0, 1),  # what varies most, for its size
        (50, [0.2, 0.0, 0.5, 0.0], 40.0, 2),  # little, but known for long: a trial
        (50, [0.2, 0.0, 0.5, 0.0], 2.0, None),  # not known yet
        (90, [0.2, 0.0, 0.5, 0.0], 40.0, None),  # no trials at the end
        (10, [0.0, 0.0, 0.0, 0.0], 0.0, 0),  # the largest, while views are being found
    ],
)
def test_which_class_is_split(iteration, strength, age, expected, device):
    stats = stats_of([60.0, 40.0, 50.0, 0.0], device)
    if expected is None:
        expected = int(common_signal(stats)[:3].argmin())
    # where copies are not told apart by contrast, nothing waits for the end
    changed = split(stats, iteration, variety_of(strength, age, device), contrast=False)
    assert changed == [expected, 3]


def test_common_signal_is_that_of_the_halves(device):
    stats = stats_of([50.0, 50.0, 50.0], device)
    # halves that agree in the first class, are strangers in the second, opposed in the third
    generator = torch.Generator().manual_seed(5)
    noise = torch.view_as_complex(torch.randn((*stats.num.shape, 2), generator=generator))
    num = stats.den[:, :, None] * noise[:1].to(device)
    num[1, 1] = stats.den[1, 1] * noise[1, 1].to(device)
    num[1, 2] *= -1
    first, second, third = common_signal(dataclasses.replace(stats, num=num)).tolist()
    assert first > 0
    assert abs(second) < 0.3 * first
    assert third < -0.5 * first


def test_copies_of_one_class_differ(device):
    stats = stats_of([90.0, 30.0, 0.0, 0.0, 0.0], device)
    variety = variety_of([9.0, 0.0, 0.0, 0.0, 0.0], 0.0, device)
    reseed = Reseed(total=100, at=(0.5,), sizeable=2.0)
    found = reseed(stats, stats.count.sum(0), 50, torch.Generator().manual_seed(1), variety)
    assert found.source.tolist() == [0, 0, 0]
    num = found.stats.num.sum(0)
    for one, two in ((0, 2), (2, 3), (3, 4)):
        assert float((num[one] - num[two]).abs().max()) > 0.1 * float(num[one].abs().max())
    assert found.stats.count.sum(0).tolist() == pytest.approx([22.5, 30.0, 22.5, 22.5, 22.5])


def test_what_varies_is_looked_at_between_its_first_part_and_the_last_split():
    reseed = Reseed(total=40, at=(0.2, 0.5), varied=0.25)
    assert [t for t in range(40) if reseed.looks(t)] == list(range(10, 21))
    assert not any(dataclasses.replace(reseed, total=18).looks(t) for t in range(18))
    assert not any(dataclasses.replace(reseed, varied=1.0).looks(t) for t in range(40))


def test_at_the_end_copies_take_the_faintest_members(device):
    stats = stats_of([60.0, 40.0, 0.0, 0.0], device)
    contrasts = Contrasts(torch.ones(4, device=device), torch.full((4,), 0.2, device=device))
    reseed = Reseed(total=100, at=(0.5,))
    assert [t for t in range(100) if reseed.by_contrast(t)] == [99]
    generator = torch.Generator().manual_seed(1)
    found = reseed(stats, stats.count.sum(0), 99, generator, None, contrasts)
    assert found.source.tolist() == [0, 1]  # the largest, then the largest of what is left
    # no particle is lost, and a quarter is in the copies
    assert found.stats.count.sum(0).tolist() == pytest.approx([45.0, 30.0, 15.0, 10.0])
    before = stats.num.sum(0) / stats.den.sum(0)[:, None]
    average = found.stats.num.sum(0) / found.stats.den.sum(0)[:, None]
    for source, copy in ((0, 2), (1, 3)):
        level = contrasts.at(torch.tensor([0.625, 0.125, 0.5, 0.5], device=device)).tolist()
        torch.testing.assert_close(average[source], level[0] * before[source])
        torch.testing.assert_close(average[copy], level[1] * before[source])


def test_what_is_left_over_waits_for_the_end(device):
    stats = stats_of([60.0, 40.0, 50.0, 0.0], device)
    stats = dataclasses.replace(stats, num=stats.num[:1].expand_as(stats.num).contiguous())
    assert split(stats, 50, variety_of([0.2, 0.0, 0.5, 0.0], 40.0, device)) == [2, 3]
    assert split(stats, 90, variety_of([0.2, 0.0, 0.5, 0.0], 40.0, device)) == []
    # but not for classes that vary a lot
    assert split(stats, 90, variety_of([0.2, 9.0, 0.5, 0.0], 40.0, device)) == [1, 3]
    # and not if most are left over
    few = stats_of([60.0, 40.0, 0.0, 0.0], device)
    few = dataclasses.replace(few, num=few.num[:1].expand_as(few.num).contiguous())
    assert split(few, 90, variety_of([0.2, 0.5, 0.0, 0.0], 40.0, device)) == [0, 1, 2, 3]


def test_parts_of_the_largest_are_cut_in_turn(device):
    stats = stats_of([90.0, 40.0, 35.0, 0.0, 0.0], device)
    found = Reseed(total=100, at=(0.5,))(
        stats, stats.count.sum(0), 99, torch.Generator().manual_seed(1)
    )
    assert found.source.tolist() == [0, 0]  # halves of 45, then thirds of 30
