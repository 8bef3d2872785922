"""Preprocessed particles in half precision, in memory or read anew for every batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryo2d.types import CtfParams, ParticleBatch

Total = Callable[[Sequence[Tensor]], list[Tensor]]


def alone(values: Sequence[Tensor]) -> list[Tensor]:
    """The sum over one process: the values themselves."""
    return list(values)


class ParticleSource(ABC):
    """Polar Fourier samples of the particles of a process, and CTF of all particles of the run.

    Half precision costs an error of 0.06 % of the noise's standard deviation per score, far below
    the noise itself.

    Attributes:
        ctf: CTF parameters.
        optics: optics group ``[n]`` (int64).
        half: half-set ``[n]`` (int64).
        block: rows whose samples there are; None for all.
    """

    ctf: CtfParams
    optics: Tensor
    half: Tensor
    block: range | None

    def __len__(self) -> int:
        return len(self.half)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.half.device

    @abstractmethod
    def samples(self, rows: Tensor) -> Tensor:
        """Real and imaginary part of some particles ``[n a s 2]`` (float16), on the device."""

    def batch(self, rows: Tensor) -> ParticleBatch:
        """Some particles in single precision."""
        local = rows.to(self.device)
        return ParticleBatch(
            index=rows,
            rings=torch.view_as_complex(self.samples(rows).float()),
            ctf=self.ctf[local],
            optics=self.optics[local],
            half=self.half[local],
            scale=torch.ones(len(rows), device=self.device),
        )

    @property
    def rows(self) -> range:
        """Rows whose samples there are."""
        return range(len(self)) if self.block is None else self.block

    def mean_power(self, num_groups: int, most: int = 5000, total: Total = alone) -> Tensor:
        """Mean power on each ring ``[g s]`` of up to ``most`` evenly spaced particles.

        Args:
            num_groups: optics groups.
            most: particles to look at.
            total: sum over the processes that share the particles.
        """
        held = self.rows
        rows = torch.arange(0, len(self), max(1, len(self) // most))
        rows = rows[(rows >= held.start) & (rows < held.stop)]
        rings = self.samples(rows[:1]).shape[2]
        power = torch.zeros((num_groups, rings), device=self.device)
        count = torch.zeros(num_groups, device=self.device)
        for some in rows.split(512) if len(rows) else ():
            group = self.optics[some.to(self.device)]
            part = self.samples(some).float().square().sum(-1).mean(1)
            power.index_add_(0, group, part)
            count.index_add_(0, group, torch.ones_like(group, dtype=torch.float32))
        power, count = total([power, count])
        overall = power.sum(0) / count.sum()
        each = power / count.clamp(min=1)[:, None]
        return torch.where(count[:, None] > 0, each, overall)


@dataclass(frozen=True)
class ParticleCache(ParticleSource):
    """Particles in memory.

    Attributes:
        rings: real and imaginary part, of the block if there is one ``[n a s 2]`` (float16).
        ctf: CTF parameters.
        optics: optics group ``[n]`` (int64).
        half: half-set ``[n]`` (int64).
        block: rows whose samples there are; None for all.
    """

    rings: Tensor
    ctf: CtfParams
    optics: Tensor
    half: Tensor
    block: range | None = None

    def to(self, device: torch.device | str) -> "ParticleCache":
        """The same particles on another device."""
        return ParticleCache(
            self.rings.to(device),
            self.ctf.to(device),
            self.optics.to(device),
            self.half.to(device),
            self.block,
        )

    @property
    def nbytes(self) -> int:
        """Memory of the samples."""
        return self.rings.numel() * self.rings.element_size()

    def samples(self, rows: Tensor) -> Tensor:
        """Real and imaginary part of some particles ``[n a s 2]`` (float16)."""
        return self.rings[(rows - self.rows.start).to(self.device)]


@dataclass(frozen=True)
class ParticleStream(ParticleSource):
    """Particles that are read whenever they are asked for.

    Attributes:
        read: samples ``[n a s 2]`` (float16, CPU) of some rows ``[n]`` of the block.
        ctf: CTF parameters.
        optics: optics group ``[n]`` (int64).
        half: half-set ``[n]`` (int64).
        block: rows whose samples there are; None for all.
    """

    read: Callable[[np.ndarray], Tensor]
    ctf: CtfParams
    optics: Tensor
    half: Tensor
    block: range | None = None

    def samples(self, rows: Tensor) -> Tensor:
        """Real and imaginary part of some particles ``[n a s 2]`` (float16)."""
        return self.read((rows.cpu() - self.rows.start).numpy()).to(self.device)
