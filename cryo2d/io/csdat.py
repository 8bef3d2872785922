"""The compressed stream kind of .cs, as cryosparc-tools writes it on request.

After the magic a JSON header (rows, fields, which of them are compressed), then each column behind
its number of bytes, raw or as one LZ4 block, at last the text that the columns of strings point
into by offset. The package cryosparc-tools reads such a file into C structures on trust; a damaged
one can end the process. Here every number is checked against the bytes that are there.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cryo2d.errors import EnvironmentFault

STREAM_MAGIC = b"\x95CSDAT"
MAX_HEADER_BYTES = 1 << 20
LZ4_EXPANSION = 255
"""No LZ4 block holds more bytes than so many times its own."""

ANY_PADDING = 256 << 20
MAX_PADDING = 64
"""Strings become columns of one width: at most so many times the bytes of the file."""

_TYPES = frozenset(
    [
        *("<f4", "<f8", "<c8", "<c16", "|O"),
        *("|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8"),
    ]
)


class DamagedStreamError(ValueError):
    """What is wrong with a stream, in words that can follow ``found``."""


class _Bytes:
    """What is left of the bytes of a file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, len(STREAM_MAGIC)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self.data) - self.at:
            raise DamagedStreamError(f"an end {count - len(self.data) + self.at} bytes early")
        self.at += count
        return self.data[self.at - count : self.at]

    def piece(self) -> bytes:
        """The next bytes, their number in front."""
        return self.take(int.from_bytes(self.take(4), "little"))


def parse_stream(data: bytes, path: Path) -> np.ndarray:
    """The table in the bytes of a file.

    Returns:
        Structured array ``[n]``, strings as bytes.

    Raises:
        DamagedStreamError: if the bytes are not what the header says.
        EnvironmentFault: if cryosparc-tools is missing, which has LZ4.
    """
    stream = _Bytes(data)
    count, fields, packed = _header(stream.piece())
    columns: dict[str, np.ndarray] = {}
    for name, dtype, shape in fields:
        piece = stream.piece() if count else b""
        stored = np.dtype("<u8") if dtype.hasobject else dtype
        need = count * stored.itemsize * int(np.prod(shape, dtype=object))
        if name in packed and count:
            values = _unpacked(piece, need, path)
        elif len(piece) == need:
            values = np.frombuffer(piece, np.uint8)
        else:
            raise DamagedStreamError(f"{len(piece)} of {need} bytes in field {name}")
        columns[name] = values.view(stored).reshape(count, *shape)
    text = data[stream.at :]
    for name, dtype, _ in fields:
        if dtype.hasobject:
            columns[name] = _strings(columns[name], text, len(data))
    layout = [(name, column.dtype, column.shape[1:]) for name, column in columns.items()]
    table = np.empty(count, np.dtype(layout))
    for name, column in columns.items():
        table[name] = column
    return table


def _header(text: bytes) -> tuple[int, list[tuple[str, np.dtype, tuple[int, ...]]], set[str]]:
    """Rows, fields with type and shape, and the names of the compressed ones."""
    if len(text) > MAX_HEADER_BYTES:
        raise DamagedStreamError(f"{len(text)} bytes of header, at most {MAX_HEADER_BYTES} count")
    try:
        header = json.loads(text)
        count, packed = header["length"], header["compressed_fields"]
        fields = [_field(*field) for field in header["dtype"]]
    except DamagedStreamError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedStreamError("a damaged header") from error
    names = [name for name, _, _ in fields]
    whole = isinstance(count, int) and count >= 0 and isinstance(packed, list)
    if not whole or not names or len(set(names)) < len(names):
        raise DamagedStreamError("a header without rows, or with a field twice")
    return count, fields, {name for name in packed if isinstance(name, str)}


def _field(name: Any, kind: Any, shape: Any = ()) -> tuple[str, np.dtype, tuple[int, ...]]:
    sizes = tuple(shape)
    plain = isinstance(name, str) and name and kind in _TYPES
    if not plain or len(sizes) > 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise DamagedStreamError(f"field {str(name)[:40]!r} of type {str(kind)[:20]!r}")
    return name, np.dtype(kind), sizes


def _unpacked(piece: bytes, need: int, path: Path) -> np.ndarray:
    """The bytes of a compressed column."""
    try:
        from cryosparc.dataset.core import Stream
    except ImportError as error:
        message = f"{path} is a compressed .cs: pip install cryosparc-tools to read it"
        raise EnvironmentFault(message) from error
    if not 0 < need <= LZ4_EXPANSION * len(piece) or need >= 1 << 31:
        raise DamagedStreamError(f"{len(piece)} compressed bytes for {need}")
    values = np.empty(need, np.uint8)
    try:
        got = len(Stream().decompress_numpy(piece, values))
    except ValueError as error:
        raise DamagedStreamError("a column that cannot be decompressed") from error
    if got != need:
        raise DamagedStreamError(f"{got} of {need} bytes in a column")
    return values


def _strings(offsets: np.ndarray, text: bytes, size: int) -> np.ndarray:
    """The strings that offsets point to, each ended by a NUL."""
    distinct, codes = np.unique(offsets, return_inverse=True)
    if len(distinct) and int(distinct[-1]) >= len(text):
        raise DamagedStreamError("a string beyond the end")
    ends = np.append(np.flatnonzero(np.frombuffer(text, np.uint8) == 0), len(text))
    start = distinct.astype(np.int64)
    stop = ends[np.searchsorted(ends, start)]
    widest = int((stop - start).max(initial=1))
    if widest * offsets.size > max(ANY_PADDING, MAX_PADDING * size):
        raise DamagedStreamError(f"a string of {widest} bytes among {offsets.size}")
    found = [text[a:b] for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
    return np.array(found or [b""], dtype=f"S{widest}")[codes].reshape(offsets.shape)
