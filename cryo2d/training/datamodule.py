"""Lightning's view of the particles: read once, then the batches of every iteration."""

import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytorch_lightning as pl
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from cryo2d.data.cache import ParticleCache, ParticleSource, ParticleStream
from cryo2d.data.optics import ctf_params
from cryo2d.data.outcome import extended
from cryo2d.data.prepared import PreparedParticles
from cryo2d.data.sampler import Shares, VisitPlan, half_sets
from cryo2d.data.store import Filled, InMemory, Store
from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.checks import refuse_many
from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.training.ranks import ALONE, Ranks
from cryo2d.types import GivenPoses, ParticleBatch

log = logging.getLogger(__name__)


class BatchStream:
    """The batches of one iteration.

    Particles that are not in memory are read ahead, one batch while the one before is computed.

    Args:
        cache: the particles.
        rows: particles of the iteration ``[n]``.
        size: particles of a batch.
        least: number of batches, if it is more than those with particles; the rest are empty.
    """

    def __init__(
        self, cache: ParticleSource, rows: torch.Tensor, size: int, least: int = 0
    ) -> None:
        self.cache, self.rows, self.size, self.least = cache, rows, size, least

    def __len__(self) -> int:
        return max(self.least, -(-len(self.rows) // self.size))

    def __iter__(self) -> Iterator[ParticleBatch]:
        parts = [self.rows[i * self.size : (i + 1) * self.size] for i in range(len(self))]
        if isinstance(self.cache, ParticleCache):
            yield from map(self.cache.batch, parts)
            return
        ahead: Future[ParticleBatch] | None = None
        with ThreadPoolExecutor(1) as reader:
            for part in parts:
                ready, ahead = ahead, reader.submit(self.cache.batch, part)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()


def batch_size_of(grid: PolarGrid, device: torch.device) -> int:
    """Particles handled at once: what keeps the local search within its share of memory."""
    per_particle = grid.num_angles * grid.num_rings * 8 * 16
    memory = 6e8
    if device.type == "cuda":
        memory = 0.1 * torch.cuda.mem_get_info(device)[0]
    return int(min(8192, max(32, memory / per_particle)))


class Particles(pl.LightningDataModule):
    """Reads, checks and preprocesses particles once, and serves the batches of each iteration.

    Args:
        table: particles to read.
        excluded: particles already known to be unusable.
        preprocessor: raw boxes -> polar samples.
        seed: of half-sets.
        device: where preprocessing runs and, if it fits, the particles stay.
        threads: reading threads.
        store: where the particles are kept.
        int8_signed: meaning of MRC mode 0.
        memory_fraction: part of a GPU's free memory the particles may take.
        max_bad_fraction: part of the particles that may be unusable.
        ranks: the processes that share the particles; each reads a block of them.
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
        store: Store | None = None,
        int8_signed: bool = True,
        memory_fraction: float = 0.8,
        max_bad_fraction: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.table, self.excluded = table, excluded
        self.max_bad_fraction = max_bad_fraction
        self.ranks, self.shares = ranks, Shares.even(len(table), ranks.size)
        self.preprocessor, self.device, self.threads = preprocessor, device, threads
        self.int8_signed, self.memory_fraction = int8_signed, memory_fraction
        self.seed = seed
        self.store = InMemory(memory_fraction) if store is None else store
        self.plan: VisitPlan | None = None
        self.cache: ParticleSource | None = None
        self._size: int | None = None

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
        return self._size or batch_size_of(self.grid, self.device)

    def read(self) -> ParticleSource:
        """Read every particle, or find them in the store; unusable ones move to ``excluded``.

        Raises:
            InputError: if no particle is usable, or too many are not.
            EnvironmentFault: if they do not fit into memory or onto the disk.
        """
        if self.cache is not None:
            return self.cache
        block = self.shares.block(self.ranks.rank)
        table = self.table
        if self.ranks.size > 1:
            table = table.take(np.arange(block.start, block.stop))
        particles = PreparedParticles(
            table, self.preprocessor, self.threads, self.int8_signed, self.device
        )
        start = time.perf_counter()
        with tqdm(
            total=len(particles),
            bar_format="reading  |{bar:20}| {n:,}/{total:,} particles  {rate_fmt}",
            unit=" particles",
            dynamic_ncols=True,
            leave=False,
            disable=self.ranks.rank > 0 or not sys.stdout.isatty(),
            file=sys.stdout,
        ) as bar:
            filled = self.store.fill(particles, bar.update)
        seconds = time.perf_counter() - start
        speed = len(particles) / max(seconds, 1e-9)
        log.info("%s particles read in %.1f s: %.0f/s.", f"{len(particles):,}", seconds, speed)
        if self.ranks.rank == 0:
            particles.contrast.warn(self.table.source, invert=self.preprocessor.invert)
        bad = {block.start + row: reason for row, reason in filled.bad.items()}
        told = self.ranks.gathered((bad, batch_size_of(self.grid, self.device)))
        self._set_aside({row: reason for found, _ in told for row, reason in found.items()})
        self._size = min(size for _, size in told)
        self.cache = self._placed(filled)
        return self.cache

    def _set_aside(self, reasons: dict[int, str]) -> None:
        """Move unreadable particles from the table to the excluded ones."""
        if not reasons:
            return
        refuse_many(self.table.source, len(self.table), reasons, self.max_bad_fraction)
        bad = np.array(sorted(reasons))
        log.warning("%d particles cannot be used; excluded.star says why.", len(bad))
        kept = np.setdiff1d(np.arange(len(self.table)), bad)
        self.excluded = extended(
            self.excluded, self.table.take(bad), [reasons[int(row)] for row in bad]
        )
        self.table, self.shares = self.table.take(kept), self.shares.without(bad)

    def _placed(self, filled: Filled) -> ParticleSource:
        """The particles with all that belongs to them, on the device if they fit there."""
        count, samples = len(self.table), filled.samples
        ctf = ctf_params(self.table.ctf, count)
        optics = torch.from_numpy(self.table.optics.astype(np.int64))
        half = half_sets(count, self.seed)
        device, block = self.device, self.shares.block(self.ranks.rank)
        if not isinstance(samples, torch.Tensor):
            return ParticleStream(
                samples, ctf.to(device), optics.to(device), half.to(device), block
            )
        cache = ParticleCache(samples, ctf, optics, half, block)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if cache.nbytes < self.memory_fraction * free:
                return cache.to(device)
        return cache

    def train_dataloader(self) -> BatchStream:
        """Batches of the iteration about to run; as many in every process."""
        assert self.cache is not None
        assert self.plan is not None
        assert self.trainer is not None
        rows, size = self.plan.rows(self.trainer.current_epoch), self.batch_size
        if self.ranks.size == 1:
            return BatchStream(self.cache, rows, size)
        parts = self.shares.split(rows)
        most = max(-(-len(part) // size) for part in parts)
        return BatchStream(self.cache, parts[self.ranks.rank], size, most)
