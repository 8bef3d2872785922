import pytest
import torch

from cryo2d.em.prior import CountRegularizer, FrcRegularizer, LocalRegularizer
from cryo2d.physics.mask import radius_grid

DEN, ONE = torch.ones(2, 9), torch.ones(9)


def test_weight_of_a_constant_correlation():
    for value in (0.1, 0.5, 0.9):
        frc = torch.full((2, 9), value)
        ssnr = 2 * value / (1 - value)
        weight = FrcRegularizer()(frc, DEN, ONE)
        torch.testing.assert_close(weight, torch.full((2, 9), ssnr / (1 + ssnr)))
        torch.testing.assert_close(FrcRegularizer(full=False)(frc, DEN, ONE), frc)


def test_nothing_counts_after_the_first_ring_without_signal(device):
    frc = torch.tensor([[1.0, 0.9, 0.6, 0.3, -0.3, -0.2, 0.6, 0.7, 0.8]], device=device)
    weight = FrcRegularizer(floor=0.03)(frc, DEN[:1].to(device), ONE.to(device))
    assert bool((weight[0, :4] > 0).all())
    assert bool((weight[0, 4:] == 0).all())


def test_rings_after_the_lowest_ones_count_even_if_those_hold_no_signal():
    # defocus transfers next to nothing of the longest waves, and ice and micelles add noise there
    frc = torch.tensor([[-0.2, 0.1, 0.8, 0.9, 0.8, 0.6, 0.3, -0.1, -0.1]])
    weight = FrcRegularizer(floor=0.03)(frc, DEN[:1], ONE)
    assert bool((weight[0, 2:6] > 0).all())
    assert bool((weight[0, 8:] == 0).all())


def test_weights_lie_between_zero_and_one_and_grow_with_the_correlation(rng, device):
    frc = torch.from_numpy(rng.uniform(-1, 1, (50, 9))).float().to(device)
    den, one = torch.ones(50, 9, device=device), torch.ones(9, device=device)
    weight = FrcRegularizer()(frc, den, one)
    assert float(weight.min()) >= 0
    assert float(weight.max()) < 1
    more = FrcRegularizer()((frc + 0.1).clamp(max=1), den, one)
    assert bool((more >= weight).all())
    assert float(FrcRegularizer()(torch.ones_like(frc), den, one).min()) > 0.998
    assert float(FrcRegularizer()(torch.zeros_like(frc), den, one).max()) == 0


@pytest.mark.parametrize("count", [1.0, 20.0, 500.0])
def test_count_regularizer_is_worth_a_number_of_particles(count, device):
    # all particles have the same weights, those of ring s being s + 1
    one = torch.arange(1.0, 10.0, device=device)
    counts = torch.tensor([count, 2 * count, 0.0], device=device)
    weight = CountRegularizer(particles=5.0)(
        torch.zeros(3, 9, device=device), counts[:, None] * one, one
    )
    expected = (counts / (counts + 5.0))[:, None].expand_as(weight)
    torch.testing.assert_close(weight, expected)


def test_regions_where_the_half_sets_agree_by_chance_alone_have_no_weight(rng, device):
    noise = torch.from_numpy(rng.normal(size=(2, 40, 48, 48))).float().to(device)
    disc = radius_grid(48).to(device) < 10
    first, second = 3.0 * disc + noise
    weight = LocalRegularizer(4.0)(first, second)
    # SSNR 9 of a half, 18 of both, in the middle; nothing a few blur lengths beside it
    inside, beside = radius_grid(48).to(device) < 3, radius_grid(48).to(device) > 20
    assert weight[:, inside].mean() == pytest.approx(18 / 19, abs=0.03)
    assert float(weight[:, beside].mean()) < 0.12
    assert float(weight.min()) >= 0.0
    assert float(weight.max()) <= 1.0


@pytest.mark.parametrize("ssnr", [0.2, 1.0, 5.0])
def test_the_local_weight_is_that_of_both_halves_together(ssnr, rng):
    # the same signal-to-noise ratio everywhere
    signal, *noise = torch.from_numpy(rng.normal(size=(3, 20, 64, 64))).float()
    first, second = (ssnr**0.5 * signal + part for part in noise)
    weight = LocalRegularizer(30.0)(first, second)
    torch.testing.assert_close(
        weight.mean((1, 2)).mean(), torch.tensor(2 * ssnr / (2 * ssnr + 1)), atol=0.02, rtol=0
    )
