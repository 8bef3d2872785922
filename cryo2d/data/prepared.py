"""Particles from their stacks to half-precision polar samples, in a few threads."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from cryo2d import __version__
from cryo2d.data.contrast import Contrast
from cryo2d.data.reader import ImageChunk, iterate
from cryo2d.errors import EnvironmentFault
from cryo2d.io.mrc import FileState
from cryo2d.io.particles import ParticleTable
from cryo2d.physics.preprocess import Preprocessor


@dataclass(frozen=True)
class PreparedParticles:
    """The particles of a table and what is done to them before they are classified.

    Attributes:
        table: the particles.
        preprocessor: raw boxes -> polar samples.
        threads: threads that read and preprocess.
        int8_signed: meaning of MRC mode 0.
        device: where preprocessing runs.
        contrast: of the particles that were read.
        states: of the stacks when they were first read.
    """

    table: ParticleTable
    preprocessor: Preprocessor
    threads: int = 1
    int8_signed: bool = True
    device: torch.device = torch.device("cpu")
    contrast: Contrast = field(default_factory=Contrast, compare=False)
    states: dict[str, FileState] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the samples of one particle ``[a s 2]``."""
        grid = self.preprocessor.grid
        return grid.num_angles, grid.num_rings, 2

    @property
    def nbytes(self) -> int:
        """Bytes of the samples of all particles."""
        return len(self) * 2 * int(np.prod(self.shape))

    def chunks(self) -> Iterator[ImageChunk]:
        """All particles in the order of their stacks, as samples ``[c a s 2]`` (float16, CPU)."""
        with _one_thread_each():
            yield from self._sound(None)

    def read(self, rows: np.ndarray) -> Tensor:
        """Samples of some particles ``[c a s 2]`` (float16, CPU).

        Args:
            rows: rows of the table, each once ``[c]``.

        Raises:
            EnvironmentFault: if one of them can no longer be read.
        """
        samples = torch.empty((len(rows), *self.shape), dtype=torch.float16)
        order = np.argsort(rows)
        for chunk in self._sound(rows):
            if chunk.bad:
                reason = next(iter(chunk.bad.values()))
                raise EnvironmentFault(f"{reason}, though it could be read before")
            places = order[np.searchsorted(rows, chunk.rows, sorter=order)]
            samples[torch.from_numpy(places)] = chunk.images
        return samples

    def _sound(self, rows: np.ndarray | None) -> Iterator[ImageChunk]:
        """Chunks without the particles whose samples are not finite in half precision."""
        for chunk in iterate(
            self.table,
            rows=rows,
            threads=self.threads,
            int8_signed=self.int8_signed,
            prepare=self._prepare,
            states=self.states,
        ):
            samples, sound = chunk.images
            if sound.all():
                yield chunk._replace(images=samples)
                continue
            bad = {row: self._unsound(row) for row in chunk.rows[~sound].tolist()}
            kept = torch.from_numpy(sound)
            yield ImageChunk(chunk.rows[sound], samples[kept], chunk.bad | bad)

    def _unsound(self, row: int) -> str:
        table = self.table
        name = f"image {table.image_index[row] + 1} of {table.stacks[table.stack_id[row]]}"
        return f"{name} has pixels far above its background, or a background that is constant"

    def _prepare(self, images: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Samples, and whether those of each image are finite."""
        if not len(images):
            empty = torch.empty((0, *self.shape), dtype=torch.float16)
            return empty, np.ones(0, bool)
        pixels = torch.from_numpy(images).to(self.device)
        self.contrast.add(pixels)
        samples = torch.view_as_real(self.preprocessor(pixels)).half().cpu()
        # one sum has an infinity or NaN if any of its terms has
        return samples, samples.flatten(1).sum(1, dtype=torch.float32).isfinite().numpy()

    def identity(self) -> dict[str, object]:
        """Everything that the samples depend on: source, selection and preprocessing."""
        table = self.table
        used, stack = np.unique(table.stack_id, return_inverse=True)
        rows = hashlib.sha256()
        for values, kind in ((stack, "<i8"), (table.image_index, "<i8"), (table.sign, "<f4")):
            rows.update(np.ascontiguousarray(values, dtype=kind).data)
        return {
            "program": __version__,
            "stacks": [_state(table.stacks[i]) for i in used.tolist()],
            "rows": rows.hexdigest(),
            "int8_signed": self.int8_signed,
            "preprocessing": asdict(self.preprocessor),
        }


def key_of(identity: dict[str, object]) -> str:
    """An identity as a short name."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _state(path: str) -> list[object]:
    """Path, size and time of the last change (ns) of a file."""
    path = os.path.realpath(path)
    try:
        status = os.stat(path)
    except OSError:
        return [path, None, None]
    return [path, status.st_size, status.st_mtime_ns]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Every thread of ours computes alone: they share the cores already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
