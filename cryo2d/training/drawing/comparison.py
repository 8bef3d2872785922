"""Figures that set runs side by side. Each returns PNG bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
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

    Runs are coloured by the next setting, if that has few values; the lines are their means.

    Args:
        settings: name -> value of each run as text ``[r]``.
        measures: name -> number of each run ``[r]``.
    """
    wide = min(4, len(measures))
    high = -(-len(measures) // wide)
    fig = style.figure(3.3 * wide, 2.45 * high * len(settings) + 0.25)
    parts = fig.subfigures(len(settings), 1, squeeze=False)[:, 0]
    names = list(settings)
    for i, (part, setting) in enumerate(zip(parts, names, strict=True)):
        other = names[(i + 1) % len(names)]
        hue = settings[other] if other != setting else [""] * len(settings[setting])
        if len(set(hue)) > len(style.GROUPS):
            hue = [""] * len(hue)
        axes = part.subplots(high, wide, squeeze=False).ravel()
        for ax in axes[len(measures) :]:
            ax.set_visible(False)
        for ax, (measure, numbers) in zip(axes, measures.items(), strict=False):
            _draw_setting(ax, settings[setting], np.asarray(numbers, dtype=float), hue)
            style.dress(ax, title=measure.replace("_", " "), x=setting)
        if len(set(hue)) > 1:
            axes[0].legend(title=other, fontsize=7.5, title_fontsize=7.5, frameon=False)
    return style.figure_png(fig)


def _draw_setting(ax: Axes, texts: Sequence[str], numbers: np.ndarray, hue: Sequence[str]) -> None:
    """One measure ``[r]`` against one setting ``[r]``, coloured by another ``[r]``."""
    values, groups = sorted(set(texts), key=_order), sorted(set(hue), key=_order)
    place = np.array([values.index(text) for text in texts], dtype=float)
    for g, group in enumerate(groups):
        own = np.array([text == group for text in hue])
        # side by side: runs of two groups may have the same number
        beside = 0.12 * (g - 0.5 * (len(groups) - 1))
        known = [numbers[own & (place == i) & np.isfinite(numbers)] for i in range(len(values))]
        means = [part.mean() if len(part) else np.nan for part in known]
        line = np.arange(len(values)) + beside
        ax.plot(line, means, color=style.GROUPS[g], linewidth=1.2, alpha=0.5, zorder=1)
        ax.scatter(place[own] + beside, numbers[own], s=20, color=style.GROUPS[g], label=group)
    shown = [value if len(value) <= 14 else value[:13] + "\u2026" for value in values]
    ax.set_xticks(range(len(values)), shown)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ax.ticklabel_format(axis="y", useOffset=False)


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


def draw_small(
    averages: np.ndarray,
    place: np.ndarray,
    count: np.ndarray,
    *,
    columns: int,
    lines: Sequence[str],
    tile: int = 56,
) -> np.ndarray:
    """Averages without numbers, each at its place, to stand beside those of other runs.

    Args:
        averages: ``[k y x]``.
        place: class at each place from left to right and down; -1 leaves it blank.
        count: particles of each class ``[k]``, the bar below it.
        columns: places in a row.
        lines: of text above, the first one bold.
        tile: edge of a tile (pixel).

    Returns:
        ``[height width 3]`` uint8.
    """
    gap, text = 4, 11
    head, high = 4 + len(lines) * round(1.4 * text) + 4, tile + 10
    rows = max(1, -(-len(place) // columns))
    words = max(style.font(text, not i).getlength(line) for i, line in enumerate(lines))
    width = max(columns * (tile + gap), round(words) + 8)
    canvas = Image.new("RGB", (width, head + rows * high), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        ink = style.MUTED if i else style.INK
        draw.text((0, 4 + i * round(1.4 * text)), line, ink, style.font(text, not i))
    levels = grey_levels(averages)
    for i, k in enumerate(place.tolist()):
        left, top = i % columns * (tile + gap), head + i // columns * high
        if k < 0 or count[k] == 0:
            draw.rectangle((left, top, left + tile - 1, top + tile - 1), style.BLANK)
            continue
        canvas.paste(_tile(levels[k], tile), (left, top))
        length = round(count[k] / max(count.max(), 1) * (tile - 1))
        draw.rectangle((left, top + tile + 2, left + length, top + tile + 4), style.ACCENT)
    return np.asarray(canvas)


def _tile(levels: np.ndarray, edge: int) -> Image.Image:
    """One average on its grey scale ``[y x]`` as a picture of some size."""
    picture = Image.fromarray(levels).resize((edge, edge), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(picture) * 255.0, 0, 255).astype(np.uint8))


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
            canvas.paste(_tile(levels, tile), (left, top + part * (tile + 2)))
    for i, name in enumerate(names):
        left, below = gap + i % wide * (tile + gap), gap + i // wide * (high + gap) + 2 * tile + 5
        draw.text((left, below), number(correlation[i], 4), style.INK, style.font(text, True))
        place = (left + tile, below)
        draw.text(place, f"#{name}", style.MUTED, style.font(text - 1), anchor="ra")
    return np.asarray(canvas)
