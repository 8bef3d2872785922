"""The dense search: every class at every rotation and shift, at coarse resolution.

With c_m(s) the circular harmonics of the weighted image and b_m(s) those of a reference shifted in
the class frame, the correlation at rotation psi is ``sum_m Re(exp(-i m psi) sum_s w conj(b) c)``:
one small matrix product per angular order, then one product with cosines and sines. Orders of one
parity only change sign under a half turn, so that half of the rotations come for free. The score
matrix is reduced class by class and never kept: to the best pose, and to how broad the likelihood
is, over shifts at their best rotations times over rotations at the best shift.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cryo2d.em.fine import parabola_peak
from cryo2d.em.logs import log_breadth_, raised_
from cryo2d.geometry.polar import PolarGrid, even_size
from cryo2d.geometry.transform import shift_phase


@dataclass(frozen=True)
class CoarseBest:
    """Best coarse pose of every class for every particle, all ``[n k]``.

    Attributes:
        cross: Re<CTF X / sigma^2, A> at that pose, less what its shift costs.
        psi: rotation image -> class (radian).
        between: the same, interpolated between the rotations that were searched (radian).
        shift: index of the class-frame shift.
        breadth: log of the likelihood summed over all poses, less that of the best, nearly.
    """

    cross: Tensor
    psi: Tensor
    between: Tensor
    shift: Tensor
    breadth: Tensor


# Blocks of even and of odd angular orders, real and imaginary ``[m 2s n]`` each.
ImageParts = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

PORTION = 512  # particles at a time, at most: more would gain nothing, and take memory
ORDERS = 16  # angular orders that share their rings
MARGIN = 4  # angular orders that an image has beyond the phase at its rim: J_m(z) falls fast there
UNSCORED = 1e-3  # part of the references' power that scores may lack


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


def product_type(device: torch.device) -> torch.dtype:
    """What the dense search multiplies: bfloat16 on a CPU that has instructions for it.

    Of the factors 8 bits of mantissa are left then, of the sums 24.
    """
    if device.type != "cpu":
        return torch.float32
    # older releases of torch cannot tell
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def take_images(images: ImageParts, rows: Tensor | slice) -> ImageParts:
    """The parts of some images."""
    even, odd = images
    return tuple(part[..., rows] for part in even), tuple(part[..., rows] for part in odd)


def in_blocks(images: ImageParts) -> list[ImageParts]:
    """The images as few at a time as suits the device."""
    first = images[0][0]
    if first.is_cuda:
        return [images]
    count = -(-first.shape[-1] // PORTION)
    even, odd = (
        zip(*(part.tensor_split(count, dim=-1) for part in parts), strict=True) for parts in images
    )
    return [
        (tuple(part.contiguous() for part in some), tuple(part.contiguous() for part in others))
        for some, others in zip(even, odd, strict=True)
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


@lru_cache(maxsize=2)
def _shifting(
    grid: PolarGrid, shifts: tuple[tuple[float, float], ...], orders: int, device: torch.device
) -> Tensor:
    """What shifts do to circular harmonics: a matrix of each ring ``[s 2m 2mt]``.

    It takes the real and the imaginary parts of the orders below ``orders`` to those at every
    shift, with the weights of an inner product.
    """
    unit = torch.zeros((orders, grid.num_angles, grid.num_rings), dtype=torch.complex64)
    unit[torch.arange(orders), torch.arange(orders)] = 1.0
    waves = grid.from_harmonics(torch.cat((unit, 1.0j * unit)).to(device))
    phase = shift_phase(grid, -torch.tensor(shifts, device=device))
    weight = grid.ring_weights * grid.harmonic_weights()[:orders, None]
    # one wave at a time: memory
    moved = [grid.harmonics(wave * phase)[:, :orders] * weight.to(device) for wave in waves]
    return torch.view_as_real(torch.stack(moved)).permute(3, 0, 2, 4, 1).flatten(2).contiguous()


class CoarseBank:
    """References prepared for the dense search: every class at every class-frame shift.

    Args:
        references: circular harmonics of the class averages ``[k m s]``, as many rings as ``grid``
            has and at least as many orders as are used.
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
        self._blocks = blocks_of(grid, extent)
        orders = self._blocks[-1].last
        operator = _shifting(grid, tuple(map(tuple, shifts.tolist())), orders, device)
        parts = torch.view_as_real(references[:, :orders] * band.to(device)).permute(2, 0, 3, 1)
        shifted = torch.bmm(parts.flatten(2), operator)
        self._shifted = shifted.view(grid.num_rings, self.num_classes, orders, 2, -1)  # [s k m 2 t]
        amplitude = torch.linalg.vector_norm(self._shifted.flatten(3), dim=-1)
        self._scored = self._blocks_with(amplitude.square().sum((0, 1)))
        self._product_type = product_type(device)
        self._banks: dict[torch.dtype, list[ImageParts]] = {}
        self.banks(self._product_type)
        turns = torch.arange(num_rotations, device=device) * (2.0 * math.pi / num_rotations)
        self.psi = offset + turns  # the second half of them is a half turn beyond the first
        angle = self.psi[: num_rotations // 2, None] * torch.arange(grid.num_angles, device=device)
        waves = torch.stack((angle.cos(), angle.sin()), dim=-1)  # [r m 2]
        self._waves = tuple(waves[:, p : self._blocks[-1].last : 2].flatten(1) for p in (0, 1))

    def _of_parity(self, parity: int, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
        """Even or odd orders of every class that are scored, by blocks ``[m 2t 2s]``."""
        banks = []
        for block in self._blocks[: self._scored]:
            part = self._shifted[block.ring :, :, block.first + parity : block.last : 2]
            part = part.permute(1, 2, 3, 0, 4)  # [k m 2 s t]
            both = part.new_empty((*part.shape[:4], 2, self.num_shifts), dtype=dtype)
            both[..., 0, :] = part
            both[:, :, 0, :, 1] = -part[:, :, 1]
            both[:, :, 1, :, 1] = part[:, :, 0]
            banks.append(both.flatten(4).flatten(2, 3).transpose(2, 3).unbind(0))
        return list(zip(*banks, strict=True))

    def _blocks_with(self, power: Tensor) -> int:
        """How many blocks hold all of the power of the orders ``[m]`` but a faint part."""
        beyond = torch.stack([power[block.first :].sum() for block in self._blocks])
        return max(1, int((beyond > UNSCORED * power.sum()).sum()))

    def banks(self, dtype: torch.dtype) -> list[ImageParts]:
        """Blocks of even and of odd orders that are scored, of every class ``[m 2t 2s]`` each."""
        if dtype not in self._banks:
            even, odd = (self._of_parity(parity, dtype) for parity in (0, 1))
            self._banks[dtype] = list(zip(even, odd, strict=True))
        return self._banks[dtype]

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

    def best(
        self, images: ImageParts, pull: Tensor | None = None, scale: Tensor | None = None
    ) -> CoarseBest:
        """Best rotation and shift of every class.

        Products are rounded (:func:`product_type`, :func:`rounded_products`): the best few are
        scored again.

        Args:
            images: parts of the images.
            pull: what a shift by one pixel costs, and one by t pixels t^2 times ``[n]``.
            scale: contrast scale, log likelihood over score ``[n]``; None for 1.
        """
        blocks, each = in_blocks(images), images[0][0][0, 0]
        pull = torch.zeros_like(each) if pull is None else pull
        scale = torch.ones_like(each) if scale is None else scale
        of_block = zip(blocks, *(x.tensor_split(len(blocks)) for x in (pull, scale)), strict=True)
        with rounded_products(each.device):
            found = [self._best_of_block(*block) for block in of_block]
        return CoarseBest(*(torch.cat(column) for column in zip(*found, strict=True)))

    def _best_of_block(self, images: ImageParts, pull: Tensor, scale: Tensor) -> list[Tensor]:
        """The columns of :class:`CoarseBest`, ``[n k]`` each."""
        room, num = _Room(self, images, self._product_type), images[0][0].shape[-1]
        cost = self.shift_cost(pull)
        even, odd = (
            room.keep.new_empty((self.num_classes, len(part), num)) for part in room.products
        )
        looked = [room.best(k, cost, scale, even[k], odd[k]) for k in range(self.num_classes)]
        shift, over_shifts = (torch.stack(column) for column in zip(*looked, strict=True))
        keep, change = (
            waves @ part.float() for waves, part in zip(room.waves, (even, odd), strict=True)
        )
        turned = torch.cat((keep + change, keep - change), dim=1)  # at every rotation
        cross, r = turned.max(dim=1, keepdim=True)
        near = (turned.gather(1, (r + step) % len(self.psi)) for step in (-1, 0, 1))
        offset, _ = parabola_peak(*near)
        psi, step = self.psi[r], 2.0 * math.pi / len(self.psi)
        breadth = over_shifts + log_breadth_(turned, cross, scale)
        cross = cross[:, 0] - cost.gather(0, shift)
        columns = cross, psi[:, 0], (psi + step * offset)[:, 0], shift, breadth
        return [column.T for column in columns]

    def shift_cost(self, pull: Tensor) -> Tensor:
        """What every shift costs ``[t n]``, if one by one pixel costs so much ``[n]`` or ``[]``."""
        return self.shifts.square().sum(1, keepdim=True) * pull

    def scores(self, images: ImageParts, k: int) -> Tensor:
        """Re<CTF X / sigma^2, A> of one class at every rotation and shift ``[r*t n]``."""
        room = _Room(self, images)
        room.score(k)
        keep, change = room.keep, room.change
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


class _Room:
    """Memory for the scores of some images, taken once for all classes.

    Args:
        bank: the references.
        images: the images.
        dtype: what is multiplied.

    Attributes:
        products: what the even and the odd orders of a class give at each shift ``[2m t*n]``.
        keep: part of the score that a half turn leaves as it is ``[r/2 t*n]``.
        change: part whose sign it changes.
        waves: cosines and sines of the even and of the odd orders ``[r/2 2m]``.
    """

    def __init__(
        self, bank: CoarseBank, images: ImageParts, dtype: torch.dtype = torch.float32
    ) -> None:
        scored = slice(bank._scored)
        self._banks, self._shifts = bank.banks(dtype), bank.num_shifts
        self._images = [[part.to(dtype) for part in parts[scored]] for parts in images]
        first, orders = self._images[0][0], [len(part) for part in self._images[0]]
        num = first.shape[-1]
        room = first.new_empty((2, sum(orders), 2 * bank.num_shifts, num))
        self._parts = [part.split(orders) for part in room]  # as many even as odd orders
        self.products = room.view(2, 2 * sum(orders), -1)
        self.waves = [waves[:, : self.products.shape[1]].contiguous() for waves in bank._waves]
        self.keep, self.change = first.new_empty((2, len(self.waves[0]), self.products.shape[2]))
        waves = [waves.to(dtype) for waves in self.waves]
        parts = self.keep, self.change
        self._parities = list(zip(waves, self.products, parts, strict=True))
        self._row = torch.arange(num, device=first.device)

    def score(self, k: int) -> None:
        """Both parts of the score of a class."""
        self._multiply(k)
        for waves, products, part in self._parities:
            torch.mm(waves, products, out=part)

    def _multiply(self, k: int) -> None:
        """Products of a class at every shift."""
        for parity in (0, 1):
            parts = self._banks[k][parity], self._images[parity], self._parts[parity]
            for part, image, product in zip(*parts, strict=True):
                torch.bmm(part, image, out=product)

    def best(
        self, k: int, cost: Tensor, scale: Tensor, even: Tensor, odd: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Index of the shift of the best pose, and breadth of the likelihood over shifts ``[n]``.

        The place of a maximum takes long to find, so that only that over shifts is found here.
        Nothing is left of the parts of the score: memory.

        Args:
            k: class.
            cost: what is subtracted from the scores at each shift ``[t n]``.
            scale: log likelihood over score ``[n]``.
            even: where to put the products of the even orders there ``[2m n]``.
            odd: those of the odd orders.
        """
        self._multiply(k)
        (waves, products, _), (turning, others, change) = self._parities
        torch.mm(turning, others, out=change)
        # the better of every two opposite rotations
        either = change.abs_().addmm_(waves, products)
        top = _largest(either).view(self._shifts, -1)
        top = top - cost
        most, shift = top.max(dim=0)
        place = shift * len(self._row) + self._row
        for found, products in ((even, self.products[0]), (odd, self.products[1])):
            torch.gather(products, 1, place.expand(len(products), -1), out=found)
        return shift, raised_(top.sub_(most).mul_(scale)).sum(0).log()


def _largest(scores: Tensor) -> Tensor:
    """Maximum over the rotations ``[r t*n]`` of scores of which one is positive."""
    if scores.dtype != torch.bfloat16:
        return scores.amax(0)
    # as integers positive numbers have the same order, and their maxima are found far sooner
    return scores.view(torch.int16).amax(0).view(torch.bfloat16)
