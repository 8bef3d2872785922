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


ImageParts = tuple[Tensor, Tensor]  # even and odd angular orders, real and imaginary [m 2s n]

BLOCK = 128  # images whose scores with one class stay in the caches of a CPU


def in_blocks(images: ImageParts) -> list[ImageParts]:
    """The images as few at a time as suits the device."""
    even, odd = images
    if even.is_cuda:
        return [images]
    blocks = zip(even.split(BLOCK, dim=-1), odd.split(BLOCK, dim=-1), strict=True)
    return [(first.contiguous(), second.contiguous()) for first, second in blocks]


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
        self.grid, self.shifts = grid, shifts.to(device)
        self.num_classes, self.num_shifts = len(references), len(shifts)
        weight = (grid.ring_weights * band).to(device) * grid.harmonic_weights().to(device)[:, None]
        moved = references[:, None] * shift_phase(grid, -self.shifts)
        bank = (grid.harmonics(moved) * weight).permute(2, 0, 1, 3)  # [m k t s]
        real = torch.cat((bank.real, bank.imag), dim=-1)
        imaginary = torch.cat((-bank.imag, bank.real), dim=-1)
        both = torch.stack((real, imaginary), dim=2)  # [m k 2 t 2s]
        self._banks = tuple(both[p::2].flatten(2, 3).contiguous() for p in (0, 1))
        turns = torch.arange(num_rotations, device=device) * (2.0 * math.pi / num_rotations)
        self.psi = offset + turns  # the second half of them is a half turn beyond the first
        angle = self.psi[: num_rotations // 2, None] * torch.arange(grid.num_angles, device=device)
        waves = torch.stack((angle.cos(), angle.sin()), dim=-1)  # [r m 2]
        self._waves = tuple(waves[:, p::2].flatten(1).contiguous() for p in (0, 1))

    def parts(self, harmonics: Tensor) -> ImageParts:
        """Images laid out for the matrix products.

        Args:
            harmonics: circular harmonics of CTF X / sigma^2 ``[n m s]``, at least as many orders
                and rings as the bank has.
        """
        part = harmonics[:, : self.grid.num_angles, : self.grid.num_rings]
        real = torch.cat((part.real, part.imag), dim=-1).permute(1, 2, 0)  # [m 2s n]
        return real[0::2].contiguous(), real[1::2].contiguous()

    def best(self, images: ImageParts) -> CoarseBest:
        """Best rotation and shift of every class."""
        found = [self._best_of_block(block) for block in in_blocks(images)]
        return CoarseBest(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _best_of_block(self, images: ImageParts) -> list[Tensor]:
        """Score, rotation and shift index of every class, ``[n k]`` each."""
        found = [self._best_of_class(images, k) for k in range(self.num_classes)]
        return [torch.stack(column, dim=1) for column in zip(*found, strict=True)]

    def _half_turn(self, images: ImageParts, k: int) -> tuple[Tensor, Tensor]:
        """Parts of the score that keep and change their sign under a half turn ``[r/2 t*n]``."""
        num = images[0].shape[-1]
        keep, change = (
            waves @ torch.bmm(bank[:, k], image).view(waves.shape[1], self.num_shifts * num)
            for bank, waves, image in zip(self._banks, self._waves, images, strict=True)
        )
        return keep, change

    def _best_of_class(self, images: ImageParts, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Maximum over rotation and shift: score, rotation, shift index, ``[n]`` each."""
        num = images[0].shape[-1]
        keep, change = self._half_turn(images, k)
        score = change.abs().add_(keep)
        # the place of a maximum takes far longer to find than its value: only in the best shift
        best, t = score.amax(dim=0).view(self.num_shifts, num).max(dim=0)
        column = t * num + torch.arange(num, device=t.device)
        r = score.index_select(1, column).max(dim=0).indices
        return best, self.psi[r] + math.pi * (change[r, column] < 0), t

    def scores(self, images: ImageParts, k: int) -> Tensor:
        """Re<CTF X / sigma^2, A> of one class at every rotation and shift ``[r*t n]``."""
        keep, change = self._half_turn(images, k)
        return torch.cat((keep + change, keep - change)).view(-1, images[0].shape[-1])

    def gather(self, images: ImageParts, weights: Tensor) -> Tensor:
        """Images taken into their class's frame at every rotation and shift, weighted and summed.

        The adjoint of :meth:`scores`, without ring weights.

        Args:
            images: parts of the images.
            weights: one for each pose ``[r*t n]``.

        Returns:
            Circular harmonics ``[m s]`` on the bank's grid.
        """
        num, rings = images[0].shape[-1], self.grid.num_rings
        first, second = weights.view(2, -1, self.num_shifts * num)
        columns = []
        for waves, image, turned in zip(
            self._waves, images, (first + second, first - second), strict=True
        ):
            mixed = (waves.T @ turned).view(len(image), 2 * self.num_shifts, num)  # [m 2t n]
            summed = torch.bmm(mixed, image.transpose(1, 2))  # [m 2t 2s]
            cosine, sine = summed.view(len(image), 2, self.num_shifts, 2, rings).unbind(1)
            real = cosine[:, :, 0] + sine[:, :, 1]
            columns.append(torch.complex(real, cosine[:, :, 1] - sine[:, :, 0]))
        moved = torch.stack(columns, dim=1).flatten(0, 1).transpose(0, 1).contiguous()  # [t m s]
        shifted = self.grid.from_harmonics(moved) * shift_phase(self.grid, self.shifts)
        return self.grid.harmonics(shifted.sum(0))
