"""What varies most among the members of each class: one principal component, found online.

A class that holds two views has members on both sides of its average. With z_i the particle's
CTF X / sigma^2 in the frame of its class and t_i the ring means of CTF^2 / sigma^2, a member is
z_i = t_i (A + s_i D) + noise of variance t_i. Expectation-maximisation of this model (Tipping &
Bishop 1999) is

    s_i = <z_i - t_i A, D> / (1 + <t_i D, D>),    D = sum s_i (z_i - t_i A) / sum s_i^2 t_i,

one power iteration a step, with sums as additive as those of the averages. What noise alone adds
to a sum, t_i D / (1 + <t_i D, D>), is known. What is left of it in one half-set agrees with what is
left in the other only if the members differ by more than noise.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from cryo2d.em.fine import Poses
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.image import adjoint, images_at_once
from cryo2d.physics.preprocess import WeightedImages

LENGTH = 4.0  # squared length <t D, D> of a component, for a particle of mean transfer
MEMORY = 58.0  # particles per class that the sums of earlier iterations count as
_FLOOR = 0.05  # least weight of a ring, as a part of the class's best ring
_START = 0.3  # amplitude of a component that is not known yet, as a part of the average's


@dataclass(frozen=True)
class VarietySums:
    """Sums over the members of each class, at their best poses.

    Attributes:
        num: sum s (z - t A) ``[h k m s]`` complex.
        noise: what noise adds to ``num``, as a multiple of D ``[h k s]``.
        den: sum s^2 t ``[h k s]``.
        transfer: sum t ``[h k s]``.
        count: members ``[h k]``.
    """

    num: Tensor
    noise: Tensor
    den: Tensor
    transfer: Tensor
    count: Tensor

    @classmethod
    def zeros(cls, grid: PolarGrid, num_classes: int, device: torch.device | str = "cpu") -> Self:
        """Sums over no particle."""
        shape, rings = (2, num_classes), grid.num_rings
        num = torch.zeros((*shape, grid.num_angles, rings), dtype=torch.complex64, device=device)
        noise, den, transfer = torch.zeros((3, *shape, rings), device=device)
        return cls(num, noise, den, transfer, torch.zeros(shape, device=device))

    def as_dict(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def add_(self, other: Self) -> None:
        """Add the sums over other particles, in place."""
        theirs = other.as_dict()
        for name, value in self.as_dict().items():
            value += theirs[name]

    def blend(self, other: Self, gamma: Tensor) -> Self:
        """(1 - gamma) self + gamma other."""
        mine, theirs = self.as_dict(), other.as_dict()
        return type(self)(**{n: torch.lerp(mine[n], theirs[n], gamma) for n in mine})

    def without(self, classes: Tensor) -> Self:
        """The same with some classes empty."""
        kept = torch.ones_like(self.count[0])
        kept[classes] = 0.0
        own = {n: v * kept.view(-1, *[1] * (v.ndim - 2)) for n, v in self.as_dict().items()}
        return type(self)(**own)


@dataclass(frozen=True)
class Variety:
    """What varies most in each class.

    Attributes:
        component: D ``[k m s]``.
        sums: running sums.
        strength: squared ratio of the members' variance along D, beyond the noise's, to the
            noise's; by the agreement of the half-sets, so that it may be negative ``[k]``.
        age: iterations since the component was begun ``[k]``.
    """

    component: Tensor
    sums: VarietySums
    strength: Tensor
    age: Tensor

    @classmethod
    def start(cls, grid: PolarGrid, references: Tensor, generator: torch.Generator) -> Self:
        """Unknown components of the averages ``[k m s]``."""
        count, device = len(references), references.device
        none = torch.zeros(count, device=device)
        sums = VarietySums.zeros(grid, count, device)
        return cls(_unknown(references, generator), sums, none, none.clone())

    def renewed(self, sums: VarietySums, grid: PolarGrid, references: Tensor) -> Self:
        """One power iteration with the sums of an iteration; averages ``[k m s]``."""
        new = sums.count.sum()
        sums = self.sums.blend(sums, new / (new + MEMORY * len(self.age)))
        transfer = sums.transfer.sum(0)
        mean = transfer / sums.count.sum(0).clamp(min=1e-20)[:, None]
        area = _area(grid, mean.device) * mean[:, None]

        def inner(first: Tensor, second: Tensor) -> Tensor:
            return ((first.conj() * second).real * area).sum((-2, -1))

        def apart(part: Tensor) -> Tensor:
            # contrast varies from particle to particle: no variety of what they show
            own = inner(references, part) / inner(references, references).clamp(min=1e-20)
            return part - references * own[:, None, None]

        found = apart(sums.num.sum(0) / _floored(sums.den.sum(0)))
        length = inner(found, found)[:, None, None]
        known = length > 0
        found = torch.where(known, found * (LENGTH / length.clamp(min=1e-20)).sqrt(), 0.0)
        left = sums.num - sums.noise[:, :, None] * self.component
        first, second = (apart(half / _floored(0.5 * transfer)) for half in left)
        return replace(
            self,
            component=torch.where(known, found, self.component),
            sums=sums,
            strength=inner(first, second) / LENGTH,
            age=self.age + 1.0,
        )

    def begun(self, classes: Tensor, component: Tensor) -> Self:
        """The same with new components ``[j m s]`` of some classes ``[j]``."""
        strength, age, whole = self.strength.clone(), self.age.clone(), self.component.clone()
        strength[classes], age[classes], whole[classes] = 0.0, 0.0, component
        return replace(
            self, component=whole, sums=self.sums.without(classes), strength=strength, age=age
        )

    def forgotten(self, classes: Tensor, references: Tensor, generator: torch.Generator) -> Self:
        """The same with the components of some classes ``[j]`` unknown."""
        return self.begun(classes, _unknown(references[classes], generator))

    def as_dict(self) -> dict[str, Tensor]:
        """Everything as real tensors, by name."""
        sums = self.sums.as_dict()
        return {
            "component": torch.view_as_real(self.component),
            "strength": self.strength,
            "age": self.age,
            **sums,
            "num": torch.view_as_real(self.sums.num),
        }

    @classmethod
    def of(cls, held: dict[str, Tensor]) -> Self:
        """From what :meth:`as_dict` gave."""
        sums = {f.name: held[f.name] for f in fields(VarietySums)}
        sums["num"] = torch.view_as_complex(held["num"])
        component = torch.view_as_complex(held["component"])
        return cls(component, VarietySums(**sums), held["strength"], held["age"])


def add_variety(
    sums: VarietySums,
    grid: PolarGrid,
    images: WeightedImages,
    poses: Poses,
    references: Tensor,
    component: Tensor,
    taken: Tensor | None = None,
) -> None:
    """Add particles, each at its best pose, in place.

    Args:
        sums: to add to.
        grid: the rings that are looked at.
        images: weighted particles.
        poses: best pose of every particle, in their order.
        references: averages ``[k m s]``.
        component: D ``[k m s]``.
        taken: the particles in the frames of their classes, circular harmonics ``[n m s]`` with
            these rings or more; None if they are not known yet.
    """
    chunk, rings = images_at_once(images.image.device), grid.num_rings
    area = _area(grid, component.device)
    power = (component.abs().square() * area).sum(-2)  # [k s]
    weighted = torch.view_as_real(component * area).flatten(1)
    if taken is None:
        taken = adjoint(grid, images.image[:, :, :rings], poses.psi, poses.shift)
    num = torch.view_as_real(sums.num).flatten(0, 1).flatten(1)
    noise, den = sums.noise.flatten(0, 1), sums.den.flatten(0, 1)
    transfers, count = sums.transfer.flatten(0, 1), sums.count.flatten()
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        pose, transfer = poses[rows], images.transfer[rows, :rings]
        expected = (images.scale[rows, None] * transfer)[:, None] * references[pose.classes]
        left = taken[rows, :, :rings] - expected
        length = 1.0 + (transfer * power[pose.classes]).sum(1, keepdim=True)
        parts = torch.view_as_real(left).flatten(1)
        along = (parts * weighted[pose.classes]).sum(1, keepdim=True) / length
        slot = images.half[rows] * sums.num.shape[1] + pose.classes
        num.index_add_(0, slot, parts * along)
        noise.index_add_(0, slot, transfer / length)
        den.index_add_(0, slot, transfer * along.square())
        transfers.index_add_(0, slot, transfer)
        count.index_add_(0, slot, torch.ones_like(along[:, 0]))


def _area(grid: PolarGrid, device: torch.device) -> Tensor:
    """Weights of the inner product of harmonics ``[m s]``."""
    return grid.harmonic_weights().to(device)[:, None] * grid.ring_weights.to(device)


def _floored(weight: Tensor) -> Tensor:
    """Weights ``[k s]`` that something may be divided by ``[k 1 s]``."""
    return (weight + _FLOOR * weight.amax(-1, keepdim=True)).clamp(min=1e-20)[:, None]


def _unknown(references: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the falloff of the averages ``[k m s]``."""
    noise = torch.view_as_complex(torch.randn((*references.shape, 2), generator=generator))
    amplitude = references.abs().square().mean(1, keepdim=True).sqrt()
    return _START * amplitude * noise.to(references.device)
