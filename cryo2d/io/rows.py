"""Rows of whitespace-separated text, kept as the bytes of the file and cut into words on demand.

A particle star of a million rows is 300 MB of text: as Python strings it would be ten times that.
Here the text stays one ``bytes`` object with the bounds of every row, so that columns survive
verbatim, and numpy finds the words of a few thousand rows at a time.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

CHUNK_ROWS = 32768
NEWLINE = 10

# A quoted word or a comment, opening at the start of a word; quotes close before white space.
_QUOTED_OR_COMMENT = re.compile(rb"""(?<!\S)(?:"[^\n]*?"(?!\S)|'[^\n]*?'(?!\S)|\#[^\n]*)""")


@dataclass(frozen=True)
class Words:
    """The words of a piece of text.

    Attributes:
        text: the bytes of the text ``[b]`` (uint8).
        solid: whether a byte belongs to a word ``[b]``; blanks inside quotes do, comments do not.
        start: first byte of each word ``[w]``.
        stop: one past the last byte of each word ``[w]``.
        line_word: number of the first word of each line, and the total ``[lines + 1]``.
    """

    text: np.ndarray
    solid: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    line_word: np.ndarray

    @property
    def per_line(self) -> np.ndarray:
        """Number of words of each line ``[lines]``."""
        return np.diff(self.line_word)


def split_words(text: bytes | memoryview) -> Words:
    """Find the words of every line of a text.

    A word is a run of bytes above the blank, or a quoted string; ``#`` at the start of a word
    begins a comment that lasts to the end of the line (inside a word it is an ordinary byte).

    Args:
        text: lines separated by newlines; the last one may lack it.

    Returns:
        The bounds of the words.
    """
    raw = np.frombuffer(text, np.uint8)
    solid = raw > ord(" ")
    if any((raw == ord(mark)).any() for mark in "\"'#"):
        for match in _QUOTED_OR_COMMENT.finditer(text):
            begin, end = match.span()
            solid[begin:end] = raw[begin] != ord("#")
    padded = np.zeros(len(raw) + 2, bool)
    padded[1:-1] = solid
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    start, stop = edges[0::2], edges[1::2]
    newlines = np.flatnonzero(raw == NEWLINE)
    if len(raw) and (not len(newlines) or newlines[-1] != len(raw) - 1):
        newlines = np.append(newlines, len(raw))
    line_word = np.append(0, np.searchsorted(start, newlines))
    return Words(raw, solid, start, stop, line_word)


def gather(text: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Copy pieces of text into an array of byte strings.

    Args:
        text: bytes ``[b]`` (uint8).
        start: first byte of each piece ``[n]``.
        stop: one past the last byte of each piece ``[n]``.

    Returns:
        The pieces ``[n]``, dtype ``S`` of the longest of them.
    """
    length = stop - start
    width = max(int(length.max(initial=0)), 1)
    padded = np.concatenate([text, np.zeros(width, np.uint8)])
    pieces = np.lib.stride_tricks.sliding_window_view(padded, width)[start]
    pieces[np.arange(width) >= length[:, None]] = 0
    return pieces.view(f"S{width}").ravel()


def unquoted(
    text: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of words without the quotes round them."""
    first = text[np.minimum(start, len(text) - 1)]
    last = text[stop - 1]
    quoted = ((first == ord('"')) | (first == ord("'"))) & (first == last) & (stop - start > 1)
    return start + quoted, stop - quoted


@dataclass(frozen=True)
class TextRows:
    """Named columns over rows of text.

    Attributes:
        labels: names of the columns, without the leading underscore.
        data: the text that holds the rows.
        start: first byte of each row ``[n]`` (int64).
        stop: one past the last byte of each row ``[n]`` (int64).
    """

    labels: tuple[str, ...]
    data: bytes
    start: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return int(self.start.shape[0])

    def take(self, rows: np.ndarray) -> "TextRows":
        """Some of the rows, over the same text."""
        return replace(self, start=self.start[rows], stop=self.stop[rows])

    def lines(self, begin: int, end: int) -> list[bytes]:
        """The verbatim text of the rows ``begin`` to ``end``."""
        bounds = zip(self.start[begin:end].tolist(), self.stop[begin:end].tolist(), strict=True)
        return [self.data[a:b] for a, b in bounds]

    def chunks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Cut the rows into words, some thousand rows at a time.

        Yields:
            The slice of rows ``c``, their text, and the bounds of their words ``[c columns]``.
        """
        for begin in range(0, len(self), CHUNK_ROWS):
            end = min(begin + CHUNK_ROWS, len(self))
            words = split_words(b"\n".join(self.lines(begin, end)))
            shape = (end - begin, len(self.labels))
            yield (
                slice(begin, end),
                words.text,
                words.start.reshape(shape),
                words.stop.reshape(shape),
            )

    def columns(self, labels: Sequence[str]) -> dict[str, np.ndarray]:
        """The text of some columns, quotes removed.

        Args:
            labels: names of columns.

        Returns:
            For each label an array of byte strings ``[n]``.
        """
        index = [self.labels.index(label) for label in labels]
        parts: dict[str, list[np.ndarray]] = {label: [np.zeros(0, "S1")] for label in labels}
        for _, text, start, stop in self.chunks():
            for label, column in zip(labels, index, strict=True):
                bounds = unquoted(text, start[:, column], stop[:, column])
                parts[label].append(gather(text, *bounds))
        return {label: np.concatenate(pieces) for label, pieces in parts.items()}

    def column(self, label: str) -> np.ndarray:
        """The text of one column ``[n]``, quotes removed (bytes)."""
        return self.columns([label])[label]


def from_columns(columns: dict[str, np.ndarray]) -> TextRows:
    """Rows of text from columns of words.

    Args:
        columns: for each label an array of byte strings ``[n]``, quoted where they need it.

    Returns:
        The rows, one blank between words.
    """
    words = list(columns.values())
    lines = [b" ".join(row) for row in zip(*(w.tolist() for w in words), strict=True)]
    lengths = np.fromiter(map(len, lines), np.int64, len(lines))
    stop = np.cumsum(lengths + 1) - 1
    return TextRows(tuple(columns), b"\n".join(lines), stop - lengths, stop)
