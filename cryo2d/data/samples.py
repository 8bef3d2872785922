"""Preprocessed particles in one file, checked when opened and whenever they are read.

The samples of all particles in the order of their table, each in a slot of its own; then the CRC-32
of every slot, a JSON object (identity, shape, excluded particles with the reason), and a footer
with the sizes and a checksum, so that a file that was cut or changed is recognised.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryo2d.data.reader import ImageChunk
from cryo2d.io.atomic import atomic_write

BEGIN = 4096
FOOTER = struct.Struct("<8sQQI")
MAGIC = b"cryo2d-1"
MOST_BUFFERS = 512
MOST_READERS = 8


class DamagedSamplesError(Exception):
    """The file is not what was once written."""


class SampleFile:
    """Samples of particles on disk.

    Args:
        path: the file.
        key: what the samples must have been made from.
        threads: readers at work.

    Raises:
        DamagedSamplesError: if this is not a whole file of that key.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path, key: str, threads: int = 1) -> None:
        self.path, self.threads = path, max(1, min(threads, MOST_READERS))
        self._descriptor: int | None = None
        header, self._checksums = _header(path)
        if header["key"] != key:
            raise DamagedSamplesError("it was made from something else")
        self.shape: tuple[int, ...] = tuple(header["shape"])
        self.excluded = {int(row): str(reason) for row, reason in header["excluded"].items()}
        self.item = 2 * int(np.prod(self.shape[1:]))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": None}

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()

    def read(self, slots: np.ndarray) -> Tensor:
        """Samples of some particles ``[c a s 2]`` (float16), read in the order of the file.

        Args:
            slots: places in the file ``[c]``.

        Raises:
            DamagedSamplesError: if their checksums differ.
            OSError: if reading fails.
        """
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        out = np.empty((len(slots), self.item), np.uint8)
        order = np.argsort(slots)
        breaks = np.flatnonzero(np.diff(slots[order]) != 1) + 1
        runs = [
            run[i : i + MOST_BUFFERS]
            for run in np.split(order, breaks)
            for i in range(0, len(run), MOST_BUFFERS)
        ]
        if self.threads == 1 or len(slots) < 2 * self.threads:
            self._read_runs(runs, slots, out)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                parts = [runs[i :: self.threads] for i in range(self.threads)]
                list(pool.map(lambda part: self._read_runs(part, slots, out), parts))
        samples = out.view("<f2").reshape(len(slots), *self.shape[1:])
        return torch.from_numpy(samples)

    def _read_runs(self, runs: Sequence[np.ndarray], slots: np.ndarray, out: np.ndarray) -> None:
        assert self._descriptor is not None
        for run in runs:
            if not len(run):
                continue
            at = BEGIN + int(slots[run[0]]) * self.item
            got = os.preadv(self._descriptor, [out[i] for i in run.tolist()], at)
            if got != len(run) * self.item:
                # a short read, as on a network: piece by piece, then
                for i in run.tolist():
                    _fill(self._descriptor, out[i].data, BEGIN + int(slots[i]) * self.item)
            for i in run.tolist():
                if zlib.crc32(out[i].data) != self._checksums[slots[i]]:
                    raise DamagedSamplesError(f"particle {slots[i] + 1} has changed on disk")


def _fill(descriptor: int, view: memoryview, offset: int) -> None:
    got = 0
    while got < len(view):
        step = os.preadv(descriptor, [view[got:]], offset + got)
        if not step:
            raise DamagedSamplesError("it ends early")
        got += step


def _header(path: Path) -> tuple[dict, np.ndarray]:
    """The JSON object and the checksums of the slots, themselves checked."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < BEGIN + FOOTER.size:
            raise DamagedSamplesError("it is cut short")
        file.seek(size - FOOTER.size)
        magic, begin, whole, checksum = FOOTER.unpack(file.read(FOOTER.size))
        if magic != MAGIC or whole != size or not BEGIN <= begin <= size:
            raise DamagedSamplesError("it is cut short or no file of samples")
        file.seek(begin)
        tail = file.read(size - FOOTER.size - begin)
    if zlib.crc32(tail) != checksum:
        raise DamagedSamplesError("its header has changed")
    count = int.from_bytes(tail[:8], "little")
    header = json.loads(tail[8 + 4 * count :])
    return header, np.frombuffer(tail, "<u4", count, 8)


def write_samples(
    path: Path,
    chunks: Iterable[ImageChunk],
    shape: tuple[int, ...],
    header: dict[str, object],
) -> None:
    """Write the samples of all particles, whole or not at all.

    Args:
        path: the file.
        chunks: samples ``[c a s 2]`` (float16) of every row once, in any order.
        shape: of all samples ``[n a s 2]``.
        header: what else is to be remembered; ``key`` among it.

    Raises:
        EnvironmentFault: if the file cannot be written.
    """
    count, item = shape[0], 2 * int(np.prod(shape[1:]))
    checksums, excluded = np.zeros(count, "<u4"), {}
    with atomic_write(path) as file:
        file.write(MAGIC.ljust(BEGIN, b"\0"))
        for rows, samples, bad in chunks:
            excluded.update(bad)
            if not len(rows):
                continue
            flat = samples.contiguous().numpy().astype("<f2", copy=False).reshape(len(rows), -1)
            slots = flat.view(np.uint8)
            checksums[rows] = [zlib.crc32(slot.data) for slot in slots]
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            for run in np.split(np.arange(len(rows)), breaks):
                file.seek(BEGIN + int(rows[run[0]]) * item)
                file.write(slots[run[0] : run[-1] + 1].data)
        begin = BEGIN + count * item
        text = json.dumps({**header, "shape": shape, "dtype": "<f2", "excluded": excluded})
        tail = count.to_bytes(8, "little") + checksums.tobytes() + text.encode()
        file.seek(begin)
        file.write(tail)
        file.write(FOOTER.pack(MAGIC, begin, begin + len(tail) + FOOTER.size, zlib.crc32(tail)))
