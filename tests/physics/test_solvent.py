import pytest
import torch
from reference import pictures

from cryo2d.physics.mask import radius_grid
from cryo2d.physics.solvent import BITS, SolventMask, gaussian, grow, packed, unpacked

BOX = 48


def mask(**changes) -> SolventMask:
    return SolventMask(**({"box": BOX, "inner": 19.0, "outer": 23.0} | changes))


def blob(x: float, y: float, width: float, device: torch.device) -> torch.Tensor:
    axis = torch.arange(BOX, device=device) - BOX // 2
    return torch.exp(-((axis - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * width**2))


def test_blur_keeps_the_sum_and_widens_a_blob(device):
    image = blob(3.0, -2.0, 2.0, device)[None]
    found = gaussian(image, 1.5)
    expected = blob(3.0, -2.0, 2.5, device)[None] * (2.0 / 2.5) ** 2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.sum(), image.sum())


def test_growth_stays_in_its_region_and_reaches_all_of_it(device):
    region = torch.zeros((1, 9, 9), dtype=torch.bool, device=device)
    region[0, 1, 1:6] = region[0, 1:6, 5] = True  # a bent line
    region[0, 6, 6] = True  # goes on diagonally
    region[0, 8, 8] = True  # not even diagonally connected
    seed = torch.zeros_like(region)
    seed[0, 1, 1] = seed[0, 4, 2] = True  # the second is outside
    expected = region.clone()
    expected[0, 8, 8] = False
    assert torch.equal(grow(seed, region), expected)
    assert not bool(grow(torch.zeros_like(region), region).any())


@pytest.mark.parametrize("count", [1, BITS, BITS + 2, 2 * BITS])
def test_packed_regions_grow_like_single_ones(count, device):
    generator = torch.Generator().manual_seed(count)
    region = (torch.rand((count, 20, 20), generator=generator) < 0.4).to(device)
    seed = (torch.rand((count, 20, 20), generator=generator) < 0.02).to(device)
    assert torch.equal(unpacked(packed(region), count), region)
    together = grow(packed(seed), packed(region))
    assert len(together) == -(-count // BITS)
    assert torch.equal(unpacked(together, count), grow(seed, region))


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_particle_alone_keeps_the_circle(neighbours, device):
    averages = pictures(BOX).to(device)
    found = mask(neighbours=neighbours).masks(averages)
    circle = mask().circle.to(device).expand_as(found)
    torch.testing.assert_close(found, circle, atol=1e-3, rtol=0)


def test_a_hollow_particle_is_kept(device):
    radius = radius_grid(BOX).to(device)
    for size in (9.0, 12.0, 15.0):
        ring = torch.exp(-((radius - size) ** 2) / (2 * 2.0**2))[None]
        kept = float((ring * mask().masks(ring)).sum() / (ring * mask().circle.to(device)).sum())
        assert kept > 0.99


def test_a_neighbour_is_masked_and_the_particle_is_not(device):
    particle, neighbour = blob(0.0, 0.0, 4.0, device), blob(17.0, 8.0, 3.0, device)
    found = mask().masks((particle + neighbour)[None])[0]
    circle = mask().circle.to(device)
    assert float((neighbour * found).sum() / (neighbour * circle).sum()) < 0.2
    assert float((particle * found).sum() / (particle * circle).sum()) > 0.99
    without = mask(neighbours=False).masks((particle + neighbour)[None])[0]
    torch.testing.assert_close(without, circle)


def ball(x: float, y: float, device: torch.device) -> torch.Tensor:
    """The projection of a solid ball of radius 9."""
    axis = torch.arange(BOX, device=device) - BOX // 2
    return (81.0 - (axis - x) ** 2 - (axis[:, None] - y) ** 2).clamp(min=0.0).sqrt() / 9.0


def test_faint_neighbours_all_around_are_masked(device):
    particle = ball(0.0, 0.0, device)
    angles = torch.arange(6) * torch.pi / 3
    around = sum(ball(21.0 * float(a.cos()), 21.0 * float(a.sin()), device) for a in angles)
    images = torch.stack([particle + height * around for height in (0.25, 0.9)])
    found = mask().flatten(images, mask().masks(images))
    radius = radius_grid(BOX).to(device)
    outside = (radius > 14.0).expand_as(found)
    assert float(found[outside].max()) < 0.16
    inside = radius < 9.0
    torch.testing.assert_close(found[:, inside], images[:, inside], atol=0.1, rtol=0)


def test_a_neighbour_is_masked_although_it_touches_the_particle(device):
    particle, neighbour = ball(0.0, 0.0, device), ball(21.0, 0.0, device)
    bridge = 0.8 * blob(10.5, 0.0, 0.9, device)
    found = mask().masks((particle + neighbour + bridge)[None])[0]
    centre = BOX // 2
    assert float(found[centre, centre + 15 :].max()) < 0.2
    assert float((particle * found).sum() / particle.sum()) > 0.98


def test_solvent_becomes_zero_whatever_its_level(device):
    averages = pictures(BOX).to(device)
    solvent = mask()
    masks = solvent.masks(averages)
    base = solvent.flatten(averages, masks)
    for offset in (-3.0, 0.5, 100.0):
        level = solvent.level(averages + offset, masks)
        torch.testing.assert_close(
            level - offset, solvent.level(averages, masks), atol=1e-3, rtol=0
        )
        moved = solvent.flatten(averages + offset, solvent.masks(averages + offset))
        torch.testing.assert_close(moved, base, atol=2e-3, rtol=0)
    assert float(base[:, mask().circle.to(device) == 0].abs().max()) == 0.0


def test_a_neighbour_does_not_change_the_solvent_level(device):
    particle, neighbour = blob(0.0, 0.0, 4.0, device), blob(17.0, 8.0, 3.0, device)
    averages = torch.stack((particle, particle + 3.0 * neighbour)) + 0.7
    level = mask().level(averages, mask().masks(averages))
    torch.testing.assert_close(level, torch.full((2,), 0.7, device=device), atol=0.03, rtol=0)


def test_blank_averages_stay_blank(device):
    blank = torch.zeros((2, BOX, BOX), device=device)
    found = mask().flatten(blank, mask().masks(blank))
    assert float(found.abs().max()) == 0.0


def test_a_loose_part_inside_is_kept_and_a_neighbour_from_outside_is_not(device):
    particle = blob(0.0, 0.0, 2.0, device)
    images = [particle + blob(x, 0.0, 2.0, device) for x in (11.0, 20.0)]
    loose, neighbour = mask().masks(torch.stack(images))
    assert torch.equal(loose, mask().circle.to(device))
    centre = BOX // 2
    assert float(neighbour[centre, centre + 20]) < 0.2 * float(loose[centre, centre + 20])
    assert float(neighbour[centre, centre]) > 0.99
