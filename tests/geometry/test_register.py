"""Images find the pose that takes one into the other."""

import math

import numpy as np
import torch
from reference import picture, pictures

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.register import Registrar, inverse, through
from cryo2d.geometry.shells import ring_power

BOX = 32


def registrar(**settings) -> Registrar:
    return Registrar(PolarGrid(BOX, 12), **({"max_shift": 3.0} | settings))


def seen(which: int, psi: float, shift: tuple[float, float], mirror: bool = False) -> torch.Tensor:
    image = torch.from_numpy(picture(BOX, which, psi, shift)).float()
    if mirror:
        # about the centre BOX // 2: column 0 has no partner and is empty
        image = torch.cat([image[:, :1], image[:, 1:].flip(1)], dim=1)
    return image


def test_a_turned_and_shifted_copy_is_found():
    poses = [(0.3, (1.3, -0.6)), (2.9, (-2.0, 1.1)), (5.5, (0.2, 2.4))]
    images = torch.stack([seen(0, 0, (0, 0)), *(seen(0, p, t) for p, t in poses)])
    tool = registrar()
    described = tool.describe(images)
    start = tool.all_pairs(described)[0]
    assert (start.correlation > 0.97).all()
    fine = tool.refined(described[:1].expand_as(described), described, start)
    assert (fine.correlation > 0.997).all()
    assert (fine.correlation >= start.correlation - 1e-5).all()
    for i, (psi, shift) in enumerate(poses, start=1):
        turn = math.remainder(float(fine.psi[i]) - psi, 2 * math.pi)
        assert abs(turn) < 0.02
        np.testing.assert_allclose(fine.shift[i], shift, atol=0.2)
    assert not fine.mirrored.any()


def test_moving_an_image_makes_it_the_other():
    images = torch.stack([seen(1, 0, (0, 0)), seen(1, 1.0, (2.0, 1.0)), seen(1, 4.0, (0, 1), True)])
    tool = registrar()
    described = tool.describe(images)
    start = tool.all_pairs(described)[0]
    fine = tool.refined(described[:1].expand_as(described), described, start)
    assert fine.mirrored.tolist() == [False, False, True]
    moved = tool.moved(described, fine)
    weight = tool.grid.ring_weights
    error = ring_power(tool.grid, moved - described[:1]) @ weight
    assert (error < 0.02).all()


def test_a_mirror_image_is_alike_only_if_asked_for():
    images = torch.stack([seen(0, 0, (0, 0)), seen(0, 0.7, (1, 0), mirror=True)])
    with_mirror, without = (
        registrar(mirror=m).all_pairs(registrar().describe(images)).correlation[0, 1]
        for m in (True, False)
    )
    assert with_mirror > 0.97
    assert without < with_mirror - 0.05


def test_the_correlation_is_symmetric_and_1_with_itself():
    found = registrar().all_pairs(registrar().describe(pictures(BOX)))
    assert torch.allclose(found.correlation.diagonal(), torch.ones(4), atol=1e-4)
    assert torch.allclose(found.correlation, found.correlation.T, atol=0.02)
    off = found.correlation[~torch.eye(4, dtype=torch.bool)]
    assert (off < 0.95).all()


def test_pairs_are_registered_as_each_against_all():
    images = torch.stack([seen(k, 0.7 * k, (k, -1), mirror=k == 2) for k in range(4)])
    images = torch.cat([images, images + 0.2 * pictures(BOX)[[1, 2, 3, 0]]])
    tool = registrar()
    described = tool.describe(images)
    once, both = tool.all_pairs(described), tool.all_pairs(described, described)
    upper = torch.ones((8, 8), dtype=torch.bool).triu()
    for name in ("correlation", "psi", "shift", "mirrored"):
        one, other = getattr(once, name)[upper], getattr(both, name)[upper]
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(once.correlation, once.correlation.T)
    # the pose of the other order is as good, but for the steps of the grid
    back = [tool.moved(described[a : a + 1], once[b : b + 1, a]) for a, b in ((1, 6), (6, 1))]
    weight = tool.grid.harmonic_weights()[:, None] * tool.grid.ring_weights
    for moved, to, wanted in zip(back, (6, 1), once.correlation[[1, 6], [6, 1]], strict=True):
        found = ((described[to].conj() * moved[0]).real * weight).sum()
        assert abs(float(found - wanted)) < 0.03


def test_an_inverse_pose_takes_the_first_back():
    images = torch.stack([seen(0, 0.4, (1, 2)), seen(0, 2.0, (-1, 0.5), mirror=True)])
    tool = registrar()
    described = tool.describe(images)
    for other in (0, 1):
        near = tool.all_pairs(described[:1], described[other : other + 1])[0]
        pose = tool.refined(described[:1], described[other : other + 1], near)
        again = tool.moved(tool.moved(described[other : other + 1], pose), inverse(pose))
        scale = float(described.abs().max())
        torch.testing.assert_close(again, described[other : other + 1], atol=0.02 * scale, rtol=0)


def test_an_empty_image_is_like_nothing():
    images = torch.cat([pictures(BOX, 1), torch.zeros((1, BOX, BOX))])
    assert registrar().all_pairs(registrar().describe(images)).correlation[0, 1] == 0


def test_particles_follow_their_class():
    """The pose through a registered class is the composition of both steps."""
    class_psi, class_shift = 0.8, (1.5, -1.0)
    tool = registrar()
    for mirror in (False, True):
        described = tool.describe(
            torch.stack([seen(0, 0, (0, 0)), seen(0, class_psi, class_shift, mirror)])
        )
        pose = tool.refined(described[:1], described[1:], tool.all_pairs(described)[0, 1:])
        # a particle that shows the second image at (psi, shift)
        psi, shift = torch.tensor([2.1]), torch.tensor([[0.7, -0.4]])
        new_psi, new_shift = through(psi, shift, pose)
        turn = torch.linspace(-8, 8, 5)
        x = torch.cartesian_prod(turn, turn)
        rotate = lambda a, v: torch.stack(  # noqa: E731
            (a.cos() * v[:, 0] - a.sin() * v[:, 1], a.sin() * v[:, 0] + a.cos() * v[:, 1]), 1
        )
        flip = torch.tensor([-1.0, 1.0])
        in_class = rotate(psi, x + shift)
        moved = rotate(pose.psi, (in_class * flip if mirror else in_class) + pose.shift)
        expected = moved * flip if mirror else moved
        assert torch.allclose(rotate(new_psi, x + new_shift), expected, atol=1e-4)
