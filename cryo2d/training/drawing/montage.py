"""Class averages as one picture: a grid of tiles, each with its numbers below."""

import math

import numpy as np
from PIL import Image, ImageDraw

from cryo2d.training.drawing import style
from cryo2d.training.drawing.classes import ClassTable, number

BACKGROUND = 0.26
"""Grey level of the solvent, the same in every tile."""

ANGSTROM = "\u00c5"


def grey_levels(averages: np.ndarray, radius: float | None = None) -> np.ndarray:
    """Class averages on a grey scale of their own, solvent at one common mid-dark grey.

    The brightest 0.5 % of the pixels inside the mask are white. Dark fringes keep their
    contrast as long as they are not deeper than the particle is high; an average without any
    contrast is plain solvent. Beyond the mask the picture fades into solvent, so that neither
    the edge of a mask nor noise in the corners draws the eye.

    Args:
        averages: ``[k y x]``, protein white.
        radius: mask radius (pixel); None for 0.42 of the box.

    Returns:
        ``[k y x]`` float32; values below 0 or above 1 are black and white.
    """
    size = averages.shape[-1]
    radius = 0.42 * size if radius is None else min(radius, size / 2)
    outer = min(1.2 * radius, size / 2)
    y, x = np.indices(averages.shape[-2:]) - size // 2
    distance = np.hypot(y, x)
    rim = (distance <= radius) & (distance >= 0.8 * radius)
    solvent = np.median(averages[:, rim], axis=1)
    low, high = np.percentile(averages[:, distance <= radius], (0.5, 99.5), axis=1)
    height, depth = high - solvent, solvent - low
    # a stretch that would blow noise of a junk class up to black and white is held back by depth
    span = np.maximum(height / (1 - BACKGROUND), depth / (2 * BACKGROUND))
    span = np.where(span > 1e-6 * np.abs(averages).max(initial=0.0), span, np.inf)
    inside = np.clip((outer - distance) / max(outer - radius, 1.0), 0.0, 1.0)
    levels = inside * (averages - solvent[:, None, None]) / span[:, None, None] + BACKGROUND
    return levels.astype(np.float32)


def grid_columns(count: int, aspect: float = 1.8) -> int:
    """Number of columns: near columns / rows = aspect, few holes in the last row."""
    ideal = math.sqrt(aspect * count)
    candidates = range(max(1, int(0.7 * ideal)), min(count, math.ceil(1.35 * ideal)) + 1)
    return min(candidates, key=lambda c: abs(math.log(c / ideal)) + ((-count) % c) / c)


def draw_montage(
    averages: np.ndarray,
    table: ClassTable,
    *,
    pixel_size: float,
    title: str,
    subtitle: str = "",
    order: np.ndarray | None = None,
    mask_diameter: float | None = None,
    tile: int | None = None,
) -> np.ndarray:
    """All class averages with particle count, resolution and ESS below each.

    Args:
        averages: ``[k y x]``, protein white.
        table: the numbers below the tiles.
        pixel_size: of the averages (Angstrom).
        title: bold first line.
        subtitle: smaller second line.
        order: class numbers in reading order; None for largest class first.
        mask_diameter: circle in which the contrast is measured (Angstrom).
        tile: edge of a tile (pixel); None for the box size between 112 and 192.

    Returns:
        ``[height width 3]`` uint8.
    """
    order = table.by_count() if order is None else order
    box = averages.shape[-1]
    tile = min(192, max(112, box)) if tile is None else tile
    radius = None if mask_diameter is None else 0.5 * mask_diameter / pixel_size
    levels = grey_levels(averages, radius)
    text = max(9, round(0.085 * tile))
    columns, gap, margin = grid_columns(len(order)), max(6, tile // 14), round(0.16 * tile)
    cell = tile + 3 * text + gap + (0 if table.score is None else round(1.25 * text))
    # room for the title over a grid of one or two columns
    columns = max(columns, min(3, len(order)))
    rows = math.ceil(len(order) / columns)
    header = round(4.2 * text)
    scale = tile / (box * pixel_size)
    bar = round_length(0.75 * box * pixel_size)
    words = style.font(round(1.25 * text), True).getlength(title)
    width = 2 * margin + max(columns * (tile + gap) - gap, round(words + bar * scale) + margin)
    height = header + rows * cell + margin // 2
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    _header(draw, margin, text, title, subtitle)
    _scale_bar(draw, (width - margin, round(2.7 * text)), text, bar, bar * scale)
    for position, k in enumerate(order):
        left = margin + (position % columns) * (tile + gap)
        top = header + (position // columns) * cell
        if table.count[k] > 0:
            _tile(canvas, (left, top), tile, levels[k])
        else:
            corners = (left, top, left + tile - 1, top + tile - 1)
            draw.rectangle(corners, style.BLANK, style.RULE)
        _caption(draw, (left, top + tile + text // 4), tile, text, table, int(k))
    return np.asarray(canvas)


def _tile(canvas: Image.Image, corner: tuple[int, int], tile: int, levels: np.ndarray) -> None:
    picture = Image.fromarray(levels).resize((tile, tile), Image.Resampling.BICUBIC)
    grey = np.clip(np.asarray(picture) * 255.0, 0, 255).astype(np.uint8)
    canvas.paste(Image.fromarray(grey), corner)


def _caption(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    tile: int,
    size: int,
    table: ClassTable,
    k: int,
) -> None:
    left, top = corner
    right, second = left + tile, top + round(1.25 * size)
    small = max(8, size - 1)
    ink = style.WARNING if table.count[k] == 0 else style.INK
    draw.text((left, top), f"{table.count[k]:,}", ink, style.font(size, bold=True))
    draw.text((right, top), f"#{k + 1}", style.MUTED, style.font(small), anchor="ra")
    if table.count[k] == 0:
        draw.text((left, second), "empty", style.WARNING, style.font(small))
        return
    resolution = f"{number(table.resolution[k], 1)} {ANGSTROM}"
    draw.text((left, second), resolution, style.INK, style.font(small))
    ess = f"ESS {number(table.ess[k], 1)}"
    draw.text((right, second), ess, style.MUTED, style.font(small), anchor="ra")
    if table.score is not None:
        place = (left, second + round(1.25 * size))
        ink = style.WARNING if table.score[k] < 0.5 else style.INK
        draw.text(place, f"score {table.score[k]:.2f}", ink, style.font(small))


def _header(draw: ImageDraw.ImageDraw, left: int, size: int, title: str, subtitle: str) -> None:
    draw.text((left, round(0.8 * size)), title, style.INK, style.font(round(1.25 * size), True))
    draw.text((left, round(2.4 * size)), subtitle, style.MUTED, style.font(size))


def _scale_bar(
    draw: ImageDraw.ImageDraw, end: tuple[int, int], size: int, length: float, pixels: float
) -> None:
    """A bar that ends at ``end``, ``length`` in Angstrom and in picture ``pixels``."""
    right, base = end
    draw.rectangle((right - round(pixels), base, right, base + max(2, size // 4)), style.INK)
    place = (right - round(pixels / 2), base - size // 4)
    draw.text(place, f"{length:g} {ANGSTROM}", style.INK, style.font(size), anchor="mb")


def round_length(target: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not longer than the target."""
    power = 10.0 ** math.floor(math.log10(target))
    return max(step * power for step in (1, 2, 5) if step * power <= target * (1 + 1e-9))
