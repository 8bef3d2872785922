"""STAR files: data blocks, and strict reading of their loops.

A block is ``data_NAME`` followed by ``_label value`` pairs or by one ``loop_`` of rows.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryo2d.errors import InputError, Problem
from cryo2d.io.regular import read_regular
from cryo2d.io.rows import split_words

BOM = b"\xef\xbb\xbf"
STAMPS = (b"# version ", b"# written by cryo2d")
"""What stands in files of programs that end every table with an empty line."""

STAMP_BYTES = 4096
_LAST_LINE_BLANK = re.compile(rb"\n[ \t\r]*\n[ \t\r]*\Z")


@dataclass(frozen=True)
class StarBlock:
    """Where one data block lies in the text of a star file.

    Attributes:
        name: what follows ``data_``.
        begin: offset of its ``data_`` line.
        end: offset one past its last byte.
        line: 1-based number of its ``data_`` line.
    """

    name: str
    begin: int
    end: int
    line: int


def _is_binary(data: bytes) -> bool:
    return b"\0" in data


def read_text(path: str | Path) -> bytes:
    """The bytes of a regular file, without a byte order mark.

    Raises:
        InputError: if it is not a readable regular file, or not text.
        EnvironmentFault: if the machine has no descriptor left.
    """
    data = read_regular(path, "a star file", stop=_is_binary)
    if _is_binary(data):
        found = f"binary data starting with {data[:12]!r}"
        raise InputError([Problem(str(path), found, "the text of a star file", "check the path")])
    return data.removeprefix(BOM)


def find_blocks(data: bytes, file: str) -> tuple[StarBlock, ...]:
    """Find the data blocks of a star file.

    Raises:
        InputError: if there are none, or two of the same name.
    """
    offsets = [0] if data.startswith(b"data_") else []
    at = data.find(b"\ndata_")
    while at >= 0:
        offsets.append(at + 1)
        at = data.find(b"\ndata_", at + 1)
    stray = data[: offsets[0] if offsets else 4096]
    words = split_words(stray)
    if len(words.start) or not offsets:
        found = "nothing but comments" if stray.strip() else "an empty file"
        if len(words.start):
            text = stray[words.start[0] : words.stop[0]][:40].decode(errors="replace")
            found = f"text that begins with {text!r} before any block"
        expected = "a star file, whose first word is data_ and a name"
        raise InputError([Problem(file, found, expected, "check that this is a star file")])
    line, previous, blocks = 1, 0, []
    for begin, end in zip(offsets, [*offsets[1:], len(data)], strict=True):
        line += data.count(b"\n", previous, begin)
        previous = begin
        word = data[begin : begin + 1024].split(maxsplit=1)[0]
        blocks.append(StarBlock(os.fsdecode(word[5:]), begin, end, line))
    names = [block.name for block in blocks]
    twice = [block for i, block in enumerate(blocks) if block.name in names[:i]]
    if twice:
        problems = [
            Problem(file, f"block data_{b.name} again", "each name once", "rename one", row=b.line)
            for b in twice
        ]
        raise InputError(problems)
    return tuple(blocks)


def is_perhaps_cut(data: bytes, block: StarBlock) -> bool:
    """Whether the last block of a file lacks the empty line with which its program ends it."""
    written_so = any(stamp in data[:STAMP_BYTES] for stamp in STAMPS)
    return block.end == len(data) and written_so and not _LAST_LINE_BLANK.search(data[-64:])


@dataclass(frozen=True)
class Header:
    """The labels of a block, and where its rows begin.

    Attributes:
        labels: without the leading underscore.
        values: one per label where the block is no loop, else None.
        begin: offset of the first row.
        line: 1-based line of the first row.
    """

    labels: tuple[str, ...]
    values: tuple[bytes, ...] | None
    begin: int
    line: int


def _header_lines(data: bytes, block: StarBlock) -> Iterator[tuple[int, int, list[bytes]]]:
    """Offset, line number and words of the lines after ``data_``."""
    at, line = block.begin, block.line
    while at < block.end:
        stop = data.find(b"\n", at, block.end)
        stop = block.end if stop < 0 else stop + 1
        words = split_words(data[at:stop])
        bounds = zip(words.start.tolist(), words.stop.tolist(), strict=True)
        if line > block.line:
            yield at, line, [data[at + a : at + b] for a, b in bounds]
        at, line = stop, line + 1


def _label(word: bytes, file: str, line: int) -> str:
    """The label that a word is, without the underscore."""
    if not word.isascii() or len(word) == 1:
        found = f"label {word[:40]!r}"
        action = "rename the column"
        raise InputError([Problem(file, found, "_ and a name in ASCII", action, row=line)])
    return word[1:].decode()


def read_header(data: bytes, block: StarBlock, file: str) -> Header:
    """Read the labels of a block.

    Raises:
        InputError: on a label without value outside a loop, a label given twice, or stray text.
    """
    labels: list[str] = []
    values: list[bytes] = []
    loop, begin, row_line = False, block.end, block.line
    for at, line, words in _header_lines(data, block):
        if not words:
            continue
        if words[0].lower() == b"loop_" and not labels and not loop:
            loop = True
        elif words[0].startswith(b"_") and not (loop and begin < block.end):
            labels.append(_label(words[0], file, line))
            if not loop:
                if len(words) != 2:
                    found = f"{len(words) - 1} values for {os.fsdecode(words[0])}"
                    expected = "one value per label, or loop_ before the labels"
                    raise InputError([Problem(file, found, expected, "repair the line", row=line)])
                values.append(words[1])
        else:
            begin, row_line = at, line
            break
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or (not loop and begin < block.end):
        found = f"column {twice[0]} twice" if twice else "text that is neither label nor loop_"
        row = block.line if twice else row_line
        expected = "each label once" if twice else "loop_, or labels with their values"
        raise InputError([Problem(file, found, expected, "repair the block header", row=row)])
    return Header(tuple(labels), None if loop else tuple(values), begin, row_line)
