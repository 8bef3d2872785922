"""The prior of shifts, from the shifts of the particles themselves."""

import pytest
import torch

from cryo2d.em.centring import LEAST, shift_pull


def spread(count: int, deviation: float, seed: int = 1) -> torch.Tensor:
    return deviation * torch.randn((count, 2), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("deviation", [1.5, 4.0])
def test_it_is_that_of_the_gaussian(deviation, device):
    shift = spread(4000, deviation).to(device)
    gain = torch.rand(4000, generator=torch.Generator().manual_seed(2)).to(device)
    assert float(shift_pull(shift, gain)) == pytest.approx(0.5 / deviation**2, rel=0.08)


def test_what_is_hardly_aligned_does_not_count(device):
    shift = torch.cat((spread(2000, 2.0), spread(1500, 9.0))).to(device)
    gain = torch.cat((torch.ones(2000), torch.zeros(1500))).to(device)
    assert float(shift_pull(shift, gain)) == pytest.approx(0.125, rel=0.1)


def test_a_few_that_went_far_hardly_count(device):
    shift = torch.cat((spread(3600, 2.0), torch.full((400, 2), 20.0))).to(device)
    gain = torch.ones(4000, device=device)
    assert float(shift_pull(shift, gain)) == pytest.approx(0.125, rel=0.25)


def test_centred_particles_may_still_move(device):
    found = shift_pull(torch.zeros((50, 2), device=device), torch.ones(50, device=device))
    assert float(found) == pytest.approx(0.5 / LEAST**2)


def test_unknown_particles_are_left_out(device):
    shift, gain = spread(4000, 2.0).to(device), torch.ones(4000, device=device)
    shift[::2], gain[::2] = torch.nan, torch.nan
    assert float(shift_pull(shift, gain)) == pytest.approx(0.125, rel=0.1)
    assert float(shift_pull(shift, torch.full_like(gain, torch.nan))) == 0.0
