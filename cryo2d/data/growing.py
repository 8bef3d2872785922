"""Particles that become more during a run: samples, metadata, and who was left out."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cryo2d.data.cache import ParticleCache
from cryo2d.data.optics import ctf_params
from cryo2d.data.sampler import half_sets
from cryo2d.io.merging import Key, merged, optics_keys
from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.types import CtfParams


class GrowingParticles:
    """Particles in the order in which they came.

    Args:
        source: what they are called together.
        seed: of the half-sets.
    """

    def __init__(self, source: str, seed: int) -> None:
        self.source, self.seed = source, seed
        self.cache: ParticleCache | None = None
        self._rings = torch.empty(0)
        self._tables: list[ParticleTable] = []
        self._excluded: list[Excluded] = []
        self._groups: dict[Key, int] = {}
        self._whole: tuple[ParticleTable, Excluded] | None = None

    def __len__(self) -> int:
        return 0 if self.cache is None else len(self.cache)

    @property
    def num_groups(self) -> int:
        """Optics groups there are."""
        return len(self._groups)

    def add(self, table: ParticleTable, samples: Tensor, device: torch.device) -> None:
        """Add particles.

        Args:
            table: the particles ``[n]``.
            samples: of each ``[n a s 2]`` (float16, CPU).
            device: where they go.
        """
        count, before = len(table), self.cache
        codes = [self._groups.setdefault(key, len(self._groups)) for key in optics_keys(table)]
        optics = torch.tensor(codes, dtype=torch.int64)[torch.from_numpy(table.optics).long()]
        # odd numbers of particles leave no half-set behind
        half = (half_sets(count, self.seed + len(self._tables)) + len(self)) % 2
        ctf = ctf_params(table.ctf, count).to(device)
        optics, half = optics.to(device), half.to(device)
        if before is not None:
            ctf = CtfParams(
                **{n: torch.cat([getattr(before.ctf, n), getattr(ctf, n)]) for n in vars(ctf)}
            )
            optics, half = torch.cat([before.optics, optics]), torch.cat([before.half, half])
        rings = self._room(len(self), samples, device)
        self.cache = ParticleCache(rings, ctf, optics, half)
        self._tables.append(table)
        self._whole = None

    def _room(self, used: int, samples: Tensor, device: torch.device) -> Tensor:
        """All samples; the memory doubles when it is full, so that adding takes no longer."""
        need = used + len(samples)
        if need > len(self._rings):
            size = max(need, 2 * used)
            bigger = torch.empty((size, *samples.shape[1:]), dtype=samples.dtype, device=device)
            if used:
                bigger[:used] = self._rings[:used]
            self._rings = bigger
        self._rings[used:need] = samples.to(device)
        return self._rings[:need]

    def leave_out(self, excluded: Sequence[Excluded]) -> None:
        """Remember particles that cannot be used."""
        self._excluded += excluded
        self._whole = None

    def tables(self) -> tuple[ParticleTable, Excluded]:
        """All particles, and those left out."""
        if self._whole is None:
            parts = [*self._tables, *(excluded.table for excluded in self._excluded)]
            whole = merged(parts, self.source)
            rows = np.arange(len(whole))
            reasons = tuple(reason for excluded in self._excluded for reason in excluded.reasons)
            out = Excluded(whole.take(rows[len(self) :]), reasons)
            self._whole = whole.take(rows[: len(self)]), out
        return self._whole
