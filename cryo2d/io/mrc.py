"""MRC stacks: headers of either byte order, images by ``pread``, writing.

Modes 0 (int8, or uint8 on request), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16) are read.
A missing ``MAP`` stamp is accepted where the sizes in the header fit the file. Files ending in
``.gz`` or ``.bz2`` are unpacked to an unnamed temporary file, never beyond the size that their
header states. Nothing is memory-mapped: a file cut short while we read gives a short read that can
be reported, where a map would end the process.
"""

import bz2
import errno
import gzip
import logging
import os
import stat
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

from cryo2d.errors import InputError, Problem
from cryo2d.io.atomic import atomic_write

log = logging.getLogger(__name__)

HEADER_BYTES = 1024
MAX_OPEN = 64
MAX_UNPACKED_BYTES = 64 << 30
MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
REFUSED_MODES = {3: "complex 16-bit", 4: "complex 32-bit", 101: "4-bit integers", 16: "RGB bytes"}
TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}
RETRIES = 3
RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC file says, and what the file holds.

    Attributes:
        path: the file.
        nx: columns.
        ny: rows.
        nz: images, as the header states.
        mode: MRC mode.
        byte_order: ``<`` or ``>``.
        offset: bytes before the first image.
        pixel_size: from the cell (Angstrom); NaN where the header has none.
        available: images that the file really holds; ``nz`` for a compressed file.
        stamped: whether the ``MAP`` stamp is there.
    """

    path: str
    nx: int
    ny: int
    nz: int
    mode: int
    byte_order: str
    offset: int
    pixel_size: float
    available: int
    stamped: bool

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored pixels."""
        return np.dtype(self.byte_order + MODES[self.mode])

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.nx * self.ny * self.dtype.itemsize


def _problem(path: str, found: str, expected: str, action: str) -> InputError:
    return InputError([Problem(path, found, expected, action)])


def _open_regular(path: str) -> int:
    """Open a regular file; a pipe or device would hang or never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        found, action = f"a file that cannot be opened ({reason})", "check path and permissions"
        raise _problem(path, found, "an MRC file", action) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        found = "something that is not a regular file"
        raise _problem(path, found, "an MRC file", "check the path")
    return descriptor


def is_compressed(path: str) -> bool:
    """Whether a file name says gzip or bzip2."""
    return path.endswith((".gz", ".bz2"))


def _unpacker(path: str) -> IO[bytes]:
    return gzip.open(path, "rb") if path.endswith(".gz") else bz2.open(path, "rb")  # type: ignore[return-value]


def read_header(path: str | Path) -> MrcHeader:
    """Read the header of an MRC file and compare it with the size of the file.

    Raises:
        InputError: if this is no MRC file, its mode is not supported, or it is too short to hold
            a single image.
    """
    path = str(path)
    descriptor = _open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, HEADER_BYTES, 0)
    finally:
        os.close(descriptor)
    if is_compressed(path):
        try:
            with _unpacker(path) as file:
                head = file.read(HEADER_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            found = f"a compressed file that cannot be unpacked ({error})"
            raise _problem(path, found, "gzip or bzip2 data", "copy the file again") from error
        size = -1
    return _parse_header(path, head, size)


def _parse_header(path: str, head: bytes, size: int) -> MrcHeader:
    if len(head) < HEADER_BYTES:
        found = f"{len(head)} bytes, starting with {head[:12]!r}"
        raise _problem(path, found, "an MRC file, which has 1024 bytes of header", "check the file")
    guess = ">" if head[212:213] == b"\x11" else "<"
    orders = (guess, "<" if guess == ">" else ">")
    fitting = [order for order in orders if _fits(head, order, size)]
    stamped = head[208:211] == b"MAP"
    if not fitting:
        raise _misfit(path, head, guess, size, stamped)
    order = fitting[0]
    if order != guess:
        log.warning("%s: the byte order stamp is wrong; the sizes fit %s-endian data", path, order)
    words = np.frombuffer(head, order + "i4")
    floats = np.frombuffer(head, order + "f4")
    nx, ny, nz, mode = (int(v) for v in words[:4])
    offset = HEADER_BYTES + int(words[23])
    cell, intervals = float(floats[10]), int(words[7])
    pixel_size = cell / intervals if cell > 0 and intervals > 0 else float("nan")
    image_bytes = nx * ny * np.dtype(MODES[mode]).itemsize
    available = nz if size < 0 else min(nz, (size - offset) // image_bytes)
    return MrcHeader(path, nx, ny, nz, mode, order, offset, pixel_size, available, stamped)


def _fits(head: bytes, order: str, size: int) -> bool:
    """Whether the header makes sense in this byte order: known mode, at least one whole image."""
    words = np.frombuffer(head, order + "i4")
    nx, ny, nz, mode = (int(v) for v in words[:4])
    extended = int(words[23])
    if mode not in MODES or min(nx, ny, nz) <= 0 or extended < 0:
        return False
    image = nx * ny * np.dtype(MODES[mode]).itemsize
    if size < 0:
        return image < MAX_UNPACKED_BYTES
    fits = HEADER_BYTES + extended + image <= size
    whole = HEADER_BYTES + extended + nz * image <= size
    return fits and (whole or head[208:211] == b"MAP")


def _misfit(path: str, head: bytes, order: str, size: int, stamped: bool) -> InputError:
    words = np.frombuffer(head, order + "i4")
    nx, ny, nz, mode = (int(v) for v in words[:4])
    if not stamped:
        found = f"a file starting with {head[:12]!r}, without the MAP stamp"
        expected = "an MRC file whose header fits its size"
        return _problem(path, found, expected, "check that this is an image stack")
    if mode not in MODES:
        kind = f" ({REFUSED_MODES[mode]})" if mode in REFUSED_MODES else ""
        action = "convert the stack to mode 2 or 12"
        return _problem(path, f"MRC mode {mode}{kind}", "mode 0, 1, 2, 6 or 12", action)
    if min(nx, ny, nz) <= 0 or int(words[23]) < 0:
        found = f"a header with {nx} x {ny} x {nz} pixels, extended header {int(words[23])}"
        return _problem(path, found, "positive sizes", "repair the header or export again")
    need = HEADER_BYTES + int(words[23]) + nx * ny * np.dtype(MODES[mode]).itemsize
    found = f"{size} bytes for images of {nx} x {ny} pixels"
    return _problem(path, found, f"at least {need} bytes", "copy the file again: it is cut short")


@dataclass
class _Entry:
    """An open stack; ``users`` counts the reads under way, which keep it from being closed."""

    descriptor: int
    header: MrcHeader
    users: int = 0


class StackReader:
    """Read images out of many MRC stacks, from any thread, with few of them open at a time.

    Args:
        int8_signed: whether mode 0 holds signed bytes (MRC2014) or unsigned ones.
        max_open: most file descriptors kept open.
    """

    def __init__(self, *, int8_signed: bool = True, max_open: int = MAX_OPEN) -> None:
        self.int8_signed = int8_signed
        self.max_open = max_open
        self._open: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> "StackReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every stack."""
        with self._lock:
            for entry in self._open.values():
                os.close(entry.descriptor)
            self._open.clear()

    @contextmanager
    def _lease(self, path: str) -> Iterator[_Entry]:
        with self._lock:
            entry = self._open.get(path)
            if entry is None:
                entry = self._open[path] = _open_stack(path)
            self._open.move_to_end(path)
            entry.users += 1
            idle = [p for p, e in self._open.items() if not e.users]
            for name in idle[: max(len(self._open) - self.max_open, 0)]:
                os.close(self._open.pop(name).descriptor)
        try:
            yield entry
        finally:
            with self._lock:
                entry.users -= 1

    def header(self, path: str) -> MrcHeader:
        """The header of a stack."""
        with self._lease(path) as entry:
            return entry.header

    def read(self, path: str, first: int, count: int) -> np.ndarray:
        """Read consecutive images with one request to the system.

        Args:
            path: the stack.
            first: 0-based index of the first image.
            count: number of images.

        Returns:
            Images ``[c y x]`` (float32); fewer than asked for where the file ends.

        Raises:
            InputError: if the stack cannot be opened.
            OSError: if reading fails for good.
        """
        with self._lease(path) as entry:
            header = entry.header
            buffer = np.empty(count * header.image_bytes, np.uint8)
            got = _pread(entry.descriptor, buffer, header.offset + first * header.image_bytes)
        whole = got // header.image_bytes
        dtype = header.dtype
        if header.mode == 0 and not self.int8_signed:
            dtype = np.dtype("u1")
        pixels = buffer[: whole * header.image_bytes].view(dtype)
        return pixels.reshape(whole, header.ny, header.nx).astype(np.float32, copy=False)


def _pread(descriptor: int, buffer: np.ndarray, offset: int) -> int:
    """Fill a buffer from a file; bytes read, fewer at its end. Network errors are tried again."""
    view, got, tries = buffer.data, 0, 0
    while got < len(view):
        try:
            step = os.preadv(descriptor, [view[got:]], offset + got)
        except OSError as error:
            tries += 1
            if error.errno not in TRANSIENT or tries > RETRIES:
                raise
            time.sleep(RETRY_SECONDS * 2**tries)
            continue
        if not step:
            break
        got += step
    return got


def _open_stack(path: str) -> _Entry:
    header = read_header(path)
    if not is_compressed(path):
        return _Entry(_open_regular(path), header)
    declared = header.offset + header.nz * header.image_bytes
    if declared > MAX_UNPACKED_BYTES:
        found = f"a compressed stack of {declared} bytes"
        raise _problem(path, found, f"at most {MAX_UNPACKED_BYTES} bytes", "unpack it first")
    with tempfile.TemporaryFile() as file:
        for piece in _unpack(path, declared):
            file.write(piece)
        file.flush()
        held = (file.tell() - header.offset) // header.image_bytes
        return _Entry(os.dup(file.fileno()), replace(header, available=min(header.nz, held)))


def _unpack(path: str, limit: int) -> Iterator[bytes]:
    """The first ``limit`` bytes of a compressed file, or as many as it holds, piece by piece."""
    with _unpacker(path) as source:
        while limit:
            try:
                piece = source.read(min(limit, 1 << 22))
            except (EOFError, OSError, zlib.error):
                piece = b""
            if not piece:
                log.warning("%s: the compressed data end early", path)
                return
            limit -= len(piece)
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
        raise _problem(path, found, f"{header.nz} images", "copy the file again: it is cut short")
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
    wide = pixels.astype(np.float32, copy=False)
    if wide.size:
        floats[19:22] = wide.min(), wide.max(), wide.mean(dtype=np.float64)
        floats[54] = wide.std(dtype=np.float64)
    head[27] = 20141
    head[52] = np.frombuffer(b"MAP ", "<i4")[0]
    head[53] = np.frombuffer(b"DD\0\0", "<i4")[0]
    return head.tobytes()
