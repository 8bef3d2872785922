"""Pictures of superclasses: their members side by side, and their sizes before and after."""

import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image, ImageDraw

from cryo2d.training.drawing import style
from cryo2d.training.drawing.montage import grey_levels

COLUMNS, TILE, TEXT, HEAD, GAP, MARGIN = 10, 104, 12, 36, 10, 16


def draw_superclasses(
    images: np.ndarray,
    label: np.ndarray,
    count: np.ndarray,
    mirrored: np.ndarray,
    kept: np.ndarray,
    radius: float | None = None,
) -> np.ndarray:
    """The registered class averages of each superclass side by side, largest class first.

    Args:
        images: averages in the frame of their superclass ``[k y x]``.
        label: superclass of each class ``[k]``; -1 for none.
        count: particles of each class ``[k]``.
        mirrored: whether an average was mirrored ``[k]``.
        kept: particles that each superclass keeps ``[u]``.
        radius: mask radius (pixel).

    Returns:
        ``[height width 3]`` uint8.
    """
    levels = grey_levels(images, radius)
    groups = [_by_count(np.flatnonzero(label == g), count) for g in range(len(kept))]
    places, width, height = _flow([len(members) for members in groups])
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for g, members in enumerate(groups):
        before = int(count[members].sum())
        colour = style.SECOND if kept[g] < before else style.MUTED
        left, top = places[g][0]
        draw.text((left, top), f"superclass {g + 1}", style.INK, style.font(TEXT, True))
        words = f"{kept[g]:,} of {before:,}"
        draw.text((left, top + 16), words, colour, style.font(TEXT - 1))
        for k, (left, top) in zip(members, places[g], strict=True):
            picture = Image.fromarray(levels[k]).resize((TILE, TILE), Image.Resampling.BICUBIC)
            grey = np.clip(np.asarray(picture) * 255.0, 0, 255).astype(np.uint8)
            canvas.paste(Image.fromarray(grey), (left, top + HEAD))
            number, under = f"#{k + 1}" + (" mirror" if mirrored[k] else ""), top + HEAD + TILE + 2
            draw.text((left, under), f"{count[k]:,}", style.INK, style.font(TEXT - 1))
            place = (left + TILE, under)
            draw.text(place, number, style.MUTED, style.font(TEXT - 2), anchor="ra")
    return np.asarray(canvas)


def _flow(sizes: list[int]) -> tuple[list[list[tuple[int, int]]], int, int]:
    """Corners of the tiles of each group, set like words in lines; width and height of the page."""
    cell = HEAD + TILE + 2 * TEXT
    places, column, line, widest = [], 0, 0, 0
    for size in sizes:
        if column and column + size > COLUMNS:
            column, line = 0, line + 1
        corners = []
        for i in range(size):
            if i and column == COLUMNS:
                column, line = 0, line + 1
            left = MARGIN + column * (TILE + GAP)
            corners.append((left, MARGIN + line * (cell + GAP)))
            column += 1
        places.append(corners)
        widest = max(widest, column if line == 0 else COLUMNS)
    width = 2 * MARGIN + max(widest, 3) * (TILE + GAP) - GAP
    return places, width, 2 * MARGIN + (line + 1) * (cell + GAP)


def _by_count(members: np.ndarray, count: np.ndarray) -> np.ndarray:
    return members[np.argsort(-count[members], kind="stable")]


def draw_sizes(before: np.ndarray, after: np.ndarray) -> bytes:
    """Particles of each superclass before and after, as PNG bytes."""
    fig = style.figure(min(11.0, 3.0 + 0.28 * len(before)), 3.2)
    ax = fig.subplots()
    place = np.arange(1, len(before) + 1)
    ax.bar(place, before, color=style.SOFT, width=0.8, label=f"before {before.sum():,}")
    ax.bar(place, after, color=style.ACCENT, width=0.5, label=f"kept {after.sum():,}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set_xlim(0.3, len(before) + 0.7)
    ax.legend(fontsize=8, frameon=False)
    style.dress(ax, x="superclass", y="particles")
    return style.figure_png(fig)
