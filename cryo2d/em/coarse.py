"""The dense search: every class at every rotation and shift, at coarse resolution.

With c_m(s) the circular harmonics of the weighted image and b_m(s) those of a reference shifted in
the class frame, the correlation at rotation psi is ``sum_m Re(exp(-i m psi) sum_s w conj(b) c)``:
one small matrix product per angular order, then one product with cosines and sines. Orders of one
parity only change sign under a half turn, so that half of the rotations come for free. The score
matrix is reduced class by class and never kept.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid, even_size
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


# Blocks of even and of odd angular orders, real and imaginary ``[m 2s n]`` each.
ImageParts = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

PORTION = 128  # particles whose work stays in the caches of a core
ORDERS = 8  # angular orders that share their rings
MARGIN = 4  # angular orders that an image has beyond the phase at its rim: J_m(z) falls fast there
FAINT = 1e-3  # part of the references' power that scores may lack


@contextmanager
def rounded_products(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 on the tensor cores of a GPU, which round their factors."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def take_images(images: ImageParts, rows: Tensor | slice) -> ImageParts:
    """The parts of some images."""
    even, odd = images
    return tuple(part[..., rows] for part in even), tuple(part[..., rows] for part in odd)


def in_blocks(images: ImageParts) -> list[ImageParts]:
    """The images as few at a time as suits the device."""
    first = images[0][0]
    if first.is_cuda:
        return [images]
    starts = range(0, first.shape[-1], PORTION)
    blocks = [take_images(images, slice(start, start + PORTION)) for start in starts]
    return [
        (tuple(part.contiguous() for part in even), tuple(part.contiguous() for part in odd))
        for even, odd in blocks
    ]


@dataclass(frozen=True)
class Block:
    """Angular orders ``first`` to ``last - 1``, which have no power inside ring ``ring``."""

    first: int
    last: int
    ring: int


def blocks_of(grid: PolarGrid, extent: float) -> list[Block]:
    """Where an image inside a disc of diameter ``extent`` (pixel) has power: all of its orders.

    At ring ``j`` the phase at the rim is ``z = pi j extent / box``. Orders beyond it hold hardly
    any power: they go with J_m(z), as a plane wave's do.
    """
    rim = math.pi * extent / grid.box
    count = min(grid.num_angles, even_size(rim * grid.num_rings + MARGIN, 2))
    blocks = []
    for first in range(0, count, ORDERS):
        # the first ring whose rim phase comes near the lowest order of the block
        ring = math.ceil((first - MARGIN) / rim) - 1
        ring = min(max(0, ring), grid.num_rings - 1)
        blocks.append(Block(first, min(first + ORDERS, count), ring))
    return blocks


class CoarseBank:
    """References prepared for the dense search: every class at every class-frame shift.

    Args:
        references: polar samples of the class averages ``[k a s]`` on ``grid``.
        grid: polar grid of the coarse rings.
        band: weight of each ring in the alignment ``[s]``, 0 or 1.
        shifts: class-frame shifts ``[t 2]`` (pixel).
        num_rotations: rotations of a full turn, a multiple of 4.
        offset: rotation of the whole angular grid (radian).
        extent: diameter of the disc that references fill (pixel).
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
        extent: float,
    ) -> None:
        device = references.device
        self.grid, self.shifts = grid, shifts.to(device)
        self.num_classes, self.num_shifts = len(references), len(shifts)
        weight = (grid.ring_weights * band).to(device) * grid.harmonic_weights().to(device)[:, None]
        phase = shift_phase(grid, -self.shifts)
        self._blocks = blocks_of(grid, extent)
        # one class at a time stays in the caches of a CPU
        shifted = (grid.harmonics(one * phase) * weight for one in references)
        banks, power = zip(*map(self._of_class, shifted), strict=True)
        self._banks = banks  # [k][parity][block][m 2t 2s]
        self._scored = self._blocks_with(torch.stack(power).sum(0))
        turns = torch.arange(num_rotations, device=device) * (2.0 * math.pi / num_rotations)
        self.psi = offset + turns  # the second half of them is a half turn beyond the first
        angle = self.psi[: num_rotations // 2, None] * torch.arange(grid.num_angles, device=device)
        waves = torch.stack((angle.cos(), angle.sin()), dim=-1)  # [r m 2]
        self._waves = tuple(waves[:, p : self._blocks[-1].last : 2].flatten(1) for p in (0, 1))

    def _of_class(self, shifted: Tensor) -> tuple[ImageParts, Tensor]:
        """One class at every shift ``[t m s]``, by blocks ``[m 2t 2s]``; power of its orders."""
        bank = torch.view_as_real(shifted.transpose(0, 1).contiguous())  # [m t s 2]
        even, odd = [], []
        for block in self._blocks:
            real, imag = bank[block.first : block.last, :, block.ring :].unbind(-1)
            first, second = torch.cat((real, imag), dim=-1), torch.cat((-imag, real), dim=-1)
            both = torch.cat((first, second), dim=1)
            even.append(both[0::2])
            odd.append(both[1::2])
        return (tuple(even), tuple(odd)), bank.square().sum((1, 2, 3))

    def _blocks_with(self, power: Tensor) -> int:
        """How many blocks hold all of the power of the orders ``[m]`` but a faint part."""
        beyond = torch.stack([power[block.first :].sum() for block in self._blocks])
        return max(1, int((beyond > FAINT * power.sum()).sum()))

    def parts(self, harmonics: Tensor) -> ImageParts:
        """Images laid out for the matrix products.

        Args:
            harmonics: circular harmonics of CTF X / sigma^2 ``[n m s]``, at least as many orders
                and rings as the bank has.
        """
        found: list[list[Tensor]] = [[], []]
        for block in self._blocks:
            part = harmonics[:, block.first : block.last, block.ring : self.grid.num_rings]
            real = torch.cat((part.real, part.imag), dim=-1).permute(1, 2, 0)  # [m 2s n]
            found[0].append(real[0::2].contiguous())
            found[1].append(real[1::2].contiguous())
        return tuple(found[0]), tuple(found[1])

    def best(self, images: ImageParts) -> CoarseBest:
        """Best rotation and shift of every class.

        The products of a GPU have 11 bits of mantissa: the best few are scored again.
        """
        with rounded_products(images[0][0].device):
            found = [self._best_of_block(block) for block in in_blocks(images)]
        return CoarseBest(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _best_of_block(self, images: ImageParts) -> list[Tensor]:
        """Score, rotation and shift index of every class, ``[n k]`` each."""
        found = [self._best_of_class(images, k) for k in range(self.num_classes)]
        return [torch.stack(column, dim=1) for column in zip(*found, strict=True)]

    def _half_turn(self, images: ImageParts, k: int) -> tuple[Tensor, Tensor]:
        """Parts of the score that keep and change their sign under a half turn ``[r/2 t*n]``."""
        keep, change = (
            self._turned(bank, waves, image)
            for bank, waves, image in zip(self._banks[k], self._waves, images, strict=True)
        )
        return keep, change

    def _turned(
        self, bank: tuple[Tensor, ...], waves: Tensor, images: tuple[Tensor, ...]
    ) -> Tensor:
        """Part of the score from the orders of one parity ``[r/2 t*n]``."""
        scored = slice(self._scored)
        orders, num = sum(len(image) for image in images[scored]), images[0].shape[-1]
        products = images[0].new_empty((orders, 2 * self.num_shifts, num))
        start = 0
        for part, image in zip(bank[scored], images[scored], strict=True):
            torch.bmm(part, image, out=products[start : start + len(image)])
            start += len(image)
        return waves[:, : 2 * orders] @ products.view(2 * orders, -1)

    def _best_of_class(self, images: ImageParts, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Maximum over rotation and shift: score, rotation, shift index, ``[n]`` each."""
        num = images[0][0].shape[-1]
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
        return torch.cat((keep + change, keep - change)).view(-1, images[0][0].shape[-1])

    def gather(self, images: ImageParts, weights: Tensor) -> Tensor:
        """Images taken into their class's frame at every rotation and shift, weighted and summed.

        The adjoint of :meth:`scores`, without ring weights.

        Args:
            images: parts of the images.
            weights: one for each pose ``[r*t n]``.

        Returns:
            Circular harmonics ``[m s]`` on the bank's grid.
        """
        num, grid = images[0][0].shape[-1], self.grid
        first, second = weights.view(2, -1, self.num_shifts * num)
        moved = torch.zeros(
            (self.num_shifts, grid.num_angles, grid.num_rings),
            dtype=torch.complex64,
            device=weights.device,
        )
        for parity, turned in enumerate((first + second, first - second)):
            mixed = (self._waves[parity].T @ turned).view(-1, 2 * self.num_shifts, num)  # [m 2t n]
            start = 0
            for block, image in zip(self._blocks, images[parity], strict=True):
                part = mixed[start : start + len(image)]
                start += len(image)
                summed = torch.bmm(part, image.transpose(1, 2))  # [m 2t 2s]
                shape = (len(image), 2, self.num_shifts, 2, -1)
                cosine, sine = summed.view(shape).unbind(1)
                real, imag = cosine[:, :, 0] + sine[:, :, 1], cosine[:, :, 1] - sine[:, :, 0]
                place = moved[:, block.first + parity : block.last : 2, block.ring :]
                place.copy_(torch.complex(real, imag).transpose(0, 1))
        shifted = grid.from_harmonics(moved) * shift_phase(grid, self.shifts)
        return grid.harmonics(shifted.sum(0))
