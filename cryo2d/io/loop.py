"""The rows of a star loop: cut by numpy, checked, and their numbers parsed by pandas' C engine.

A few megabytes at a time in threads, so that a million rows take seconds and little more memory
than the file. Every row must have one word per label; a row that has not is named by its line.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from cryo2d.errors import InputError, Problem
from cryo2d.io.rows import NEWLINE, TextRows, Words, from_columns, gather, split_words, unquoted
from cryo2d.io.star import StarBlock, read_header

CHUNK_BYTES = 2 << 20
MAX_PADDED = 64 << 20
EXPANSION = 64
"""Words become columns of the width of the longest: at most so many times the bytes of the text."""

THREADS = min(4, os.cpu_count() or 1)
SHOWN_ROWS = 10


@dataclass(frozen=True)
class StarLoop:
    """The rows of one block.

    Attributes:
        rows: the text.
        line: 1-based line of each row ``[n]``.
        numbers: parsed columns, float64 ``[n]``.
        names: parsed categories: codes ``[n]`` (int32) and the distinct texts.
        image_number: what precedes ``@`` in the image name ``[n]``; -1 if no such number.
    """

    rows: TextRows
    line: np.ndarray
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, tuple[np.ndarray, tuple[str, ...]]] = field(default_factory=dict)
    image_number: np.ndarray | None = None


@dataclass(frozen=True)
class _Request:
    """All labels, and the column numbers of those to parse."""

    labels: tuple[str, ...]
    numbers: dict[str, int]
    names: dict[str, int]
    image: int | None

    @property
    def columns(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Chunk:
    """One piece of the rows, parsed; offsets and lines count from its beginning.

    ``widest`` has the bytes of the longest word, and its line.
    """

    lines: int
    row_line: np.ndarray
    row_words: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    blank_line: int | None
    numbers: dict[str, np.ndarray]
    bad_numbers: tuple[tuple[str, int, str], ...]
    names: dict[str, tuple[np.ndarray, np.ndarray]]
    image_number: np.ndarray | None
    widest: tuple[int, int]


def _first_blank(words: Words) -> int | None:
    """The first line with nothing on it, not even a comment, unless it ends the text."""
    empty = np.flatnonzero(words.per_line == 0)
    ends = np.flatnonzero(words.text == NEWLINE)
    for line in empty.tolist():
        begin = 0 if line == 0 else int(ends[line - 1]) + 1
        end = int(ends[line]) if line < len(ends) else len(words.text)
        if not (words.text[begin:end] > ord(" ")).any():
            return line
    return None


def _plain_text(words: Words) -> bytes:
    """The text with comments blanked and blanks inside quotes filled, for pandas."""
    text = words.text.copy()
    text[~words.solid & (text != NEWLINE)] = ord(" ")
    text[words.solid & (text <= ord(" "))] = ord("_")
    return text.tobytes()


def _parse_numbers(
    words: Words, start: np.ndarray, stop: np.ndarray, columns: dict[str, int]
) -> tuple[dict[str, np.ndarray], tuple[tuple[str, int, str], ...]]:
    """Float columns of one chunk; on a word that is no number, its label, row and text."""
    if not columns or not len(start):
        return {label: np.zeros(len(start)) for label in columns}, ()
    try:
        frame = pd.read_csv(
            io.BytesIO(_plain_text(words)),
            sep=r"\s+",
            header=None,
            usecols=sorted(columns.values()),
            dtype=np.float64,
            quoting=3,
            engine="c",
        )
        return {label: frame[i].to_numpy() for label, i in columns.items()}, ()
    except ValueError:
        bad = []
    for label, column in columns.items():
        texts = gather(words.text, *unquoted(words.text, start[:, column], stop[:, column]))
        values = pd.to_numeric(
            pd.Series(np.char.decode(texts, "latin-1")), errors="coerce"
        ).to_numpy()
        null = np.char.lower(np.char.lstrip(texts, b"+-"))
        rows = np.flatnonzero(np.isnan(values) & ~np.isin(null, [b"nan", b"na", b"null"]))
        bad += [(label, int(row), os.fsdecode(texts[row])) for row in rows[:3]]
    return {label: np.full(len(start), np.nan) for label in columns}, tuple(bad)


def factorize(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[n]`` and distinct values, in order of appearance, of byte strings ``[n]``."""
    if not len(texts):
        return np.zeros(0, np.int32), texts
    change = np.flatnonzero(np.append(True, texts[1:] != texts[:-1]))
    codes, values = pd.factorize(texts[change].astype(object))
    lengths = np.diff(np.append(change, len(texts)))
    return np.repeat(codes, lengths).astype(np.int32), np.asarray(values, dtype=texts.dtype)


def _parse_image(
    text: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Split ``000042@stack.mrcs`` into the number (-1 if malformed) and the factorized stack."""
    names = gather(text, start, stop)
    letters = names.view(np.uint8).reshape(len(names), names.dtype.itemsize)
    found = letters == ord("@")
    at = np.where(found.any(axis=1), found.argmax(axis=1), 0)
    number = np.zeros(len(names), np.int64)
    good = (at > 0) & (at < 16) & (at < stop - start - 1)
    for i in range(int(at.max(initial=0)) if good.any() else 0):
        if i >= 16:
            break
        inside = i < at
        digit = letters[:, i].astype(np.int64) - ord("0")
        good &= ~inside | ((digit >= 0) & (digit <= 9))
        number = np.where(inside & good, number * 10 + digit, number)
    stack = factorize(gather(text, np.where(good, start + at + 1, start), stop))
    return np.where(good, number, -1), stack


def _parse_chunk(text: memoryview, request: _Request) -> _Chunk:
    words = split_words(text)
    per_line = words.per_line
    row_line = np.flatnonzero(per_line)
    row_words = per_line[row_line]
    first = words.line_word[:-1][row_line]
    last = words.line_word[1:][row_line] - 1
    bounds = words.start[first], words.stop[last]
    blank = _first_blank(words) if len(row_line) < len(per_line) else None
    widest = _widest(words)
    padded = widest[0] * len(row_line)
    if (row_words != request.columns).any() or padded > MAX_PADDED:
        return _Chunk(len(per_line), row_line, row_words, *bounds, blank, {}, (), {}, None, widest)
    start = words.start.reshape(len(row_line), request.columns)
    stop = words.stop.reshape(len(row_line), request.columns)
    numbers, bad = _parse_numbers(words, start, stop, request.numbers)
    names = {}
    for label, i in request.names.items():
        texts = gather(words.text, *unquoted(words.text, start[:, i], stop[:, i]))
        names[label] = factorize(texts)
    image = None
    if request.image is not None:
        i = request.image
        inner = unquoted(words.text, start[:, i], stop[:, i])
        image, names["stack"] = _parse_image(words.text, *inner)
    return _Chunk(
        len(per_line), row_line, row_words, *bounds, blank, numbers, bad, names, image, widest
    )


def _widest(words: Words) -> tuple[int, int]:
    """Bytes of the longest word, and its line."""
    width = words.stop - words.start
    if not len(width):
        return 0, 0
    longest = int(width.argmax())
    return int(width[longest]), int(np.searchsorted(words.line_word, longest, side="right")) - 1


def _cut(data: bytes, begin: int, end: int) -> list[tuple[int, int]]:
    """Bounds of pieces of about ``CHUNK_BYTES`` that end at line ends."""
    bounds = []
    while begin < end:
        stop = data.find(b"\n", min(begin + CHUNK_BYTES, end), end)
        stop = end if stop < 0 else stop + 1
        bounds.append((begin, stop))
        begin = stop
    return bounds


class _Builder:
    """Collects the chunks of a loop in order, into columns that are allocated once."""

    def __init__(self, request: _Request, most_rows: int, line: int) -> None:
        self.request = request
        self.next_line = line
        self.count = 0
        self.start, self.stop, self.line = (np.empty(most_rows, np.int64) for _ in range(3))
        self.numbers = {label: np.empty(most_rows) for label in request.numbers}
        stack = [] if request.image is None else ["stack"]
        self.codes = {label: np.empty(most_rows, np.int32) for label in [*request.names, *stack]}
        self.known: dict[str, dict[bytes, int]] = {label: {} for label in self.codes}
        self.image = None if request.image is None else np.empty(most_rows, np.int64)
        self.blank_lines: list[int] = []
        self.wrong_rows: list[tuple[int, int]] = []
        self.wrong_count = 0
        self.bad_numbers: list[tuple[str, int, str]] = []
        self.widest = (0, 0)
        self.is_padded = False

    def add(self, chunk: _Chunk, offset: int) -> None:
        """Append one chunk, which begins at ``offset`` of the text."""
        line, begin = self.next_line, self.count
        rows = slice(begin, begin + len(chunk.row_line))
        self.next_line, self.count = line + chunk.lines, rows.stop
        self.line[rows] = chunk.row_line + line
        self.start[rows] = chunk.start + offset
        self.stop[rows] = chunk.stop + offset
        if chunk.blank_line is not None:
            self.blank_lines.append(line + chunk.blank_line)
        self.widest = max(self.widest, (chunk.widest[0], chunk.widest[1] + line))
        if chunk.widest[0] * len(chunk.row_line) > MAX_PADDED:
            self.is_padded = True
            return
        wrong = np.flatnonzero(chunk.row_words != self.request.columns)
        self.wrong_count += len(wrong)
        shown = wrong[: max(SHOWN_ROWS - len(self.wrong_rows), 0)].tolist()
        self.wrong_rows += [(int(chunk.row_line[i]) + line, int(chunk.row_words[i])) for i in shown]
        if len(wrong):
            return
        self.bad_numbers += [(a, int(chunk.row_line[i]) + line, b) for a, i, b in chunk.bad_numbers]
        for label, values in chunk.numbers.items():
            self.numbers[label][rows] = values
        for label, (codes, texts) in chunk.names.items():
            known = self.known[label]
            renumber = [known.setdefault(text, len(known)) for text in texts.tolist()]
            self.codes[label][rows] = np.array(renumber, np.int32)[codes] if renumber else codes
        if self.image is not None and chunk.image_number is not None:
            self.image[rows] = chunk.image_number

    def check(self, file: str, size: int) -> None:
        """Refuse rows of the wrong length, blank lines between rows, words for numbers."""
        problems = []
        width, line = self.widest
        if self.is_padded or width * self.count > max(4 * MAX_PADDED, EXPANSION * size):
            found = f"a word of {width} bytes, in a file of {self.count} rows and {size} bytes"
            expected = "words of similar length, since a column is as wide as its longest"
            problems.append(Problem(file, found, expected, "shorten the word", row=line))
        if self.count and any(blank < self.line[self.count - 1] for blank in self.blank_lines):
            action = "remove the blank line (RELION would drop the rows after it)"
            found, row = "a blank line inside the loop", self.blank_lines[0]
            problems.append(Problem(file, found, "rows without gaps", action, row=row))
        for i, (row, words) in enumerate(self.wrong_rows, start=1):
            more = self.wrong_count - i + 1 if i == len(self.wrong_rows) else 1
            action = "repair the row, or export the file again: it may be cut or damaged"
            expected = f"{self.request.columns} columns"
            problems.append(Problem(file, f"{words} values", expected, action, row, more))
        for label, row, text in self.bad_numbers:
            found = f"{text[:40]!r} in column {label}"
            problems.append(Problem(file, found, "a number", "repair the value", row=row))
        if problems:
            raise InputError(problems)

    def loop(self, text: bytes) -> StarLoop:
        """The loop, once all chunks are there."""
        n = self.count
        names = {k: (v[:n], tuple(map(os.fsdecode, self.known[k]))) for k, v in self.codes.items()}
        return StarLoop(
            TextRows(tuple(self.request.labels), text, self.start[:n], self.stop[:n]),
            self.line[:n],
            {label: values[:n] for label, values in self.numbers.items()},
            names,
            None if self.image is None else self.image[:n],
        )


def _check_end(data: bytes, block: StarBlock, file: str) -> None:
    if block.end == len(data) and data[data.rfind(b"\n") + 1 :].strip():
        line = block.line + data.count(b"\n", block.begin, block.end)
        action = "export it again if it is cut, or end the last line with a newline if it is not"
        found = "a file that ends inside its last row"
        raise InputError([Problem(file, found, "a newline at the end", action, row=line)])


def read_loop(
    data: bytes,
    block: StarBlock,
    file: str,
    *,
    numbers: Sequence[str] = (),
    names: Sequence[str] = (),
    image: str | None = None,
) -> StarLoop:
    """Read the rows of a block.

    Args:
        data: text of the file.
        block: the block.
        file: name of the file, for messages.
        numbers: labels to parse as float64; those the block lacks are left out.
        names: labels to parse as categories; those the block lacks are left out.
        image: label of image names to split at ``@``; its stacks become the category ``stack``.

    Returns:
        The rows; a block of pairs is one row.

    Raises:
        InputError: naming each row that is too short or too long, or holds a word where a number
            should be, and the first blank line between rows.
    """
    header = read_header(data, block, file)
    labels = header.labels
    begin, end, line, text = header.begin, block.end, header.line, data
    if header.values is not None:
        pairs = from_columns({k: np.array([v]) for k, v in zip(labels, header.values, strict=True)})
        begin, end, line, text = 0, len(pairs.data), block.line, pairs.data
    else:
        _check_end(data, block, file)
    request = _Request(
        labels,
        {label: labels.index(label) for label in numbers if label in labels},
        {label: labels.index(label) for label in names if label in labels},
        labels.index(image) if image is not None else None,
    )
    cuts = _cut(text, begin, end)
    view = memoryview(text)
    builder = _Builder(request, text.count(b"\n", begin, end) + 1, line)
    with ThreadPoolExecutor(THREADS) as pool:
        chunks = pool.map(lambda cut: _parse_chunk(view[cut[0] : cut[1]], request), cuts)
        for (offset, _), chunk in zip(cuts, chunks, strict=True):
            builder.add(chunk, offset)
    builder.check(file, end - begin)
    return builder.loop(text)
