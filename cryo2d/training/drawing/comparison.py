"""Figures that set runs side by side. Each returns PNG bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from cryo2d.training.drawing import style
from cryo2d.training.drawing.classes import number
from cryo2d.training.drawing.curves import histogram
from cryo2d.training.drawing.montage import grey_levels


def draw_agreement(agreement: np.ndarray, names: Sequence[str]) -> bytes:
    """The adjusted Rand index of every pair of runs as a grid of shades.

    Args:
        agreement: ``[r r]``.
        names: of the runs ``[r]``.
    """
    count = len(names)
    edge = min(9.0, 1.9 + 0.62 * count)
    fig = style.figure(edge + 0.8, edge)
    ax = fig.subplots()
    ax.imshow(agreement, cmap="Blues", vmin=0, vmax=1)
    if count <= 14:
        for i in range(count):
            for j in range(count):
                ink = "white" if agreement[i, j] > 0.6 else style.INK
                words = f"{agreement[i, j]:.2f}"
                ax.text(j, i, words, ha="center", va="center", fontsize=8, color=ink)
    ax.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(count), names)
    ax.tick_params(length=0, labelsize=8, labelcolor=style.INK)
    ax.spines[:].set_visible(False)
    return style.figure_png(fig)


def draw_settings(
    settings: Mapping[str, Sequence[str]], measures: Mapping[str, Sequence[float]]
) -> bytes:
    """Every measure against every setting that differs, one point per run.

    Args:
        settings: name -> value of each run as text ``[r]``.
        measures: name -> number of each run ``[r]``.
    """
    wide, high = len(measures), len(settings)
    fig = style.figure(3.3 * wide, 2.3 * high)
    axes = fig.subplots(high, wide, squeeze=False)
    for row, (setting, texts) in zip(axes, settings.items(), strict=True):
        first = setting == next(iter(settings))
        values = sorted(set(texts), key=_order)
        place = np.array([values.index(text) for text in texts], dtype=float)
        for ax, (measure, numbers) in zip(row, measures.items(), strict=True):
            found = np.asarray(numbers, dtype=float)
            means = [
                np.nanmean(found[place == i]) if np.isfinite(found[place == i]).any() else np.nan
                for i in range(len(values))
            ]
            ax.plot(range(len(values)), means, color=style.SOFT, linewidth=1.4, zorder=1)
            ax.scatter(place, found, s=22, color=style.ACCENT, zorder=2)
            shown = [value if len(value) <= 14 else value[:13] + "\u2026" for value in values]
            ax.set_xticks(range(len(values)), shown)
            ax.set_xlim(-0.5, len(values) - 0.5)
            ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
            ax.ticklabel_format(axis="y", useOffset=False)
            style.dress(ax, title=measure.replace("_", " ") if first else "", x=setting)
    return style.figure_png(fig)


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by value, then words."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def draw_stability(particles: np.ndarray) -> bytes:
    """How the stability of the particles is distributed ``[n]``."""
    fig = style.figure(5.6, 3.1)
    ax = fig.subplots()
    histogram(ax, particles, np.linspace(0, 1, 41))
    style.dress(ax, x="stability", y="particles")
    return style.figure_png(fig)


def draw_pairs(
    first: np.ndarray,
    second: np.ndarray,
    names: Sequence[str],
    correlation: np.ndarray,
    tile: int = 96,
) -> np.ndarray:
    """Averages above those that match them, with their correlation.

    Args:
        first: ``[k y x]``.
        second: ``[k y x]``.
        names: of the pairs ``[k]``.
        correlation: of the pairs ``[k]``.
        tile: edge of a tile (pixel).

    Returns:
        ``[height width 3]`` uint8.
    """
    gap, text = 8, 11
    wide = max(1, min(len(names), 10))
    high = 2 * tile + 2 + 3 * text
    rows = -(-len(names) // wide)
    canvas = Image.new("RGB", (wide * (tile + gap) + gap, rows * (high + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for part, images in enumerate((first, second)):
        for i, levels in enumerate(grey_levels(images)):
            left, top = gap + i % wide * (tile + gap), gap + i // wide * (high + gap)
            picture = Image.fromarray(levels).resize((tile, tile), Image.Resampling.BICUBIC)
            grey = np.clip(np.asarray(picture) * 255.0, 0, 255).astype(np.uint8)
            canvas.paste(Image.fromarray(grey), (left, top + part * (tile + 2)))
    for i, name in enumerate(names):
        left, below = gap + i % wide * (tile + gap), gap + i // wide * (high + gap) + 2 * tile + 5
        draw.text((left, below), number(correlation[i], 4), style.INK, style.font(text, True))
        place = (left + tile, below)
        draw.text(place, f"#{name}", style.MUTED, style.font(text - 1), anchor="ra")
    return np.asarray(canvas)
