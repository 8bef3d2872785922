"""Lightning's view of the particles: read once, then batches from memory."""

import logging
from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch

from cryo2d.data.cache import ParticleCache
from cryo2d.data.optics import ctf_params
from cryo2d.data.outcome import extended
from cryo2d.data.reader import iterate
from cryo2d.data.sampler import VisitPlan, half_sets
from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.types import GivenPoses, ParticleBatch

log = logging.getLogger(__name__)


class BatchStream:
    """The batches of one iteration.

    Args:
        cache: all particles.
        rows: particles of the iteration ``[n]``.
        size: particles of a batch.
    """

    def __init__(self, cache: ParticleCache, rows: torch.Tensor, size: int) -> None:
        self.cache, self.rows, self.size = cache, rows, size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[ParticleBatch]:
        for start in range(0, len(self.rows), self.size):
            yield self.cache.batch(self.rows[start : start + self.size])


class Particles(pl.LightningDataModule):
    """Reads, checks and preprocesses particles once, and serves the batches of each iteration.

    Args:
        table: particles to read.
        excluded: particles already known to be unusable.
        preprocessor: raw boxes -> polar samples.
        seed: of half-sets.
        device: where preprocessing runs and, if it fits, the particles stay.
        threads: reading threads.
        int8_signed: meaning of MRC mode 0.
        memory_fraction: part of the device's free memory the particles may take.
    """

    def __init__(
        self,
        table: ParticleTable,
        excluded: Excluded,
        preprocessor: Preprocessor,
        *,
        seed: int,
        device: torch.device,
        threads: int,
        int8_signed: bool = True,
        memory_fraction: float = 0.8,
    ) -> None:
        super().__init__()
        self.table, self.excluded = table, excluded
        self.preprocessor, self.device, self.threads = preprocessor, device, threads
        self.int8_signed, self.memory_fraction = int8_signed, memory_fraction
        self.seed = seed
        self.plan: VisitPlan | None = None
        self.cache: ParticleCache | None = None

    @property
    def grid(self) -> PolarGrid:
        """Polar grid of the particles."""
        return self.preprocessor.grid

    @property
    def given_poses(self) -> GivenPoses | None:
        """Poses that the usable particles came with (float32, CPU); None if they have none."""
        poses = self.table.poses
        if poses is None:
            return None
        psi, shift = torch.from_numpy(poses.psi), torch.from_numpy(poses.shift)
        return GivenPoses(psi.float(), shift.float())

    @property
    def given_classes(self) -> torch.Tensor | None:
        """Classes that the usable particles came with, 0-based ``[n]`` (int64, CPU), or None."""
        found = self.table.alignment
        if found is None or found.class_index is None:
            return None
        return torch.from_numpy(found.class_index)

    @property
    def batch_size(self) -> int:
        """Particles handled at once: what keeps the local search within its share of memory."""
        per_particle = self.grid.num_angles * self.grid.num_rings * 8 * 16
        memory = 6e8
        if self.device.type == "cuda":
            memory = 0.1 * torch.cuda.mem_get_info(self.device)[0]
        return int(min(8192, max(32, memory / per_particle)))

    def read(self) -> ParticleCache:
        """Read every particle into memory; unusable ones move to ``excluded``.

        Raises:
            InputError: if no particle is usable.
            EnvironmentFault: if they do not fit into memory.
        """
        if self.cache is not None:
            return self.cache
        grid, count = self.grid, len(self.table)
        shape = (count, grid.num_angles, grid.num_rings, 2)
        try:
            rings = torch.empty(shape, dtype=torch.float16)
        except RuntimeError as error:
            gigabytes = 4e-9 * count * grid.num_angles * grid.num_rings
            raise EnvironmentFault(
                f"{count} particles need {gigabytes:.1f} GB of memory; raise model.max_resolution "
                "or set data.max_particles"
            ) from error
        reasons: dict[int, str] = {}
        for rows, images, bad in iterate(
            self.table, threads=self.threads, int8_signed=self.int8_signed
        ):
            reasons.update(bad)
            if not len(rows):
                continue
            stack = torch.from_numpy(images).to(self.device)
            with torch.no_grad():
                samples = torch.view_as_real(self.preprocessor(stack)).half().cpu()
            rings[torch.from_numpy(rows)] = samples
        self._set_aside(reasons)
        if reasons:
            kept = np.setdiff1d(np.arange(count), np.fromiter(reasons, dtype=np.int64))
            rings = rings[torch.from_numpy(kept)]
        self.cache = self._placed(rings)
        return self.cache

    def _set_aside(self, reasons: dict[int, str]) -> None:
        """Move unreadable particles from the table to the excluded ones."""
        if not reasons:
            return
        bad = np.array(sorted(reasons))
        if len(bad) == len(self.table):
            first = reasons[int(bad[0])]
            raise InputError(
                [Problem(self.table.source, first, "images", "check the stacks", count=len(bad))]
            )
        log.warning("%d particles cannot be used; excluded.star says why.", len(bad))
        kept = np.setdiff1d(np.arange(len(self.table)), bad)
        self.excluded = extended(
            self.excluded, self.table.take(bad), [reasons[int(row)] for row in bad]
        )
        self.table = self.table.take(kept)

    def _placed(self, rings: torch.Tensor) -> ParticleCache:
        count = len(rings)
        cache = ParticleCache(
            rings=rings,
            ctf=ctf_params(self.table.ctf, count),
            optics=torch.from_numpy(self.table.optics.astype(np.int64)),
            half=half_sets(count, self.seed),
        )
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            if cache.nbytes < self.memory_fraction * free:
                return cache.to(self.device)
        return cache

    def train_dataloader(self) -> BatchStream:
        """Batches of the iteration about to run."""
        assert self.cache is not None
        assert self.plan is not None
        assert self.trainer is not None
        rows = self.plan.rows(self.trainer.current_epoch)
        return BatchStream(self.cache, rows, self.batch_size)
