"""Images brought into register with each other: rotation, shift and mirror of every pair.

A pose takes the second image into the frame of the first, ``y = R(psi) (x + t)`` as in
:mod:`cryo2d.geometry.transform`; if mirrored, after its columns were turned over. A mirror makes
the circular harmonics complex conjugate, a rotation multiplies order m by ``exp(-i m psi)``: the
correlation at all rotations is one Fourier transform over m.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotate_vector, rotation_phase, shift_phase

FINE_STEPS = 4  # in a step of the shift grid
FINE_TURNS = 8  # in a step of the rotation grid
_PAIR_BYTES = 5e7


@dataclass(frozen=True)
class Registration:
    """The best poses of pairs of images, ``[...]`` each but ``shift`` ``[... 2]``.

    Attributes:
        correlation: normalised, -1 to 1.
        psi: rotation second -> first (radian).
        shift: shift before the rotation (pixel).
        mirrored: whether the second image was mirrored first.
    """

    correlation: Tensor
    psi: Tensor
    shift: Tensor
    mirrored: Tensor

    def __getitem__(self, at: object) -> "Registration":
        return Registration(**{f.name: getattr(self, f.name)[at] for f in fields(self)})


@dataclass(frozen=True)
class Registrar:
    """Registers images on a polar grid.

    Args:
        grid: rings that are compared.
        max_shift: longest shift (pixel).
        mirror: whether mirror images count as alike.
        step: of the shift grid (pixel).
    """

    grid: PolarGrid
    max_shift: float
    mirror: bool = True
    step: float = 1.0

    def describe(self, images: Tensor) -> Tensor:
        """Circular harmonics ``[k m s]`` of unit power; 0 for an image without contrast."""
        return self.normalised(self.grid.harmonics(self.grid.sample(images)))

    def normalised(self, harmonics: Tensor) -> Tensor:
        """Harmonics ``[k m s]`` scaled to unit power."""
        power = (harmonics.abs() ** 2 * self._weight.to(harmonics.device)).sum((-2, -1))
        length = power.sqrt()[:, None, None]
        return torch.where(length > 0, harmonics / length.clamp(min=1e-20), 0.0)

    def all_pairs(self, harmonics: Tensor, others: Tensor | None = None) -> Registration:
        """Poses of all pairs: row, the first image; column, the second, which moves.

        Args:
            harmonics: of the first images ``[k m s]``.
            others: of the second ones ``[j m s]``; None for the same, of which each pair is
                registered once: the pose of the other order is its inverse.

        Returns:
            ``[k j]``.
        """
        second = harmonics if others is None else others
        shifts = self._shifts(self.max_shift, self.step).to(harmonics.device)
        turns = 2 * self.grid.num_angles
        per_pair = 8 * len(shifts) * (turns + 2 * harmonics.shape[1])
        wide = max(1, int(_PAIR_BYTES / (per_pair * len(harmonics))))
        columns = []
        for start in range(0, len(second), wide):
            part = second[start : start + wide]
            high = len(harmonics) if others is not None else start + len(part)
            columns.append(self._best(harmonics[:high], part, shifts, turns))
        if others is not None:
            return _joined(columns, dim=1)
        found = _joined([_with_rows(part, len(harmonics)) for part in columns], dim=1)
        lower = torch.ones_like(found.mirrored).tril(-1)
        return _where(lower, _transposed(inverse(found)), found)

    def refined(self, first: Tensor, second: Tensor, start: Registration) -> Registration:
        """Poses of given pairs ``[k]``, below the steps of the grid.

        Args:
            first: harmonics ``[k m s]``.
            second: harmonics of the images that move ``[k m s]``.
            start: their poses on the grid.
        """
        near = self._shifts(self.step, self.step / FINE_STEPS).to(first.device)
        turns = 2 * FINE_TURNS * self.grid.num_angles
        seen = torch.where(start.mirrored[:, None, None], second.conj(), second)
        parts = []
        for one, two, pose in zip(first, seen, range(len(first)), strict=True):
            shifts = start.shift[pose] + near
            found = self._best(one[None], two[None], shifts, turns, mirror=False)
            parts.append(found[:, 0])
        found = _joined(parts, dim=0)
        return Registration(found.correlation, found.psi, found.shift, start.mirrored)

    def moved(self, harmonics: Tensor, pose: Registration) -> Tensor:
        """Images ``[k m s]`` taken through their poses ``[k]``."""
        seen = torch.where(pose.mirrored[:, None, None], harmonics.conj(), harmonics)
        rings = self.grid.from_harmonics(seen) * shift_phase(self.grid, pose.shift)
        return self.grid.harmonics(rings) * rotation_phase(pose.psi, self.grid.num_angles)

    @property
    def _weight(self) -> Tensor:
        """Weights of the inner product ``[m s]``."""
        return self.grid.harmonic_weights()[:, None] * self.grid.ring_weights

    def _shifts(self, reach: float, step: float) -> Tensor:
        """Shifts ``[t 2]`` within a circle (pixel)."""
        steps = math.floor(reach / step + 1e-6)
        axis = torch.arange(-steps, steps + 1) * step
        pairs = torch.cartesian_prod(axis, axis)
        return pairs[pairs.norm(dim=1) <= reach + 1e-6]

    def _best(
        self,
        first: Tensor,
        second: Tensor,
        shifts: Tensor,
        turns: int,
        mirror: bool | None = None,
    ) -> Registration:
        """The best pose of every pair ``[a b]``."""
        weighted = _by_parity(first * self._weight.to(first.device), dim=1).movedim(1, 0)
        # rows for the real and for the imaginary part of the product with the conjugate
        left = torch.view_as_real(torch.cat((weighted, 1j * weighted), dim=1)).flatten(2)
        found: Registration | None = None
        for mirrored in (False, True) if (self.mirror if mirror is None else mirror) else (False,):
            seen = second.conj() if mirrored else second
            rings = self.grid.from_harmonics(seen)[:, None] * shift_phase(self.grid, shifts)
            moving = _by_parity(self.grid.harmonics(rings), dim=2).movedim(2, 0)
            right = torch.view_as_real(moving).flatten(3)  # [m b t 2s]
            cross = torch.bmm(left, right.flatten(1, 2).mT)  # [m 2a bt]
            cross = cross.unflatten(2, right.shape[1:3]).unflatten(1, (2, len(first)))
            best, psi, at = _best_turn(cross, turns)
            mirrors = torch.full_like(at, mirrored, dtype=torch.bool)
            pose = Registration(best, psi, shifts[at], mirrors)
            found = pose if found is None else _better(pose, found)
        assert found is not None
        return found


def _by_parity(harmonics: Tensor, dim: int) -> Tensor:
    """The even angular orders, then the odd ones."""
    orders = torch.arange(harmonics.shape[dim], device=harmonics.device)
    return harmonics.index_select(dim, torch.cat((orders[0::2], orders[1::2])))


def _best_turn(cross: Tensor, turns: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of ``turns`` rotations and of all shifts.

    With the even angular orders E(psi) and the odd ones O(psi) = -O(psi + pi) of the correlation,
    the better of psi and psi + pi has E + |O|.

    Args:
        cross: correlation by angular order, the even ones first, real and imaginary part
            ``[m 2 a b t]``.
        turns: rotations of the full circle, even.

    Returns:
        Correlation, rotation (radian) and number of the shift, ``[a b]`` each.
    """
    half, device = len(cross) // 2, cross.device
    psi = 2.0 * math.pi / turns * torch.arange(turns // 2, device=device)
    bases = [psi[:, None] * torch.arange(first, 2 * half, 2, device=device) for first in (0, 1)]
    bases = [torch.stack((angle.cos(), angle.sin()), dim=-1).flatten(1) for angle in bases]

    def parts(some: Tensor) -> list[Tensor]:
        """Even and odd orders at the rotations ``[j ...]``."""
        orders = (some[:half], some[half:])
        return [
            torch.mm(basis, part.flatten(0, 1).flatten(1)).unflatten(1, some.shape[2:])
            for basis, part in zip(bases, orders, strict=True)
        ]

    even, odd = parts(cross)
    best, shift = odd.abs_().add_(even).amax(0).max(-1)
    even, odd = parts(cross.take_along_dim(shift[None, None, :, :, None], dim=-1)[..., 0])
    turn = (even + odd.abs()).argmax(0)
    opposite = odd.take_along_dim(turn[None], dim=0)[0] < 0
    return best, psi[turn] + torch.where(opposite, math.pi, 0.0), shift


def inverse(pose: Registration) -> Registration:
    """The poses that take the first images into the frames of the second.

    ``x = R(-psi) y - t``: the shift before the rotation is ``-R(psi) t``. With M the mirror,
    ``x = M R(-psi) (y - R(psi) t) = R(psi) (M y - M R(psi) t)``.
    """
    psi = torch.where(pose.mirrored, pose.psi, -pose.psi)
    shift = -rotate_vector(pose.shift, pose.psi)
    sign = torch.where(pose.mirrored, -1.0, 1.0).to(shift)
    shift = shift * torch.stack((sign, torch.ones_like(sign)), dim=-1)
    return Registration(pose.correlation, psi, shift, pose.mirrored)


def through(psi: Tensor, shift: Tensor, pose: Registration) -> tuple[Tensor, Tensor]:
    """Poses of particles after their classes were registered.

    A class that moves by (alpha, tau) gives ``R(alpha) (R(psi) (x + t) + tau)``, so the new pose is
    ``psi + alpha`` and ``t + R(-psi) tau``. No pose mirrors a particle: what was mirrored by M is
    brought into the mirror image of the frame, M R(alpha) (M y + tau) = R(-alpha) (y + M tau).

    Args:
        psi: of the particles ``[n]`` (radian).
        shift: of the particles ``[n 2]``, in the unit of the classes' shifts.
        pose: of the class of each particle ``[n]``.
    """
    sign = torch.where(pose.mirrored, -1.0, 1.0).to(psi)
    tau = pose.shift.to(shift) * torch.stack((sign, torch.ones_like(sign)), dim=-1)
    return psi + sign * pose.psi.to(psi), shift + rotate_vector(tau, -psi)


def _better(one: Registration, two: Registration) -> Registration:
    return _where(one.correlation > two.correlation, one, two)


def _where(at: Tensor, one: Registration, two: Registration) -> Registration:
    """The poses of the first where ``at`` is true."""
    return Registration(
        torch.where(at, one.correlation, two.correlation),
        torch.where(at, one.psi, two.psi),
        torch.where(at[..., None], one.shift, two.shift),
        torch.where(at, one.mirrored, two.mirrored),
    )


def _with_rows(pose: Registration, count: int) -> Registration:
    """Poses of pairs ``[a b]`` with further rows, that say nothing, up to ``count``."""
    values = (getattr(pose, f.name) for f in fields(pose))
    return Registration(
        *(torch.cat((v, v.new_zeros((count - len(v), *v.shape[1:])))) for v in values)
    )


def _transposed(pose: Registration) -> Registration:
    """Poses of pairs ``[a b]`` as ``[b a]``."""
    return Registration(*(getattr(pose, f.name).transpose(0, 1) for f in fields(pose)))


def _joined(parts: list[Registration], dim: int) -> Registration:
    return Registration(
        **{
            f.name: torch.cat([getattr(p, f.name) for p in parts], dim)
            for f in fields(Registration)
        }
    )
