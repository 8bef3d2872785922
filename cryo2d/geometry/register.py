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
_PAIR_BYTES = 2e8


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
            others: of the second ones ``[j m s]``; None for the same.

        Returns:
            ``[k j]``.
        """
        others = harmonics if others is None else others
        shifts = self._shifts(self.max_shift, self.step).to(harmonics.device)
        turns = 2 * self.grid.num_angles
        per_image = len(shifts) * (2 * len(harmonics) * turns + 4 * harmonics[0].numel())
        block = max(1, int(_PAIR_BYTES / (8 * per_image)))
        columns = [
            self._best(harmonics, others[start : start + block], shifts, turns)
            for start in range(0, len(others), block)
        ]
        return _joined(columns, dim=1)

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
        weighted = first.conj() * self._weight.to(first.device)
        found: Registration | None = None
        for mirrored in (False, True) if (self.mirror if mirror is None else mirror) else (False,):
            seen = second.conj() if mirrored else second
            rings = self.grid.from_harmonics(seen)[:, None] * shift_phase(self.grid, shifts)
            moving = self.grid.harmonics(rings)  # [b t m s]
            cross = torch.einsum("ams,btms->abtm", weighted, moving)
            scores = torch.fft.fft(cross, n=turns, dim=-1).real.flatten(2)
            best, at = scores.max(-1)
            pose = Registration(
                best,
                (at % turns) * (2 * math.pi / turns),
                shifts[at // turns],
                torch.full_like(at, mirrored, dtype=torch.bool),
            )
            found = pose if found is None else _better(found, pose)
        assert found is not None
        return found


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
    wins = two.correlation > one.correlation
    return Registration(
        torch.where(wins, two.correlation, one.correlation),
        torch.where(wins, two.psi, one.psi),
        torch.where(wins[..., None], two.shift, one.shift),
        torch.where(wins, two.mirrored, one.mirrored),
    )


def _joined(parts: list[Registration], dim: int) -> Registration:
    return Registration(
        **{
            f.name: torch.cat([getattr(p, f.name) for p in parts], dim)
            for f in fields(Registration)
        }
    )
