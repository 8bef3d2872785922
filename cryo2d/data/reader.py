"""Particle images from disk: each raw byte once, in file order, by a few threads."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cryo2d.errors import InputError
from cryo2d.io.mrc import FileState, StackReader
from cryo2d.io.particles import ParticleTable

CHUNK_BYTES = 16 << 20
MOST_IMAGES = 1024
LARGEST_VALUE = 1e15
"""The squares of a box of larger values overflow single precision."""

LEAST_SPREAD = 1e-18
"""Images that vary less are constant in single precision."""


class ImageChunk(NamedTuple):
    """Some particle images.

    Attributes:
        rows: rows of the table ``[c]`` (int64), each once over all chunks.
        images: ``[c y x]`` (float32), of those rows, or what was prepared from them.
        bad: reason for each row that could not be used; these are not among ``rows``.
    """

    rows: np.ndarray
    images: Any
    bad: dict[int, str]


def iterate(
    table: ParticleTable,
    *,
    rows: np.ndarray | None = None,
    threads: int = 4,
    int8_signed: bool = True,
    chunk: int | None = None,
    prepare: Callable[[np.ndarray], Any] | None = None,
    states: dict[str, FileState] | None = None,
) -> Iterator[ImageChunk]:
    """Read the images of a table, by stack and position in the stack.

    One request to the system for each run of consecutive images, at most ``2 * threads`` chunks in
    memory, an image that several rows share read once. ``table.sign`` is applied.

    Args:
        table: the particles.
        rows: only these rows.
        threads: readers at work.
        int8_signed: whether MRC mode 0 holds signed bytes.
        chunk: most distinct images in one piece; by default 16 MB of them.
        prepare: applied to the images of a chunk in the thread that has read them.
        states: of the stacks as earlier calls have found them; those opened here are added.

    Yields:
        Chunks in file order. An image that cannot be read, is cut short, constant, holds NaN,
        infinity or numbers beyond single precision, or comes from a stack that is another one than
        before, is reported in ``bad`` instead.

    Raises:
        EnvironmentFault: if the machine lacks descriptors, or room to unpack a stack.
    """
    wanted = np.arange(len(table)) if rows is None else np.asarray(rows, np.int64)
    order = wanted[np.lexsort((table.image_index[wanted], table.stack_id[wanted]))]
    first = np.flatnonzero(_is_new(table, order))
    if chunk is None:
        box = max(int(table.box.max(initial=1)), 1)
        chunk = max(1, min(MOST_IMAGES, CHUNK_BYTES // (4 * box**2)))
    pieces = np.split(order, first[chunk::chunk]) if len(order) else []
    waiting: deque[Future[ImageChunk]] = deque()
    reader = StackReader(int8_signed=int8_signed, states=states)
    with reader, ThreadPoolExecutor(max(threads, 1)) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(_read_chunk, table, piece, reader, prepare))
                if len(waiting) >= 2 * max(threads, 1):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _is_new(table: ParticleTable, order: np.ndarray) -> np.ndarray:
    """Whether a row, in file order, shows another image than the row before it ``[n]``."""
    stack, image = table.stack_id[order], table.image_index[order]
    change = (stack[1:] != stack[:-1]) | (image[1:] != image[:-1])
    return np.append(True, change)[: len(order)]


def _read_chunk(
    table: ParticleTable,
    rows: np.ndarray,
    reader: StackReader,
    prepare: Callable[[np.ndarray], Any] | None,
) -> ImageChunk:
    """Read the images of some rows in file order."""
    new = _is_new(table, rows)
    place = np.cumsum(new) - 1
    distinct = rows[new]
    stack, image = table.stack_id[distinct], table.image_index[distinct]
    breaks = np.flatnonzero((np.diff(stack) != 0) | (np.diff(image) != 1)) + 1
    parts, reasons = [], {}
    for run in np.split(np.arange(len(distinct)), breaks):
        path, begin = table.stacks[stack[run[0]]], int(image[run[0]])
        pixels, failure = _read_run(reader, path, begin, len(run), int(table.box[0]))
        parts.append(pixels)
        for i, reason in {**_unusable(pixels), **failure}.items():
            reasons[int(run[i])] = f"image {begin + i + 1} of {path} {reason}"
    images = parts[0] if len(parts) == 1 else np.concatenate(parts)
    good = np.array([int(i) not in reasons for i in place], bool)
    picked = images if good.all() and new.all() else images[place[good]]
    flipped = table.sign[rows[good]]
    if (flipped != 1).any():
        picked = picked * flipped[:, None, None]
    bad = {int(row): reasons[int(i)] for row, i in zip(rows[~good], place[~good], strict=True)}
    return ImageChunk(rows[good], picked if prepare is None else prepare(picked), bad)


def _read_run(
    reader: StackReader, path: str, first: int, count: int, box: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Consecutive images ``[c y x]``, zeros where they could not be read, and why not."""
    blank = np.zeros((count, box, box), np.float32)
    try:
        pixels = reader.read(path, first, count)
    except InputError as error:
        reason = f"cannot be read: found {error.problems[0].found}"
        return blank, dict.fromkeys(range(count), reason)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or os.strerror(error.errno or 0)})"
        return blank, dict.fromkeys(range(count), reason)
    if pixels.shape[1:] != (box, box):
        reason = f"has {pixels.shape[2]} x {pixels.shape[1]} pixels, not {box} x {box}"
        return blank, dict.fromkeys(range(count), reason)
    held = len(pixels)
    if held == count:
        return pixels, {}
    reason = "is cut short: the file ends before it does"
    return np.concatenate([pixels, blank[held:]]), dict.fromkeys(range(held, count), reason)


def _unusable(pixels: np.ndarray) -> dict[int, str]:
    """Which images hold NaN, infinity or numbers whose squares are, or one value only."""
    if not pixels.size:
        return {}
    low, high = pixels.min(axis=(1, 2)), pixels.max(axis=(1, 2))
    finite = np.isfinite(low) & np.isfinite(high)
    reasons = dict.fromkeys(np.flatnonzero(~finite).tolist(), "holds NaN or infinity")
    with np.errstate(over="ignore", invalid="ignore"):
        spread = high - low
    flat = np.flatnonzero(finite & (spread < LEAST_SPREAD)).tolist()
    largest = np.maximum(np.abs(low), np.abs(high))
    huge = np.flatnonzero(finite & (largest > LARGEST_VALUE)).tolist()
    reasons |= {i: f"holds values up to {largest[i]:g}" for i in huge}
    return reasons | {i: f"is constant ({low[i]:g} everywhere)" for i in flat}
