"""Class averages of particles whose class and pose are known, at any size."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from cryo2d.data.reader import ImageChunk, iterate
from cryo2d.em.fine import Poses
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.solve import Recenter, WienerSolver, images_of, least_squares
from cryo2d.em.stats import SufficientStats, accumulate
from cryo2d.geometry.shells import resolution_at
from cryo2d.io.particles import ParticleTable
from cryo2d.physics.preprocess import Preprocessor, Transfer, weigh
from cryo2d.training.assembly import Frame
from cryo2d.training.datamodule import ctf_params
from cryo2d.types import ParticleBatch

SOLVED_AT_ONCE = 16
CENTRE_ROUNDS = 3


@dataclass(frozen=True)
class Reconstruction:
    """Averages and what is known of them.

    Attributes:
        averages: Wiener-filtered, masked, solvent level 0 ``[k y x]``.
        halves: averages of the half-sets, neither filtered nor masked ``[h k y x]``.
        masks: in 0..1 ``[k y x]``.
        frc: Fourier ring correlation of the half-sets inside the masks ``[k s]``.
        count: particles of each half-set ``[h k]``.
        moved: shift of each average that centred it ``[k 2]`` (pixel).
    """

    averages: Tensor
    halves: Tensor
    masks: Tensor
    frc: Tensor
    count: Tensor
    moved: Tensor

    @classmethod
    def joined(cls, parts: list["Reconstruction"]) -> "Reconstruction":
        """Classes of several reconstructions, one after the other."""
        along = {"halves": 1, "count": 1}
        return cls(
            **{
                f.name: torch.cat([getattr(p, f.name) for p in parts], along.get(f.name, 0))
                for f in fields(cls)
            }
        )

    def resolution(self, frequency: Tensor, threshold: float) -> Tensor:
        """Where the FRC falls below a threshold ``[k]`` (Angstrom)."""
        return resolution_at(self.frc, frequency, threshold)


@dataclass(frozen=True)
class Reconstructor:
    """Averages each class from the raw images in the poses of the table.

    The images go through the same polar samples and statistics as in a classification, with weight
    1 in their class. Noise is taken as white: the images have unit background, and a factor per
    ring would cancel within a class. Classes are done in blocks whose sums fit into ``memory``;
    each particle belongs to one class, so every image is read once all the same.

    Args:
        frame: sizes and masks.
        preprocessor: raw boxes -> polar samples.
        transfer: transfer function.
        recenter: centring of the averages, or None.
        device: where it is computed.
        threads: reading threads.
        int8_signed: meaning of MRC mode 0.
        memory: for the sums of a block of classes, and for a batch of images (byte).
    """

    frame: Frame
    preprocessor: Preprocessor
    transfer: Transfer
    recenter: Recenter | None = None
    device: torch.device = torch.device("cpu")
    threads: int = 1
    int8_signed: bool = True
    memory: float = 1e9

    @torch.no_grad()
    def __call__(
        self, table: ParticleTable, half: np.ndarray, num_classes: int
    ) -> tuple[Reconstruction, dict[int, str]]:
        """Averages of all classes, and the reason for each row that could not be used.

        Args:
            table: particles with class, psi and shift.
            half: half-set of every particle, 0 or 1 ``[n]``.
            num_classes: classes, those without particles among them.
        """
        assert table.alignment is not None
        classes = table.alignment.class_index
        assert classes is not None
        grid = self.frame.grid
        per_class = 2 * 8 * grid.num_angles * grid.num_rings
        block = max(1, int(self.memory / per_class))
        parts: list[Reconstruction] = []
        bad: dict[int, str] = {}
        for first in range(0, num_classes, block):
            size = min(block, num_classes - first)
            rows = np.flatnonzero((classes >= first) & (classes < first + size))
            stats = SufficientStats.zeros(grid, size, 1, self.device)
            for chunk in self._chunks(table, rows):
                bad |= chunk.bad
                for batch, poses in self._batches(table, half, chunk, first):
                    self._add(stats, batch, poses)
            parts += [self._solved(stats, k) for k in range(0, size, SOLVED_AT_ONCE)]
        return Reconstruction.joined(parts), bad

    def _chunks(self, table: ParticleTable, rows: np.ndarray) -> Iterator[ImageChunk]:
        """Images of some rows, few enough at a time."""
        image = 4 * int(table.box[0]) ** 2
        most = int(max(1, min(256, 0.05 * self.memory / image)))
        yield from iterate(
            table, rows=rows, threads=self.threads, int8_signed=self.int8_signed, chunk=most
        )

    @property
    def _batch_size(self) -> int:
        """Images sampled at once: the padded transform and some copies of the samples."""
        grid = self.frame.grid
        image = 8 * (2 * grid.padded**2 + 6 * grid.num_angles * grid.num_rings)
        return int(max(1, min(256, 0.25 * self.memory / image)))

    def _batches(
        self, table: ParticleTable, half: np.ndarray, chunk: ImageChunk, first: int
    ) -> Iterator[tuple[ParticleBatch, Poses]]:
        """Polar samples and poses of the images; classes counted from ``first``."""
        found = table.alignment
        assert found is not None
        assert found.class_index is not None
        assert found.psi is not None
        assert found.shift is not None
        for start in range(0, len(chunk.rows), self._batch_size):
            part = slice(start, start + self._batch_size)
            rows = chunk.rows[part]
            few = table.take(rows)
            scale = np.ones(len(rows)) if found.alpha is None else found.alpha[rows]
            scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
            batch = ParticleBatch(
                index=torch.from_numpy(rows),
                rings=self.preprocessor(torch.from_numpy(chunk.images[part]).to(self.device)),
                ctf=ctf_params(few.ctf, len(rows)).to(self.device),
                optics=torch.zeros(len(rows), dtype=torch.int64, device=self.device),
                half=torch.from_numpy(half[rows]).to(self.device),
                scale=torch.from_numpy(scale).float().to(self.device),
            )
            yield (
                batch,
                Poses(
                    torch.arange(len(rows), device=self.device),
                    torch.from_numpy(found.class_index[rows] - first).to(self.device),
                    torch.from_numpy(found.psi[rows]).float().to(self.device),
                    torch.from_numpy(found.shift[rows] / self.frame.pixel_size)
                    .float()
                    .to(self.device),
                ),
            )

    def _add(self, stats: SufficientStats, batch: ParticleBatch, poses: Poses) -> None:
        grid = self.frame.grid
        images = weigh(
            batch,
            grid,
            pixel_size=self.frame.pixel_size,
            noise=torch.ones((1, grid.num_rings), device=self.device),
            transfer=self.transfer,
        )
        weight = torch.ones(len(images), device=self.device)
        accumulate(stats, grid, images, poses, weight, chunk=self._batch_size)

    def _solved(self, stats: SufficientStats, first: int) -> Reconstruction:
        """The classes from ``first`` on, some at a time."""
        few = slice(first, first + SOLVED_AT_ONCE)
        part = replace(
            stats, num=stats.num[:, few], den=stats.den[:, few], count=stats.count[:, few]
        )
        grid, solvent = self.frame.grid, self.frame.solvent
        solver = WienerSolver(grid, solvent, FrcRegularizer())
        raw = solver.filtered(part)
        averages = solvent.flatten(raw.averages, raw.masks)
        moved = torch.zeros((part.count.shape[1], 2), device=self.device)
        for _ in range(CENTRE_ROUNDS if self.recenter else 0):
            assert self.recenter is not None
            shift = self.recenter.shift(averages)
            part, moved = part.moved(grid, shift), moved + shift
            raw = solver.filtered(part)
            averages = solvent.flatten(raw.averages, raw.masks)
        halves = torch.stack([images_of(grid, h) for h in least_squares(grid, part.num, part.den)])
        return Reconstruction(
            averages=averages.cpu(),
            halves=halves.cpu(),
            masks=raw.masks.cpu(),
            frc=raw.frc.cpu(),
            count=part.count.cpu(),
            moved=moved.cpu(),
        )
