"""The solvent round a particle in class averages: its level, and neighbours that lie in it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cryo2d.physics.mask import circular_mask, radius_grid

STRIDE = 8  # steps of growth between two looks whether it has ended
_SOLVENT = 0.25  # quantile of the rim that is taken for solvent where neighbours are looked for
Bits = TypeVar("Bits", Tensor, np.ndarray)
BITS = 63  # regions that are worked on as the bits of one integer


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Images ``[k y x]`` blurred by a Gaussian of standard deviation ``sigma`` (pixel)."""
    box = images.shape[-1]
    fy = torch.fft.fftfreq(box, device=images.device)[:, None]
    fx = torch.fft.rfftfreq(box, device=images.device)
    falloff = torch.exp(-2.0 * (math.pi * sigma) ** 2 * (fx**2 + fy**2))
    return torch.fft.irfft2(torch.fft.rfft2(images) * falloff, s=(box, box))


def packed(regions: Tensor) -> Tensor:
    """Regions ``[k y x]`` (bool) as the bits of integers, ``BITS`` of them in each ``[j y x]``."""
    missing = -len(regions) % BITS
    whole = torch.cat((regions, regions.new_zeros((missing, *regions.shape[1:]))))
    bit = 1 << torch.arange(BITS, device=regions.device)[:, None, None]
    return torch.where(whole.unflatten(0, (-1, BITS)), bit, 0).sum(1)


def unpacked(bits: Tensor, count: int) -> Tensor:
    """The first regions ``[k y x]`` (bool) of what :func:`packed` made."""
    bit = torch.arange(BITS, device=bits.device)[:, None, None]
    return (bits[:, None] >> bit & 1).bool().flatten(0, 1)[:count]


def quick(bits: Tensor) -> Any:
    """Packed regions as what does small operations soonest: an array of numpy's on a CPU."""
    return bits.numpy() if bits.device.type == "cpu" else bits


def grow(seed: Bits, region: Bits) -> Bits:
    """The parts of a region that are connected with a seed, 8-connected.

    Args:
        seed: where to start ``[k y x]`` (bool, or packed).
        region: where to stay, likewise.
    """
    reached = seed & region
    box = region.shape[-1]
    for step in range(0, box, STRIDE):  # a particle's outline is no longer than its box
        before = reached
        for _ in range(min(STRIDE, box - step)):
            reached = widened(reached) & region
        if bool((reached == before).all()):
            break
    return reached


def widened(region: Bits, steps: int = 1) -> Bits:
    """A region ``[k y x]`` (bool, or packed) and so many pixels around it, 8-connected."""
    for _ in range(steps):
        wide = region | region
        wide[..., 1:] |= region[..., :-1]
        wide[..., :-1] |= region[..., 1:]
        region = wide | wide
        region[:, 1:] |= wide[:, :-1]
        region[:, :-1] |= wide[:, 1:]
    return region


def anywhere(bits: Bits) -> Bits:
    """Packed regions that have any pixel ``[j 1 1]``, as bits."""
    found = bits.reshape(len(bits), -1)
    while found.shape[1] > 1:
        half = -(-found.shape[1] // 2)
        rest = found[:, half:]
        found = found[:, :half] | found[:, :half]
        found[:, : rest.shape[1]] |= rest
    return found[:, :, None]


def narrowed(region: Bits, steps: int = 1) -> Bits:
    """A region ``[k y x]`` (bool, or packed) without so many pixels at its edge, 8-connected."""
    return ~widened(~region, steps)


@dataclass(frozen=True)
class SolventMask:
    """Soft masks of class averages: a circle, less the neighbours inside it.

    Outside the particle an average is set to the level of its solvent, which becomes zero. The
    particle is what is bright in the low-passed average and holds together with the central disc,
    by more than thin bridges. What is bright outside it and touches the rim belongs to neighbours;
    they and a margin are masked, too. Near the rim they may be faint, as they are out of register.

    Args:
        box: image size (pixel).
        inner: radius where the circle starts to fall (pixel).
        outer: radius where it reaches 0 (pixel).
        neighbours: whether to mask neighbours.
        core: radius of the central disc, as a part of ``outer``.
        threshold: the particle exceeds this part of the way from the solvent to the maximum.
        faint: neighbours near the rim exceed this part of it.
        edge: radius where that begins, as a part of ``inner``.
    """

    box: int
    inner: float
    outer: float
    neighbours: bool = True
    core: float = 0.35
    threshold: float = 0.3
    faint: float = 0.15
    edge: float = 0.8

    @property
    def circle(self) -> Tensor:
        """The circle alone ``[y x]``."""
        return circular_mask(self.box, self.inner, self.outer)

    @property
    def _smooth(self) -> float:
        return max(1.0, self.outer / 15.0)

    @property
    def _margin(self) -> int:
        return math.ceil(self._smooth)

    def masks(self, averages: Tensor) -> Tensor:
        """Masks ``[k y x]`` in 0..1 for unmasked averages ``[k y x]``."""
        circle = self.circle.to(averages.device)
        if not self.neighbours:
            return circle.expand_as(averages)
        radius = radius_grid(self.box).to(averages.device)
        inside, core = radius <= self.outer, radius <= self.core * self.outer
        low = gaussian(averages, self._smooth)
        # between neighbours there is little solvent
        around = low.flatten(1)[:, self._rim.to(low.device)]
        level = around.kthvalue(math.ceil(_SOLVENT * around.shape[1]), dim=1).values[:, None, None]
        peak = torch.where(core, low, -torch.inf).amax((1, 2))[:, None, None]
        height = torch.where(inside & (peak > level), (low - level) / (peak - level), 0.0)
        bright = quick(packed(height > self.threshold))
        particle = self._particle(bright, quick(-core.long()))
        near = widened(particle, 1 + self._margin)
        edge = quick(packed((height > self.faint) & (radius > self.edge * self.inner)))
        # what does not come in from outside is a loose part of the particle, not a neighbour
        rim = quick(-(radius >= 0.9 * self.outer).long())
        other = widened(grow(rim, (bright & ~particle) | (edge & ~near)), self._margin)
        apart = unpacked(torch.as_tensor(other & ~particle), len(low)).to(low)
        return circle * (1.0 - gaussian(apart, 0.5 * self._smooth).clamp(0.0, 1.0))

    def _particle(self, bright: Bits, core: Bits) -> Bits:
        """What of bright regions is the particle, packed: what holds together with the core."""
        whole = grow(core, bright)
        thin = int(self._smooth)
        part = narrowed(whole, thin)
        part = widened(grow(core, part), thin) & whole
        # a thin shell has no such part
        return part | (whole & ~anywhere(part))

    @cached_property
    def _rim(self) -> Tensor:
        """Pixels over which the solvent level is taken ``[p]``."""
        radius = radius_grid(self.box)
        rim = (radius >= 0.85 * self.inner) & (radius <= self.outer)
        return rim.flatten().nonzero()[:, 0]

    def level(self, averages: Tensor, masks: Tensor) -> Tensor:
        """Solvent level ``[k]``: median over the rim of the circle, where nothing is masked."""
        rim = self._rim.to(averages.device)
        # a neighbour's mask is well below the circle's own value
        least = 0.95 * self.circle.to(averages.device).flatten()[rim]
        free = masks.flatten(1).index_select(1, rim) >= least
        values = averages.flatten(1).index_select(1, rim).where(free, torch.nan)
        return values.nanmedian(dim=1).values.nan_to_num(0.0)

    def flatten(self, averages: Tensor, masks: Tensor) -> Tensor:
        """Averages ``[k y x]`` with solvent level 0, masked."""
        return (averages - self.level(averages, masks)[:, None, None]) * masks
