"""The columns of one format inside a file of the other, so that a conversion loses nothing.

In a .cs, each star column is a field ``star/LABEL`` of text, and the other blocks of the star
(with the optics) are packed and cut into one piece per row, ``star/blocks``, each with its place in
front. In a star, each .cs field is one column ``_cs.FIELD`` (``_cs.FIELD[i]`` for each number of a
vector) and a block ``data_cs_fields`` holds their types; odd bytes of text are written as ``%XX``.
"""

import logging
import re
import zlib
from collections.abc import Callable

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.columns import CS_PREFIX, STAR_PREFIX, CsColumns, StarColumns
from cryo2d.io.cs import build
from cryo2d.io.digits import general
from cryo2d.io.loop import read_loop
from cryo2d.io.rows import TextRows, from_columns
from cryo2d.io.star import StarBlock, find_blocks

log = logging.getLogger(__name__)

BLOCKS = STAR_PREFIX + "blocks"
CARRIED = "carried blocks"
TYPES_BLOCK = "cs_fields"
PLACE_BYTES = 17
LEAST_PIECE = 16
MOST_BLOCKS = 1 << 26
MOST_BYTES = 1 << 14
"""Bytes of one carried value."""

MOST_NUMBERS = 1 << 12
"""Numbers of one carried field."""

_ODD = re.compile(rb"[^!&(-~]")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_CLOSING = re.compile(rb"'(?=\s)")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_PLAIN = re.compile(rb"""[^\x00- "'#_$][^\x00- ]*\Z""")
_BYTES = [bytes([byte]) for byte in range(256)]
_BLANK = np.array([byte <= b" " for byte in _BYTES])
_QUOTE_FIRST = _BLANK | np.array([byte in b"\"'#_$dlsgDLSG" for byte in _BYTES])
_NEEDS_ESCAPE = np.array([_ODD.match(byte) is not None for byte in _BYTES])
_PERCENT = np.array([byte == b"%" for byte in _BYTES])
_RESERVED = (b"data_", b"loop_", b"save_", b"stop_", b"global_")


def quoted(texts: np.ndarray) -> np.ndarray:
    """Byte strings ``[n]`` as words of a star file, in quotes where they need them."""
    return _rewritten(texts, _BLANK, _quoted, _QUOTE_FIRST)


def _rewritten(
    texts: np.ndarray,
    suspect: np.ndarray,
    rewrite: Callable[[bytes], bytes],
    first: np.ndarray | None = None,
) -> np.ndarray:
    """The texts ``[n]``, those rewritten that are empty or hold a suspect byte.

    Args:
        texts: byte strings ``[n]``.
        suspect: whether a byte makes a text suspect ``[256]``.
        rewrite: gives the new text.
        first: the same for the first byte, if it differs.
    """
    if not len(texts):
        return texts
    texts = np.ascontiguousarray(texts)
    letters = texts.view(np.uint8).reshape(len(texts), texts.dtype.itemsize)
    inside = np.cumsum(letters[:, ::-1] != 0, axis=1, dtype=bool)[:, ::-1]
    odd = (suspect[letters] & inside).any(axis=1) | ~inside[:, 0]
    if first is not None:
        odd |= first[letters[:, 0]]
    rows = np.flatnonzero(odd)
    if not len(rows):
        return texts
    distinct, codes = np.unique(texts[rows], return_inverse=True)
    words = np.array([rewrite(text) for text in distinct.tolist()], dtype=bytes)
    wide = texts.astype(f"S{max(texts.dtype.itemsize, words.dtype.itemsize)}")
    wide[rows] = words[codes.ravel()]
    return wide


def _quoted(text: bytes) -> bytes:
    if _PLAIN.match(text) and not text.lower().startswith(_RESERVED):
        return text
    text = _CONTROL.sub(b" ", text)
    mark = b"'" if b'"' in text else b'"'
    if mark == b"'":
        # this mark before a blank would end the word
        text = _CLOSING.sub(b'"', text)
    return mark + text + mark


def star_in_cs(columns: StarColumns, count: int) -> dict[str, np.ndarray]:
    """Fields that carry a star file in a .cs.

    Args:
        columns: the star; its own carried .cs columns are left out.
        count: number of particles.

    Returns:
        For each field the text ``[n]``.
    """
    labels = [label for label in columns.rows.labels if not label.startswith(CS_PREFIX)]
    fields = {STAR_PREFIX + k: v for k, v in columns.rows.columns(labels).items()}
    text = blocks_text(columns)
    if text and count:
        packed = zlib.compress(text, 9).hex().encode()
        size = max(-(-len(packed) // count), LEAST_PIECE)
        starts = range(0, len(packed), size)
        total = len(packed)
        pieces = [b"%08x/%08x" % (at, total) + packed[at : at + size] for at in starts]
        fields[BLOCKS] = np.array([*pieces, *[b""] * (count - len(pieces))], dtype=bytes)
    return fields


def blocks_text(columns: StarColumns) -> bytes:
    """The optics block and the other blocks of a star as text."""
    parts = []
    if columns.optics is not None:
        parts.append(loop_text("optics", columns.optics))
    kept = [b for b in columns.blocks if not b.startswith(b"data_" + TYPES_BLOCK.encode())]
    return b"\n".join([*parts, *kept])


def loop_text(name: str, rows: TextRows) -> bytes:
    """A small block as the text of a loop."""
    return loop_header(name, rows.labels) + b"\n".join([*rows.lines(0, len(rows)), b"\n"])


def loop_header(name: str, labels: tuple[str, ...]) -> bytes:
    """The lines of a block before its rows."""
    numbered = [f"_{label} #{i}" for i, label in enumerate(labels, start=1)]
    return "\n".join([f"data_{name}", "", "loop_", *numbered, ""]).encode(errors="surrogateescape")


def star_from_cs(columns: CsColumns) -> StarColumns | None:
    """The star file that a .cs carries, or None.

    The blocks are lost if rows that held a piece of them have been removed.
    """
    array = columns.array
    names = [n for n in array.dtype.names or () if n.startswith(STAR_PREFIX) and n != BLOCKS]
    if not names:
        return None
    rows = from_columns({n.removeprefix(STAR_PREFIX): quoted(array[n]) for n in names})
    text = _joined_blocks(array)
    others = (b for b in _found_blocks(text) if b.name != "optics")
    return StarColumns(rows, carried_optics(array), tuple(text[b.begin : b.end] for b in others))


def carried_optics(array: np.ndarray) -> TextRows | None:
    """The optics block of the star that a .cs carries, or None."""
    text = _joined_blocks(array)
    optics = next((b for b in _found_blocks(text) if b.name == "optics"), None)
    try:
        return None if optics is None else read_loop(text, optics, CARRIED).rows
    except InputError:
        return None


def _found_blocks(text: bytes) -> tuple[StarBlock, ...]:
    """The blocks of a carried text; none where it is damaged, as where pieces are missing."""
    try:
        return find_blocks(text, CARRIED) if text else ()
    except InputError:
        return ()


def _joined_blocks(array: np.ndarray) -> bytes:
    if BLOCKS not in (array.dtype.names or ()):
        return b""
    column = array[BLOCKS]
    if column.dtype.kind != "S" or column.ndim != 1:
        return b""
    held = column[column != b""].tolist()
    pieces = sorted(piece for piece in held if len(piece) > PLACE_BYTES)
    packed = b"".join(piece[PLACE_BYTES:] for piece in pieces)
    try:
        complete = bool(pieces) and len(packed) == int(pieces[0][9:PLACE_BYTES], 16)
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(bytes.fromhex(packed.decode()), MOST_BLOCKS)
        return text if complete and unpacking.eof else b""
    except (ValueError, zlib.error):
        return b""


def cs_in_star(array: np.ndarray, leave: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Columns that carry the fields of a .cs in a star.

    Args:
        array: structured array ``[n]``.
        leave: prefixes of fields to leave out; carried star columns always are.

    Returns:
        For each label the text ``[n]``, ready to be written.
    """
    columns = {}
    for name in carried_fields(array, leave):
        values = array[name]
        label = CS_PREFIX + _escaped_text(name.encode()).decode()
        if values.dtype.kind == "S":
            columns[label] = _escaped(values)
        elif values.ndim == 1:
            columns[label] = general(values)
        else:
            flat = values.reshape(len(values), -1)
            for i in range(flat.shape[1]):
                columns[f"{label}[{i}]"] = general(flat[:, i])
    return columns


def carried_fields(array: np.ndarray, leave: tuple[str, ...] = ()) -> list[str]:
    """Fields of a .cs that a star carries: numbers and byte strings."""
    names = array.dtype.names or ()
    return [
        name
        for name in names
        if not name.startswith((STAR_PREFIX, *leave)) and array[name].dtype.kind in "Suifb"
    ]


def types_text(array: np.ndarray, leave: tuple[str, ...] = ()) -> bytes:
    """The block that holds the types of the carried fields."""
    names = carried_fields(array, leave)
    layout = [
        (n.encode(), array[n].dtype.str, "x".join(map(str, array[n].shape[1:])) or "1")
        for n in names
    ]
    fields, types, shapes = (np.array(column, dtype=bytes) for column in zip(*layout, strict=True))
    columns = {"csField": _escaped(fields), "csType": types, "csShape": shapes}
    return loop_text(TYPES_BLOCK, from_columns(columns))


def carried_layout(columns: StarColumns, source: str) -> np.dtype | None:
    """Names, types and shapes of the .cs fields that a star carries whole, or None.

    Args:
        columns: of the star.
        source: its name, for messages.

    Raises:
        InputError: if the block that says so is damaged.
    """
    begin = b"data_" + TYPES_BLOCK.encode()
    text = next((b for b in columns.blocks if b.split(maxsplit=1)[0] == begin), None)
    if text is None:
        return None
    labels = set(columns.rows.labels)
    try:
        types = read_loop(text, find_blocks(text, source)[0], source).rows
        columns_of = types.columns(("csField", "csType", "csShape"))
        rows = zip(*(c.tolist() for c in columns_of.values()), strict=True)
        fields = [_carried_field(*row) for row in rows]
        held = [field for field in fields if labels.issuperset(_labels(field[0], field[2]))]
        return np.dtype(held) if held else None
    except (ValueError, TypeError, KeyError, SyntaxError) as error:
        found = f"a damaged block data_{TYPES_BLOCK}"
        action = "restore the block, or remove it with the columns _cs."
        expected = "names, types and shapes as they were written"
        raise InputError([Problem(source, found, expected, action)]) from error


def _carried_field(name: bytes, kind: bytes, shape: bytes) -> tuple[str, np.dtype, tuple[int, ...]]:
    """One row of the block of types."""
    sizes = () if shape == b"1" else tuple(int(n) for n in shape.split(b"x"))
    dtype = np.dtype(kind.decode("ascii"))
    known = dtype.kind in "Suifb" and 0 < dtype.itemsize <= MOST_BYTES and dtype.names is None
    if not known or not all(0 < n <= MOST_NUMBERS for n in sizes) or len(sizes) > 3:
        raise ValueError(kind)
    if int(np.prod(sizes, dtype=object)) > MOST_NUMBERS:
        raise ValueError(shape)
    return _ESCAPE.sub(_unescape, name).decode(), dtype, sizes


def _labels(name: str, sizes: tuple[int, ...]) -> list[str]:
    """The columns of the star that carry one field."""
    label = CS_PREFIX + _escaped_text(name.encode()).decode()
    return [f"{label}[{i}]" for i in range(int(np.prod(sizes)))] if sizes else [label]


def cs_from_star(columns: StarColumns, source: str) -> np.ndarray | None:
    """The fields of the .cs that a star carries ``[n]``, or None.

    A field of which a value is damaged is left out with a warning.

    Args:
        columns: of the star.
        source: its name, for messages.
    """
    layout = carried_layout(columns, source)
    if layout is None:
        return None
    wanted = [label for label in columns.rows.labels if label.startswith(CS_PREFIX)]
    texts = columns.rows.columns(wanted)
    fields = {}
    for name in layout.names or ():
        dtype, sizes = layout[name].base, layout[name].shape
        try:
            values = [_parsed(texts[one], dtype) for one in _labels(name, sizes)]
        except (ValueError, OverflowError) as error:
            log.warning("%s: the values of _cs.%s are left out: %s", source, name, error)
            continue
        fields[name] = np.stack(values, axis=1).reshape(-1, *sizes) if sizes else values[0]
    return build(fields, len(columns.rows)) if fields else None


def _escaped(texts: np.ndarray) -> np.ndarray:
    """Text in which every odd byte is ``%XX``: one word that needs no quotes unless empty."""
    return _rewritten(texts, _NEEDS_ESCAPE, lambda text: _escaped_text(text) or b'""')


def _escaped_text(text: bytes) -> bytes:
    return _ODD.sub(lambda m: b"%%%02X" % m[0][0], text)


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 16)])


def _parsed(texts: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Text ``[n]`` as values of a type."""
    if dtype.kind == "S":
        plain = _rewritten(texts, _PERCENT, lambda text: _ESCAPE.sub(_unescape, text))
        return plain.astype(dtype)
    if dtype.kind == "f":
        return texts.astype(np.float64).astype(dtype)
    distinct, codes = np.unique(texts, return_inverse=True)
    return np.array([int(word) for word in distinct.tolist()], dtype=dtype)[codes.ravel()]
