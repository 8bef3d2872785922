"""The dense search: every class at every rotation and shift, at coarse resolution.

With c_m(s) the circular harmonics of the weighted image and b_m(s) those of a reference shifted in
the class frame, the correlation at rotation psi is ``sum_m Re(exp(-i m psi) sum_s w conj(b) c)``:
one small matrix product per angular order, then one product with cosines and sines. Orders of one
parity only change sign under a half turn, so that half of the rotations come for free. The score
matrix is reduced class by class and never kept.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import shift_phase


@dataclass(frozen=True)
class CoarseBest:
    """Best coarse pose of every class for every particle, all ``[n k]``.

    Attributes:
        cross: Re<CTF X / sigma^2, A> at that pose.
        psi: rotation image -> class (radian).
        shift: index of the class-frame shift.
    """

    cross: Tensor
    psi: Tensor
    shift: Tensor


class CoarseBank:
    """References prepared for the dense search: every class at every class-frame shift.

    Args:
        references: polar samples of the class averages ``[k a s]`` on ``grid``.
        grid: polar grid of the coarse rings.
        band: weight of each ring in the alignment ``[s]``, 0 or 1.
        shifts: class-frame shifts ``[t 2]`` (pixel).
        num_rotations: rotations of a full turn, a multiple of 4.
        offset: rotation of the whole angular grid (radian).
    """

    def __init__(
        self,
        references: Tensor,
        grid: PolarGrid,
        *,
        band: Tensor,
        shifts: Tensor,
        num_rotations: int,
        offset: float,
    ) -> None:
        device = references.device
        self.num_orders, self.num_rings = grid.num_angles, grid.num_rings
        self.num_classes, self.num_shifts = len(references), len(shifts)
        weight = (grid.ring_weights * band).to(device) * grid.harmonic_weights().to(device)[:, None]
        moved = references[:, None] * shift_phase(grid, -shifts)
        bank = (grid.harmonics(moved) * weight).permute(2, 0, 1, 3)  # [m k t s]
        real = torch.cat((bank.real, bank.imag), dim=-1)
        imaginary = torch.cat((-bank.imag, bank.real), dim=-1)
        both = torch.stack((real, imaginary), dim=2)  # [m k 2 t 2s]
        self._banks = tuple(both[p::2].flatten(2, 3).contiguous() for p in (0, 1))
        self.psi = offset + torch.arange(num_rotations // 2, device=device) * (
            2.0 * math.pi / num_rotations
        )
        angle = self.psi[:, None] * torch.arange(grid.num_angles, device=device)
        waves = torch.stack((angle.cos(), angle.sin()), dim=-1)  # [r m 2]
        self._waves = tuple(waves[:, p::2].flatten(1).contiguous() for p in (0, 1))

    def best(self, harmonics: Tensor) -> CoarseBest:
        """Best rotation and shift of every class.

        Args:
            harmonics: circular harmonics of CTF X / sigma^2 ``[n m s]``, at least as many orders
                and rings as the bank has.
        """
        part = harmonics[:, : self.num_orders, : self.num_rings]
        real = torch.cat((part.real, part.imag), dim=-1).permute(1, 2, 0)  # [m 2s n]
        images = tuple(real[p::2].contiguous() for p in (0, 1))
        found = [self._best_of_class(images, k) for k in range(self.num_classes)]
        cross, psi, shift = (torch.stack(column, dim=1) for column in zip(*found, strict=True))
        return CoarseBest(cross, psi, shift)

    def _best_of_class(self, images: tuple[Tensor, ...], k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Maximum over rotation and shift: score, rotation, shift index, ``[n]`` each."""
        num = images[0].shape[-1]
        parts = []
        for bank, waves, image in zip(self._banks, self._waves, images, strict=True):
            product = torch.bmm(bank[:, k], image)  # [m 2t n]
            parts.append(waves @ product.view(waves.shape[1], self.num_shifts * num))
        keep, change = parts  # [r t*n]: parts that keep and change sign under a half turn
        over_rotation, rotation = (keep + change.abs()).max(dim=0)
        best, t = over_rotation.view(self.num_shifts, num).max(dim=0)
        column = t * num + torch.arange(num, device=t.device)
        r = rotation[column]
        return best, self.psi[r] + math.pi * (change[r, column] < 0), t
