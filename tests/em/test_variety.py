import dataclasses

import pytest
import torch
from synthetic import PIXEL, Synthetic, synthetic

from cryo2d.em.variety import LENGTH, Variety, VarietySums, add_variety
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.mask import circular_mask
from cryo2d.physics.preprocess import WeightedImages, weigh


def inner(grid: PolarGrid, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    area = grid.harmonic_weights().to(first.device)[:, None] * grid.ring_weights.to(first.device)
    return ((first.conj() * second).real * area).sum((-2, -1))


def mixed(data: Synthetic, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, PolarGrid]:
    """Class of each particle, the first two pictures in one; averages; the grid."""
    grid = data.grid
    pictures = grid.harmonics(grid.sample(data.averages.to(device)))
    averages = torch.stack((0.5 * (pictures[0] + pictures[1]), pictures[2]))
    return (data.classes == 2).long().to(device), averages, grid


def independent(data: Synthetic, device: torch.device) -> WeightedImages:
    """All particles, their likelihoods for the samples that the window leaves independent."""
    share = float(circular_mask(32, 0.85 * 16, 0.99 * 16).square().mean())
    noise = data.noise(device)
    return weigh(data.batch(device), data.grid, pixel_size=PIXEL, noise=noise, independent=share)


def sums_of(
    data: Synthetic,
    classes: torch.Tensor,
    averages: torch.Tensor,
    component: torch.Tensor,
    device: torch.device,
    rows: slice = slice(None),
) -> VarietySums:
    images, poses = independent(data, device), data.poses(device)
    poses = dataclasses.replace(poses, classes=classes)
    keep = torch.arange(len(images), device=device)[rows]
    poses = dataclasses.replace(poses[keep], particle=torch.arange(len(keep), device=device))
    sums = VarietySums.zeros(data.grid, len(averages), device)
    add_variety(sums, data.grid, images[keep], poses, averages, component)
    return sums


def found(data: Synthetic, device: torch.device, steps: int = 12) -> tuple[Variety, torch.Tensor]:
    classes, averages, grid = mixed(data, device)
    variety = Variety.start(grid, averages, torch.Generator().manual_seed(2))
    for _ in range(steps):
        sums = sums_of(data, classes, averages, variety.component, device)
        variety = variety.renewed(sums, grid, averages)
    return variety, averages


@pytest.fixture(scope="module")
def data() -> Synthetic:
    return synthetic(180, sigma=0.3, reach=1.0)


def test_two_views_in_a_class_are_found_and_one_is_not(data, device):
    variety, _ = found(data, device)
    grid = data.grid
    pictures = grid.harmonics(grid.sample(data.averages.to(device)))
    difference = pictures[0] - pictures[1]
    own = inner(grid, difference, difference) * inner(
        grid, variety.component[0], variety.component[0]
    )
    # it is found where the CTF passes something
    likeness = inner(grid, difference, variety.component[0]).abs() / own.sqrt()
    assert float(likeness) > 0.6
    mixture, pure = variety.strength.tolist()
    assert mixture > 20.0 * max(abs(pure), 0.05)
    assert variety.age.tolist() == [12.0, 12.0]


def test_a_component_has_its_length_and_nothing_of_the_average(data, device):
    variety, averages = found(data, device, steps=3)
    sums = variety.sums
    mean = sums.transfer.sum(0) / sums.count.sum(0)[:, None]
    grid = data.grid
    weighted = variety.component * mean[:, None]
    length = inner(grid, variety.component, weighted)
    torch.testing.assert_close(length, torch.full_like(length, LENGTH), rtol=1e-4, atol=0)
    along = inner(grid, averages, weighted).abs()
    scale = inner(grid, averages, averages * mean[:, None]).sqrt() * LENGTH**0.5
    assert (along < 1e-3 * scale).all()


def test_sums_of_parts_are_those_of_the_whole(data, device):
    classes, averages, grid = mixed(data, device)
    component = Variety.start(grid, averages, torch.Generator().manual_seed(2)).component
    whole = sums_of(data, classes, averages, component, device).as_dict()
    first = sums_of(data, classes, averages, component, device, slice(0, 50))
    first.add_(sums_of(data, classes, averages, component, device, slice(50, None)))
    for name, value in whole.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(first.as_dict()[name], value, atol=1e-4 * scale, rtol=0)
    assert whole["count"].sum(0).tolist() == [120.0, 60.0]


def test_what_noise_adds_is_known(device):
    # particles that show their average and nothing else: in the mean the sum is its noise part
    data = synthetic(900, sigma=1.0, reach=1.0)
    grid = data.grid
    averages = grid.harmonics(grid.sample(data.averages.to(device)))
    component = 0.3 * (averages - averages.roll(1, 0))  # of the extent of a particle, as is noise
    sums = sums_of(data, data.classes.to(device), averages, component, device)
    expected = (sums.noise[:, :, None] * component).sum(0)
    share = inner(grid, expected, sums.num.sum(0)) / inner(grid, expected, expected)
    assert float(share.mean()) == pytest.approx(1.0, abs=0.25)


def test_it_is_what_it_was_after_saving(data, device):
    variety, _ = found(data, device, steps=2)
    other = Variety.of(variety.as_dict())
    for name, value in variety.as_dict().items():
        assert torch.equal(other.as_dict()[name], value)
        assert not value.is_complex()


def test_a_class_is_begun_anew(data, device):
    variety, averages = found(data, device, steps=4)
    first = torch.tensor([0], device=device)
    other = variety.forgotten(first, averages, torch.Generator().manual_seed(9))
    assert other.age.tolist() == [0.0, 4.0]
    assert float(other.strength[0]) == 0.0
    assert float(other.sums.count[:, 0].sum()) == 0.0
    assert torch.equal(other.component[1], variety.component[1])
    assert not torch.equal(other.component[0], variety.component[0])
    assert torch.equal(other.sums.num[:, 1], variety.sums.num[:, 1])
    known = variety.begun(first, averages[:1])
    assert torch.equal(known.component[:1], averages[:1])
