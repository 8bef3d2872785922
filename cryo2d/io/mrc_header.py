"""The header of an MRC file, in either byte order, compared with the size of the file.

Nothing is allocated on the word of a header: sizes are compared with the file first.
"""

import bz2
import gzip
import os
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO

import numpy as np

from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.io.regular import fault, open_regular, patiently

HEADER_BYTES = 1024
MAX_UNPACKED_BYTES = 64 << 30
MAX_EXPANSION = 100
"""Bytes that one compressed byte may become: images reach 2, nothing but blank ones 1000."""

ANY_EXPANSION = 16 << 20
"""Declared bytes up to which the expansion does not matter."""

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
REFUSED_MODES = {3: "complex 16-bit", 4: "complex 32-bit", 101: "4-bit integers", 16: "RGB bytes"}
IMOD_STAMP = 1146047817
LFS_MAGIC = b"version https://git-lfs"
EXPECTED = "an MRC file"


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
        size: bytes of the file; 0 for a compressed one.
        swapped: whether the byte order is not that of the machine stamp.
        unsigned: whether the header says that bytes (mode 0) run from 0 to 255, as IMOD's can.
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
    size: int = 0
    swapped: bool = False
    unsigned: bool = False

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored pixels."""
        return np.dtype(self.byte_order + MODES[self.mode])

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.nx * self.ny * self.dtype.itemsize

    @property
    def declared_bytes(self) -> int:
        """Bytes that the file should have."""
        return self.offset + self.nz * self.image_bytes

    @property
    def trailing(self) -> int:
        """Bytes after the last image."""
        return max(self.size - self.declared_bytes, 0)


def refusal(path: str, found: str, expected: str, action: str) -> InputError:
    """One problem of a file as an error."""
    return InputError([Problem(path, found, expected, action)])


def is_compressed(path: str) -> bool:
    """Whether a file name says gzip or bzip2."""
    return path.endswith((".gz", ".bz2"))


def unpacker(file: IO[bytes], path: str) -> BufferedIOBase:
    """The unpacked bytes of an open compressed file."""
    return gzip.GzipFile(fileobj=file) if path.endswith(".gz") else bz2.BZ2File(file)


def read_header(path: str | Path) -> MrcHeader:
    """Read the header of an MRC file and compare it with the size of the file.

    Raises:
        InputError: if this is no MRC file, its mode is not supported, or it is too short to hold
            a single image.
        EnvironmentFault: if the machine has no descriptor left.
    """
    path = str(path)

    def read() -> MrcHeader:
        descriptor = open_regular(path, EXPECTED)
        try:
            return header_of(descriptor, path)
        finally:
            os.close(descriptor)

    try:
        return patiently(read)
    except OSError as error:
        raise fault(path, error, EXPECTED) from error


def header_of(descriptor: int, path: str) -> MrcHeader:
    """The header of an open file; errors as :func:`read_header`, or OSError."""
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, HEADER_BYTES, 0)
    if not is_compressed(path):
        return _parsed(path, head, size)
    with open(os.dup(descriptor), "rb") as packed:
        packed.seek(0)
        try:
            with unpacker(packed, path) as file:
                head = file.read(HEADER_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _not_unpacked(path, error) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise _not_unpacked(path, error) from error
    header = _parsed(path, head, None)
    declared = header.declared_bytes
    if declared > max(MAX_EXPANSION * size, ANY_EXPANSION) or declared > MAX_UNPACKED_BYTES:
        found = f"a compressed stack of {declared} bytes in a file of {size}"
        expected = f"at most {MAX_EXPANSION} times the bytes of the file, and {MAX_UNPACKED_BYTES}"
        raise refusal(path, found, expected, "unpack it (gunzip, bunzip2), if it is what it says")
    return header


def _not_unpacked(path: str, error: Exception) -> InputError | EnvironmentFault:
    found = f"a compressed file that cannot be unpacked ({error})"
    return refusal(path, found, "gzip or bzip2 data", "copy the file again")


def _parsed(path: str, head: bytes, size: int | None) -> MrcHeader:
    """The header in the byte order in which it makes sense; size None where it is not known."""
    if len(head) < HEADER_BYTES:
        raise _too_short(path, head)
    guess = ">" if head[212:213] == b"\x11" else "<"
    orders = (guess, "<" if guess == ">" else ">")
    order = next((order for order in orders if _fits(head, order, size)), None)
    if order is None:
        raise _misfit(path, head, guess, size)
    words = np.frombuffer(head, order + "i4")
    floats = np.frombuffer(head, order + "f4")
    nx, ny, nz, mode = (int(v) for v in words[:4])
    offset = HEADER_BYTES + int(words[23])
    cell, intervals = float(floats[10]), int(words[7])
    image_bytes = nx * ny * np.dtype(MODES[mode]).itemsize
    held = nz if size is None else min(nz, (size - offset) // image_bytes)
    return MrcHeader(
        path=path,
        nx=nx,
        ny=ny,
        nz=nz,
        mode=mode,
        byte_order=order,
        offset=offset,
        pixel_size=cell / intervals if cell > 0 and intervals > 0 else float("nan"),
        available=held,
        stamped=head[208:211] == b"MAP",
        size=size or 0,
        swapped=order != guess,
        unsigned=int(words[38]) == IMOD_STAMP and not int(words[39]) & 1,
    )


def _too_short(path: str, head: bytes) -> InputError:
    if head.startswith(LFS_MAGIC):
        found, action = "a Git LFS pointer, not the data", "fetch the file with git lfs pull"
        return refusal(path, found, EXPECTED, action)
    found = f"{len(head)} bytes, starting with {head[:12]!r}"
    expected = f"{EXPECTED}, which has {HEADER_BYTES} bytes of header"
    return refusal(path, found, expected, "copy the file again: it is cut short or no stack")


def _fits(head: bytes, order: str, size: int | None) -> bool:
    """Whether the header makes sense in this byte order: known mode, at least one whole image."""
    words = np.frombuffer(head, order + "i4")
    nx, ny, nz, mode = (int(v) for v in words[:4])
    extended = int(words[23])
    if mode not in MODES or min(nx, ny, nz) <= 0 or extended < 0:
        return False
    image = nx * ny * np.dtype(MODES[mode]).itemsize
    if size is None:
        return image < MAX_UNPACKED_BYTES
    fits = HEADER_BYTES + extended + image <= size
    whole = HEADER_BYTES + extended + nz * image <= size
    return fits and (whole or head[208:211] == b"MAP")


def _misfit(path: str, head: bytes, order: str, size: int | None) -> InputError:
    words = np.frombuffer(head, order + "i4")
    nx, ny, nz, mode = (int(v) for v in words[:4])
    if head[208:211] != b"MAP":
        found = f"a file starting with {head[:12]!r}, without the MAP stamp"
        expected = f"{EXPECTED} whose header fits its size"
        return refusal(path, found, expected, "check that this is an image stack")
    if mode not in MODES:
        kind = f" ({REFUSED_MODES[mode]})" if mode in REFUSED_MODES else ""
        action = "convert the stack to mode 2 or 12"
        return refusal(path, f"MRC mode {mode}{kind}", "mode 0, 1, 2, 6 or 12", action)
    if min(nx, ny, nz) <= 0 or int(words[23]) < 0:
        found = f"a header with {nx} x {ny} x {nz} pixels, extended header {int(words[23])}"
        return refusal(path, found, "positive sizes", "repair the header or export again")
    need = HEADER_BYTES + int(words[23]) + nx * ny * np.dtype(MODES[mode]).itemsize
    found = f"{size} bytes for images of {nx} x {ny} pixels"
    return refusal(path, found, f"at least {need} bytes", "copy the file again: it is cut short")
