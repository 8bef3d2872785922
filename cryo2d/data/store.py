"""Where preprocessed particles are kept during a run: in memory, in a folder, or nowhere."""

import logging
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryo2d.data.memory import free_memory
from cryo2d.data.prepared import PreparedParticles, key_of
from cryo2d.data.reader import ImageChunk
from cryo2d.data.samples import DamagedSamplesError, SampleFile, write_samples
from cryo2d.data.turn import turn
from cryo2d.errors import EnvironmentFault
from cryo2d.io.atomic import PART
from cryo2d.io.mrc import is_compressed

log = logging.getLogger(__name__)

Progress = Callable[[int], object]
Reads = Callable[[np.ndarray], Tensor]
DAY = 86400.0
LOADED_AT_ONCE = 4096


class NoRoomError(EnvironmentFault):
    """The particles do not fit onto the disk."""


@dataclass(frozen=True)
class Filled:
    """What a store holds once every particle has been read.

    Attributes:
        bad: rows that cannot be used, with the reason.
        samples: of the other rows, in order: all of them ``[n a s 2]`` (float16), or a function
            that reads some of them.
    """

    bad: dict[int, str]
    samples: Tensor | Reads


class Store(ABC):
    """A place for preprocessed particles."""

    @abstractmethod
    def fill(self, particles: PreparedParticles, progress: Progress) -> Filled:
        """Read every particle once, unless the store already holds them.

        Args:
            particles: what to read.
            progress: told how many particles have been dealt with since.

        Raises:
            EnvironmentFault: if they do not fit.
        """


@dataclass(frozen=True)
class InMemory(Store):
    """Everything in memory.

    Attributes:
        fraction: part of the free memory that the particles may take.
    """

    fraction: float = 0.8

    def fill(self, particles: PreparedParticles, progress: Progress) -> Filled:
        """Read every particle once into memory."""
        need, free = particles.nbytes, free_memory()
        if need > self.fraction * free:
            raise EnvironmentFault(
                f"{len(particles):,} particles need {_size(need)} of memory and "
                f"{_size(free)} are free (of which hardware.memory_fraction={self.fraction:g} "
                "may be used). Do: set data.cache to a folder on a fast disk, or data.cache=off; "
                "or raise model.max_resolution, or set data.max_particles"
            )
        samples = torch.empty((len(particles), *particles.shape), dtype=torch.float16)
        bad: dict[int, str] = {}
        for chunk in _told(particles.chunks(), progress):
            bad.update(chunk.bad)
            samples[torch.from_numpy(chunk.rows)] = chunk.images
        return Filled(bad, _without(samples, bad))


@dataclass(frozen=True)
class OnDisk(Store):
    """A file of its own for each source and preprocessing; in memory as well if they fit.

    Of several processes that want the same particles one reads them while the others wait, also on
    other machines where the file system has locks (NFS has, unless it is mounted without); where it
    has none, each writes a file of its own and renames it.

    Attributes:
        folder: where the files are.
        fraction: part of the free memory that the particles may take.
        patience: longest wait for another process whose file does not grow (s).
    """

    folder: Path
    fraction: float = 0.8
    patience: float = 600.0

    def fill(self, particles: PreparedParticles, progress: Progress) -> Filled:
        """Open the file of these particles, or make it first."""
        identity = particles.identity()
        key = key_of(identity)
        path = self.folder / f"{key}.samples"
        for _ in range(2):
            if not path.exists():
                self._make(path, particles, identity, progress)
            # only now: others may have filled it meanwhile
            in_memory = particles.nbytes <= self.fraction * free_memory()
            opened = _state(path)
            try:
                file = SampleFile(path, key, particles.threads)
                kept = _kept(len(particles), file.excluded)
                if in_memory:
                    return Filled(file.excluded, _loaded(file, kept))
                return Filled(file.excluded, _Kept(file, kept))
            except DamagedSamplesError as error:
                log.warning("%s is damaged (%s) and made anew.", path, error)
                # not what another process has made in its place meanwhile
                if _state(path) == opened:
                    path.unlink(missing_ok=True)
            except OSError as error:
                reason = error.strerror or error
                raise EnvironmentFault(f"cannot read {path}: {reason}") from error
        raise EnvironmentFault(f"{path} cannot be read back as it was written: check the disk")

    def _make(
        self, path: Path, particles: PreparedParticles, identity: object, progress: Progress
    ) -> None:
        """Write the file, unless another process does."""

        def done() -> bool:
            # listed: networks remember for a while that a file is missing
            return path.name in os.listdir(self.folder)

        def work() -> object:
            return [_state(part) for part in sorted(self.folder.glob(f".{path.name}.*{PART}"))]

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with turn(self.folder / f".{path.stem}.lock", done, work, self.patience):
                if done():
                    return
                self._make_room(particles.nbytes)
                log.info("Writing %s to %s.", _size(particles.nbytes), path)
                chunks = _told(particles.chunks(), progress)
                shape = (len(particles), *particles.shape)
                write_samples(path, chunks, shape, {"key": path.stem, "made_from": identity})
        except OSError as error:
            reason = error.strerror or error
            message = f"data.cache={self.folder} cannot be used: {reason}"
            raise EnvironmentFault(message) from error

    def _make_room(self, need: int) -> None:
        """Be sure that so many bytes fit into the folder."""
        self._tidy()
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise NoRoomError(
                f"data.cache={self.folder} has {_size(free)} left and the particles need "
                f"{_size(need)}. Do: free space, give another folder, or set data.cache=off"
            )

    def _tidy(self) -> None:
        """Remove what processes that were killed have left."""
        for rest in self.folder.glob(".*.samples.*.part"):
            try:
                if time.time() - rest.stat().st_mtime > DAY:
                    rest.unlink(missing_ok=True)
            except OSError:
                log.warning("%s is a leftover that cannot be removed.", rest)


@dataclass(frozen=True)
class Shared(OnDisk):
    """The folder of runs that belong together; each reads for itself where it has no room."""

    def fill(self, particles: PreparedParticles, progress: Progress) -> Filled:
        """Open the file of these particles, make it, or read them into memory."""
        try:
            return super().fill(particles, progress)
        except NoRoomError as error:
            log.warning("The particles are read by each run: %s.", str(error).split(". Do:")[0])
            return InMemory(self.fraction).fill(particles, progress)


@dataclass(frozen=True)
class Nowhere(Store):
    """Nothing is kept: batches are read from the stacks at every visit."""

    def fill(self, particles: PreparedParticles, progress: Progress) -> Filled:
        """Read and prepare every particle once, to know which can be used."""
        if any(is_compressed(stack) for stack in particles.table.stacks):
            log.warning("Compressed stacks are unpacked anew for every batch: set data.cache.")
        bad: dict[int, str] = {}
        for chunk in _told(particles.chunks(), progress):
            bad.update(chunk.bad)
        return Filled(bad, _Kept(particles, _kept(len(particles), bad)))


@dataclass(frozen=True)
class _Kept:
    """Reads some of the particles that are left.

    Attributes:
        source: what to read from.
        kept: row there of each particle that is left ``[n]``.
    """

    source: SampleFile | PreparedParticles
    kept: np.ndarray

    def __call__(self, rows: np.ndarray) -> Tensor:
        # where one pass over the particles ends and the next begins, one may come twice
        distinct, place = np.unique(rows, return_inverse=True)
        try:
            return self.source.read(self.kept[distinct])[torch.from_numpy(place)]
        except DamagedSamplesError as error:
            assert isinstance(self.source, SampleFile)
            message = f"{self.source.path} is damaged ({error}). Do: remove it and run again"
            raise EnvironmentFault(message) from error
        except OSError as error:
            message = f"particles can no longer be read: {error.strerror or error}"
            raise EnvironmentFault(message) from error


def _told(chunks: Iterator[ImageChunk], progress: Progress) -> Iterator[ImageChunk]:
    """The same chunks; their number of particles is reported once they have been used."""
    for chunk in chunks:
        yield chunk
        progress(len(chunk.rows) + len(chunk.bad))


def _kept(count: int, bad: dict[int, str]) -> np.ndarray:
    return np.setdiff1d(np.arange(count), np.fromiter(bad, np.int64, len(bad)))


def _loaded(file: SampleFile, kept: np.ndarray) -> Tensor:
    """All samples of a file that are left ``[n a s 2]``."""
    samples = torch.empty((len(kept), *file.shape[1:]), dtype=torch.float16)
    for start in range(0, len(kept), LOADED_AT_ONCE):
        slots = kept[start : start + LOADED_AT_ONCE]
        samples[start : start + len(slots)] = file.read(slots)
    file.close()
    return samples


def _without(samples: Tensor, bad: dict[int, str]) -> Tensor:
    """The samples of the other rows, moved together in place: a copy may not fit."""
    if not bad:
        return samples
    kept = torch.from_numpy(_kept(len(samples), bad))
    for place, rows in zip(
        torch.arange(len(kept)).split(LOADED_AT_ONCE), kept.split(LOADED_AT_ONCE), strict=True
    ):
        samples[place] = samples[rows]
    return samples[: len(kept)]


def _state(path: Path) -> object:
    """What changes when a file is written or another takes its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_blocks, found.st_mtime_ns


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size > 1e9 else f"{size / 1e6:,.1f} MB"
