import math

import numpy as np
import pytest
import torch
from reference import plane_sum, seen
from synthetic import Synthetic, angle_between, synthetic

from cryo2d.em import fine
from cryo2d.em.fine import FineBank, LocalGrid, Poses, effective_number, parabola_peak
from cryo2d.geometry.transform import rotate_vector

TURN, STEP = 0.2, 1.5


def bank_of(data: Synthetic, device: torch.device, **settings) -> FineBank:
    references = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    band = torch.ones(data.grid.num_rings)
    return FineBank(
        references, data.grid, **({"band": band, "local": local(data, device)} | settings)
    )


def local(data: Synthetic, device: torch.device, steps: int = 4) -> LocalGrid:
    """At least half a coarse step and half a sample of the circle to either side."""
    return LocalGrid.covering(TURN, STEP, steps, data.grid, device)


def disturbed(data: Synthetic, device: torch.device, seed: int = 1) -> Poses:
    """The true poses, off by up to 0.4 steps, sorted by class."""
    generator = torch.Generator().manual_seed(seed)
    true = data.poses(torch.device("cpu"))
    off = 0.8 * torch.rand((len(true.psi), 3), generator=generator) - 0.4
    # the shift grid lies in the frame of the class
    shift = true.shift + rotate_vector(STEP * off[:, 1:], -true.psi)
    poses = Poses(true.particle, true.classes, true.psi + TURN * off[:, 0], shift)
    poses = poses[poses.classes.argsort(stable=True)]
    return Poses(*(value.to(device) for value in vars(poses).values()))


def sorted_truth(data: Synthetic, poses: Poses) -> tuple[torch.Tensor, torch.Tensor]:
    row = poses.particle.cpu()
    return data.psi[row], data.shift[row]


@pytest.mark.parametrize(("box", "rings"), [(32, 12), (33, 14)])
def test_it_finds_the_pose_between_the_grid_points(box, rings, device):
    data = synthetic(12, box=box, rings=rings, sigma=0.0)
    poses = disturbed(data, device)
    images = data.weighted(device)
    bank = bank_of(data, device)
    found = bank.refine(images.image, poses, images.scale).poses
    psi, shift = sorted_truth(data, poses)
    assert float(angle_between(found.psi.cpu(), psi).max()) < 0.3 * bank.local.turn
    assert float((found.shift.cpu() - shift).norm(dim=1).max()) < 0.12 * STEP
    torch.testing.assert_close(found.particle, poses.particle)
    torch.testing.assert_close(found.classes, poses.classes)


def test_the_score_is_the_cross_term_at_the_pose_found(device):
    data = synthetic(9, sigma=0.2)
    poses = disturbed(data, device)
    images = data.weighted(device)
    found = bank_of(data, device).refine(images.image, poses, images.scale)
    averages = data.averages.numpy()
    for i in range(9):
        one = found.poses[i : i + 1]
        model = seen(averages[int(one.classes)], float(one.psi), one.shift[0].tolist(), data.grid)
        image = images.image[int(one.particle)].cpu().numpy()
        expected = plane_sum((image.conj() * model).real)
        assert float(found.cross[i]) == pytest.approx(expected, rel=0.03)


def test_the_score_does_not_fall(device):
    data = synthetic(12, sigma=0.5)
    images, bank = data.weighted(device), bank_of(data, device)
    poses = disturbed(data, device)
    first = bank.refine(images.image, poses, images.scale)
    second = bank.refine(images.image, first.poses, images.scale)
    assert bool((second.cross >= first.cross - 1e-2 * first.cross.abs()).all())


def test_rings_outside_the_band_do_not_count(device):
    data = synthetic(6, sigma=0.2)
    images, poses = data.weighted(device), disturbed(data, device)
    band = (torch.arange(12) >= 3).float() * (torch.arange(12) < 9).float()
    bank = bank_of(data, device, band=band)
    clean = bank.refine(images.image, poses, images.scale)
    spoiled = images.image + 100.0 * (1.0 - band).to(device)
    found = bank.refine(spoiled, poses, images.scale)
    torch.testing.assert_close(found.cross, clean.cross, rtol=1e-3, atol=1e-2)


def test_angles_that_share_their_phases_change_little(device, monkeypatch):
    data = synthetic(6, box=64, rings=30, sigma=0.2)
    images, bank = data.weighted(device), bank_of(data, device)
    assert bank._together > 1
    together = bank.refine(images.image, disturbed(data, device), images.scale)
    monkeypatch.setattr(fine, "SAME", 0.0)
    apart = bank_of(data, device)
    assert apart._together == 1
    alone = apart.refine(images.image, disturbed(data, device), images.scale)
    torch.testing.assert_close(together.cross, alone.cross, rtol=2e-3, atol=1e-2)


def test_a_snapped_pose_shifts_the_same_way_in_the_frame_of_the_class(device):
    data = synthetic(9, sigma=0.2)
    poses, bank = disturbed(data, device), bank_of(data, device)
    found = bank.snapped(poses)
    step = math.pi / data.grid.num_angles
    assert float((found.psi / step - (found.psi / step).round()).abs().max()) < 1e-4
    assert float(angle_between(found.psi, poses.psi).max()) <= 0.501 * step
    torch.testing.assert_close(
        rotate_vector(found.shift, found.psi), rotate_vector(poses.shift, poses.psi)
    )


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_effective_numbers_between_one_and_the_grid(steps, device):
    data = synthetic(6, sigma=0.2)
    images, poses = data.weighted(device), disturbed(data, device)
    bank = bank_of(data, device, local=local(data, device, steps))
    hot = bank.refine(images.image, poses, images.scale, temperature=1e9)
    cold = bank.refine(images.image, poses, images.scale, temperature=1e-6)
    all_rotations = torch.full((6,), steps + 1.0, device=device)
    torch.testing.assert_close(hot.pose_ess, all_rotations, rtol=1e-3, atol=0)
    torch.testing.assert_close(hot.shift_ess, all_rotations**2, rtol=1e-3, atol=0)
    torch.testing.assert_close(cold.pose_ess, torch.ones(6, device=device), atol=0.05, rtol=0)
    torch.testing.assert_close(cold.shift_ess, torch.ones(6, device=device), atol=0.05, rtol=0)
    torch.testing.assert_close(hot.cross, cold.cross)


def test_a_class_without_poses_is_skipped(device):
    data = synthetic(9, sigma=0.2)
    images, poses = data.weighted(device), disturbed(data, device)
    bank = bank_of(data, device)
    whole = bank.refine(images.image, poses, images.scale)
    kept = (poses.classes != 1).nonzero()[:, 0]
    part = bank.refine(images.image, poses[kept], images.scale)
    torch.testing.assert_close(part.cross, whole.cross[kept], rtol=1e-4, atol=1e-3)


def test_peak_of_a_parabola(device):
    place = torch.tensor([-0.45, 0.0, 0.3], device=device)
    before, centre, after = (5.0 - 2.0 * (x - place) ** 2 for x in (-1.0, 0.0, 1.0))
    offset, gain = parabola_peak(before, centre, after)
    torch.testing.assert_close(offset, place, atol=1e-5, rtol=0)
    torch.testing.assert_close(centre + gain, torch.full_like(gain, 5.0))
    # at the border of the grid the peak may lie outside: a step at most; a plain stays
    offset, gain = parabola_peak(*(torch.tensor([v], device=device) for v in (0.0, 1.0, 1.9)))
    assert float(offset) == 1.0
    offset, gain = parabola_peak(*(torch.ones(1, device=device) for _ in range(3)))
    assert float(offset) == 0.0
    assert float(gain) == 0.0


def test_effective_number(device):
    logs = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]], device=device)
    found = effective_number(logs).cpu().numpy()
    np.testing.assert_allclose(found, [4.0, 1.0], rtol=1e-5)
    torch.testing.assert_close(effective_number(logs + 123.0), effective_number(logs))
