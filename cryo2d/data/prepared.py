"""Particles from their stacks to half-precision polar samples, in a few threads."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from cryo2d import __version__
from cryo2d.data.reader import ImageChunk, iterate
from cryo2d.errors import EnvironmentFault
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
    """

    table: ParticleTable
    preprocessor: Preprocessor
    threads: int = 1
    int8_signed: bool = True
    device: torch.device = torch.device("cpu")

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
            yield from iterate(
                self.table,
                threads=self.threads,
                int8_signed=self.int8_signed,
                prepare=self._prepare,
            )

    def check(self) -> Iterator[ImageChunk]:
        """Read all particles and keep none: only what is wrong with them."""
        signed = self.int8_signed
        return iterate(self.table, threads=self.threads, int8_signed=signed, prepare=len)

    def read(self, rows: np.ndarray) -> Tensor:
        """Samples of some particles ``[c a s 2]`` (float16, CPU).

        Args:
            rows: rows of the table, each once ``[c]``.

        Raises:
            EnvironmentFault: if one of them can no longer be read.
        """
        samples = torch.empty((len(rows), *self.shape), dtype=torch.float16)
        order = np.argsort(rows)
        for chunk in iterate(
            self.table,
            rows=rows,
            threads=self.threads,
            int8_signed=self.int8_signed,
            prepare=self._prepare,
        ):
            if chunk.bad:
                reason = next(iter(chunk.bad.values()))
                raise EnvironmentFault(f"{reason}, though it could be read before")
            places = order[np.searchsorted(rows, chunk.rows, sorter=order)]
            samples[torch.from_numpy(places)] = chunk.images
        return samples

    def _prepare(self, images: np.ndarray) -> Tensor:
        if not len(images):
            return torch.empty((0, *self.shape), dtype=torch.float16)
        samples = self.preprocessor(torch.from_numpy(images).to(self.device))
        return torch.view_as_real(samples).half().cpu()

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
