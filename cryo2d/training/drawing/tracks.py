"""The classes over the iterations: one row per class, one column per iteration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cryo2d.io.atomic import atomic_write
from cryo2d.training.drawing import style
from cryo2d.training.drawing.montage import grey_levels

FILE = "tracks.npz"
EDGE = 48
"""Edge of a kept picture (pixel)."""

MOST_ROWS = 30
BLOCK_ROWS = 15
"""Classes below each other before a second block begins."""


@dataclass(frozen=True)
class Tracks:
    """What the classes looked like at some iterations.

    Attributes:
        iteration: numbers from 0, rising ``[i]``.
        levels: averages, grey ``[i k y x]`` (uint8).
        count: particles of that iteration in each class ``[i k]``.
    """

    iteration: np.ndarray
    levels: np.ndarray
    count: np.ndarray

    def __len__(self) -> int:
        return len(self.iteration)

    def followed(
        self,
        iteration: int,
        averages: np.ndarray,
        count: np.ndarray,
        *,
        most: int,
        radius: float | None = None,
    ) -> "Tracks":
        """These with one more iteration, and the old ones thinned out evenly.

        Kept are the newest and every multiple of the power of two with which no more than ``most``
        are left, so that it does not matter how many iterations are to come.

        Args:
            iteration: its number; later ones are forgotten.
            averages: ``[k y x]``.
            count: ``[k]``.
            most: iterations kept besides the newest.
            radius: of the mask (pixel).
        """
        keep = (self.iteration < iteration) & (self.iteration % stride(iteration, most) == 0)
        small = np.stack([_small(levels) for levels in grey_levels(averages, radius)])
        return Tracks(
            np.append(self.iteration[keep], iteration),
            np.concatenate([self.levels[keep], small[None]]),
            np.concatenate([self.count[keep], np.asarray(count, np.int64)[None]]),
        )


def stride(iteration: int, most: int) -> int:
    """Distance of the iterations that are kept at an iteration: a power of two."""
    found = 1
    while iteration // found >= most:
        found *= 2
    return found


def stays(iteration: int, most: int) -> bool:
    """Whether an iteration is kept beyond the next one; arguments as :meth:`Tracks.followed`."""
    return iteration % stride(iteration, most) == 0


def no_tracks(num_classes: int) -> Tracks:
    """Those of no iteration yet."""
    none = np.zeros((0, num_classes, EDGE, EDGE), np.uint8)
    return Tracks(np.zeros(0, np.int64), none, np.zeros((0, num_classes), np.int64))


def write_tracks(folder: Path, tracks: Tracks, *, small: bool = True) -> None:
    """Write ``tracks.npz``, whole or not at all; ``small`` takes half the bytes and more time."""
    with atomic_write(folder / FILE) as file:
        (np.savez_compressed if small else np.savez)(file, **vars(tracks))


def read_tracks(folder: Path) -> Tracks | None:
    """The ``tracks.npz`` of a folder, None if it has none."""
    path = folder / FILE
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as found:
        return Tracks(found["iteration"], found["levels"], found["count"])


def draw_tracks(tracks: Tracks, order: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """Averages down, iterations across; the bar below a picture is the size of the class.

    Args:
        tracks: at least one iteration.
        order: class numbers from top to bottom; None for the largest first.

    Returns:
        ``[height width 3]`` uint8.
    """
    largest = np.argsort(-tracks.count[-1], kind="stable")
    shown = np.asarray(largest if order is None else order)[:MOST_ROWS].tolist()
    tile, gap, text, label, head = EDGE, 4, 11, 76, 22
    blocks = -(-len(shown) // BLOCK_ROWS)
    rows = -(-len(shown) // blocks)
    wide, high = label + len(tracks) * (tile + gap) + 20, tile + gap + 6
    canvas = Image.new("RGB", (blocks * wide, head + rows * high), "white")
    draw = ImageDraw.Draw(canvas)
    share = tracks.count / np.maximum(tracks.count.max(1, keepdims=True), 1)
    for block in range(blocks):
        left = block * wide + label
        for column, number in enumerate(tracks.iteration.tolist()):
            above = (left + column * (tile + gap) + tile // 2, head - 5)
            draw.text(above, f"{number}", style.MUTED, style.font(text), anchor="ms")
    for place, k in enumerate(shown):
        left, top = place // rows * wide, head + place % rows * high
        middle, edge = top + tile // 2, left + label - 8
        ink = style.WARNING if tracks.count[-1, k] == 0 else style.INK
        draw.text((edge, middle - 1), f"#{k + 1}", ink, style.font(text, True), anchor="rs")
        words = f"{tracks.count[-1, k]:,}"
        draw.text((edge, middle + 1), words, style.MUTED, style.font(text - 1), anchor="rt")
        for column in range(len(tracks)):
            start = left + label + column * (tile + gap)
            if tracks.count[column, k] > 0:
                canvas.paste(Image.fromarray(tracks.levels[column, k]), (start, top))
            else:
                draw.rectangle((start, top, start + tile - 1, top + tile - 1), style.BLANK)
            length = round(share[column, k] * (tile - 1))
            if length:
                below = top + tile + 2
                draw.rectangle((start, below, start + length, below + 2), style.ACCENT)
    return np.asarray(canvas)


def _small(levels: np.ndarray) -> np.ndarray:
    """A picture of the kept size (uint8)."""
    picture = Image.fromarray(levels).resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    return np.clip(np.asarray(picture) * 255.0, 0, 255).astype(np.uint8)
