"""MRC stacks: images by ``pread``, and writing.

Modes 0 (int8, or uint8 on request), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16) are read.
A missing ``MAP`` stamp is accepted where the sizes in the header fit the file. Files ending in
``.gz`` or ``.bz2`` are unpacked to an unnamed temporary file, never beyond the size that their
header states. Nothing is memory-mapped: a file cut short while we read gives a short read that can
be reported, where a map would end the process.
"""

import logging
import math
import os
import tempfile
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from cryo2d.errors import EnvironmentFault
from cryo2d.io.atomic import atomic_write
from cryo2d.io.mrc_header import (
    EXPECTED,
    MODES,
    MrcHeader,
    header_of,
    is_compressed,
    read_header,
    refusal,
    unpacker,
)
from cryo2d.io.regular import PAUSES, TRANSIENT, open_regular

__all__ = [
    "FileState",
    "MrcHeader",
    "StackReader",
    "is_compressed",
    "read_header",
    "read_images",
    "stack_header",
    "write_stack",
]

log = logging.getLogger(__name__)

_FEW = 1024  # images that are measured at a time
MAX_OPEN = 64


@dataclass(frozen=True)
class FileState:
    """What tells a file from another that has taken its place."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, descriptor: int) -> "FileState":
        """The state of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def is_grown(self, now: "FileState") -> bool:
        """Whether nothing happened but that bytes were appended."""
        same = (self.device, self.inode) == (now.device, now.inode)
        return same and now.size > self.size


@dataclass(eq=False)
class _Entry:
    """An open stack; ``users`` counts the reads under way, which keep it from being closed.

    ``state`` is that of the file when it was opened, None where ``descriptor`` is an unpacked copy.
    """

    descriptor: int
    header: MrcHeader
    state: FileState | None
    users: int = 0
    is_left: bool = False


class StackReader:
    """Read images out of many MRC stacks, from any thread, with few of them open at a time.

    Args:
        int8_signed: whether mode 0 holds signed bytes (MRC2014) or unsigned ones.
        max_open: most file descriptors kept open.
        states: of the stacks as other readers have found them; a stack that is another one since
            is refused. Those opened here are added.
    """

    def __init__(
        self,
        *,
        int8_signed: bool = True,
        max_open: int = MAX_OPEN,
        states: dict[str, FileState] | None = None,
    ) -> None:
        self.int8_signed = int8_signed
        self.max_open = max_open
        self.states = {} if states is None else states
        self._open: OrderedDict[str, _Entry] = OrderedDict()
        self._given_up: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> "StackReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every stack."""
        with self._lock:
            for path in list(self._open):
                self._leave(path)

    def _leave(self, path: str) -> None:
        """Close a stack, once the reads under way have ended."""
        entry = self._open.pop(path, None)
        if entry is not None:
            entry.is_left = True
            if not entry.users:
                os.close(entry.descriptor)

    @contextmanager
    def _lease(self, path: str) -> Iterator[_Entry]:
        with self._lock:
            entry = self._open.get(path)
            if entry is None:
                entry = self._open[path] = self._opened(path)
            self._open.move_to_end(path)
            entry.users += 1
            idle = [p for p, e in self._open.items() if not e.users]
            for name in idle[: max(len(self._open) - self.max_open, 0)]:
                self._leave(name)
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1
                if entry.is_left and not entry.users:
                    os.close(entry.descriptor)

    def _opened(self, path: str) -> _Entry:
        descriptor = open_regular(path, EXPECTED)
        try:
            self._compare(path, FileState.of(descriptor))
            header = header_of(descriptor, path)
            if not is_compressed(path):
                return _Entry(os.dup(descriptor), header, self.states[path])
            return _Entry(*_unpacked(descriptor, header), None)
        finally:
            os.close(descriptor)

    def _compare(self, path: str, now: FileState) -> None:
        """Refuse a file that is another one than it was, or was written to."""
        before = self.states.setdefault(path, now)
        if now == before:
            return
        if not before.is_grown(now):
            found = "a file that was replaced, cut or written to while it was in use"
            raise refusal(path, found, "the same file", "leave stacks alone during a run")
        self.states[path] = now

    def header(self, path: str) -> MrcHeader:
        """The header of a stack."""
        with self._lease(path) as entry:
            return entry.header

    def read(self, path: str, first: int, count: int) -> np.ndarray:
        """Read consecutive images with one request to the system.

        What a network file system refuses for a moment is tried again, on a new descriptor, after
        pauses; a file that was given up is not waited for again.

        Args:
            path: the stack.
            first: 0-based index of the first image.
            count: number of images.

        Returns:
            Images ``[c y x]`` (float32); fewer than asked for where the file ends.

        Raises:
            InputError: if the stack cannot be opened, or is another one than it was.
            OSError: if reading fails for good.
            EnvironmentFault: if the machine lacks descriptors, or room to unpack a stack.
        """
        for pause in (*PAUSES, None):
            try:
                return self._read(path, first, count)
            except OSError as error:
                with self._lock:
                    self._leave(path)
                if error.errno not in TRANSIENT or pause is None or path in self._given_up:
                    self._given_up.add(path)
                    raise
                log.warning("%s: %s; trying again in %g s", path, error.strerror, pause)
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _read(self, path: str, first: int, count: int) -> np.ndarray:
        with self._lease(path) as entry:
            header = entry.header
            buffer = np.empty(count * header.image_bytes, np.uint8)
            got = _pread(entry.descriptor, buffer, header.offset + first * header.image_bytes)
            if entry.state is not None:
                self._compare(path, FileState.of(entry.descriptor))
        whole = got // header.image_bytes
        dtype = header.dtype
        if header.mode == 0 and not self.int8_signed:
            dtype = np.dtype("u1")
        pixels = buffer[: whole * header.image_bytes].view(dtype)
        return pixels.reshape(whole, header.ny, header.nx).astype(np.float32, copy=False)


def _pread(descriptor: int, buffer: np.ndarray, offset: int) -> int:
    """Fill a buffer from a file; bytes read, fewer at its end."""
    view, got = buffer.data, 0
    while got < len(view):
        step = os.preadv(descriptor, [view[got:]], offset + got)
        if not step:
            break
        got += step
    return got


def _unpacked(descriptor: int, header: MrcHeader) -> tuple[int, MrcHeader]:
    """A temporary file with what a compressed stack holds, and the header that it deserves."""
    with _temporary(header) as file:
        for piece in _pieces(descriptor, header):
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                raise _no_room(header, error) from error
        held = (file.tell() - header.offset) // header.image_bytes
        return os.dup(file.fileno()), replace(header, available=min(header.nz, held))


def _temporary(header: MrcHeader) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise _no_room(header, error) from error


def _no_room(header: MrcHeader, error: OSError) -> EnvironmentFault:
    folder = tempfile.gettempdir()
    return EnvironmentFault(
        f"cannot unpack {header.path} ({header.declared_bytes} bytes) in {folder}: "
        f"{error.strerror}. Do: unpack the stacks yourself, or set TMPDIR to a larger disk"
    )


def _pieces(descriptor: int, header: MrcHeader) -> Iterator[bytes]:
    """The declared bytes of a compressed file, or as many as it holds, piece by piece."""
    left = header.declared_bytes
    with open(os.dup(descriptor), "rb") as packed:
        packed.seek(0)
        with unpacker(packed, header.path) as source:
            while left:
                try:
                    piece = source.read(min(left, 1 << 22))
                except (EOFError, zlib.error):
                    piece = b""
                except OSError as error:
                    if error.errno is not None:
                        raise
                    piece = b""
                if not piece:
                    log.warning("%s: the compressed data end early", header.path)
                    return
                left -= len(piece)
                yield piece


def read_images(
    path: str | Path, indices: Sequence[int] | None = None, *, int8_signed: bool = True
) -> np.ndarray:
    """Read some images of a stack.

    Args:
        path: the stack.
        indices: 0-based images; all of them by default.
        int8_signed: whether mode 0 holds signed bytes.

    Returns:
        Images ``[n y x]`` (float32).

    Raises:
        InputError: if the file is no stack, or ends before an image asked for.
    """
    path = str(path)
    with StackReader(int8_signed=int8_signed) as reader:
        header = reader.header(path)
        if indices is None:
            images = reader.read(path, 0, header.available)
            missing = header.nz - len(images)
        else:
            parts = [reader.read(path, int(i), 1) for i in indices]
            images = np.concatenate([*parts, np.zeros((0, header.ny, header.nx), np.float32)])
            missing = len(indices) - len(images)
    if missing:
        found = f"a stack that ends {missing} images early"
        raise refusal(path, found, f"{header.nz} images", "copy the file again: it is cut short")
    return images


def write_stack(path: str | Path, images: np.ndarray, pixel_size: float, *, mode: int = 2) -> None:
    """Write an MRC image stack (little-endian, MRC2014), whole or not at all.

    Args:
        path: the file.
        images: ``[n y x]``; one image ``[y x]`` is a stack of one.
        pixel_size: written to the header (Angstrom).
        mode: 2 (float32) or 12 (float16).

    Raises:
        EnvironmentFault: if the file cannot be written.
    """
    assert mode in (2, 12), mode
    stack = images if images.ndim == 3 else images[None]
    pixels = np.ascontiguousarray(stack, dtype="<" + MODES[mode])
    with atomic_write(path) as file:
        file.write(stack_header(pixels, pixel_size, mode))
        file.write(pixels.data)


def stack_header(pixels: np.ndarray, pixel_size: float, mode: int) -> bytes:
    """The 1024 bytes of header of an image stack ``[n y x]``."""
    head = np.zeros(256, "<i4")
    floats = head.view("<f4")
    nz, ny, nx = pixels.shape
    head[[0, 1, 2, 3, 7, 8, 9]] = nx, ny, nz, mode, nx, ny, nz
    floats[10:13] = nx * pixel_size, ny * pixel_size, nz * pixel_size
    floats[13:16] = 90
    head[16:19] = 1, 2, 3
    if pixels.size:
        # a few images at a time: wide numbers of a large stack would not fit into memory
        parts = [pixels[start : start + _FEW] for start in range(0, nz, _FEW)]
        mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / pixels.size
        square = sum(float(np.square(part - np.float64(mean)).sum()) for part in parts)
        floats[19:22] = pixels.min(), pixels.max(), mean
        floats[54] = math.sqrt(square / pixels.size)
    head[27] = 20141
    head[52] = np.frombuffer(b"MAP ", "<i4")[0]
    head[53] = np.frombuffer(b"DD\0\0", "<i4")[0]
    return head.tobytes()
