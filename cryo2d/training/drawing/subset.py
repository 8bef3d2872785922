"""Figures of a selection of particles. Each returns PNG bytes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from cryo2d.data.mixture import Mixture
from cryo2d.training.drawing import style

UNITS = {
    "shift": "\u00c5",
    "shift_x": "\u00c5",
    "shift_y": "\u00c5",
    "psi": "degrees",
    "class_resolution": "\u00c5",
    "defocus": "\u00c5",
    "astigmatism": "\u00c5",
}
BINS = 60


def draw_removed(
    columns: Mapping[str, np.ndarray], keep: np.ndarray, limits: Mapping[str, Sequence[float]]
) -> bytes:
    """A histogram of each column, kept and removed particles stacked.

    Args:
        columns: name -> values ``[n]``.
        keep: which are kept ``[n]``.
        limits: numbers to mark.
    """
    wide = min(2, len(columns))
    high = math.ceil(len(columns) / wide)
    fig = style.figure(4.8 * wide, 2.9 * high)
    axes = fig.subplots(high, wide, squeeze=False).ravel()
    for ax in axes[len(columns) :]:
        ax.set_axis_off()
    for ax, (name, values) in zip(axes, columns.items(), strict=False):
        edges = bin_edges(values)
        kept, gone = (np.histogram(values[rows], edges)[0] for rows in (keep, ~keep))
        ax.stairs(kept, edges, fill=True, color=style.SOFT, label=f"kept {keep.sum():,}")
        gone_label = f"removed {(~keep).sum():,}"
        ax.stairs(
            kept + gone, edges, baseline=kept, fill=True, color=style.SECOND, label=gone_label
        )
        for limit in limits.get(name, ()):
            if edges[0] <= limit <= edges[-1]:
                ax.axvline(limit, color=style.INK, linewidth=0.9, linestyle=(0, (4, 3)))
        _dress(ax, name, edges)
    axes[0].legend(fontsize=8, frameon=False)
    return style.figure_png(fig)


def draw_mixture(values: np.ndarray, mixture: Mixture, name: str, high: bool) -> bytes:
    """The histogram of a column, its two populations and the cut.

    Args:
        values: finite numbers ``[n]``.
        mixture: the two populations.
        name: of the column.
        high: whether the high end is removed.
    """
    fig = style.figure(7.2, 3.6)
    ax = fig.subplots()
    edges = bin_edges(values)
    count, _ = np.histogram(values, edges)
    ax.stairs(count, edges, fill=True, color=style.SOFT)
    x = np.linspace(edges[0], edges[-1], 600)
    scale = len(values) * (edges[1] - edges[0])
    low, up = scale * mixture.densities(x)
    bad, good = (up, low) if high else (low, up)
    ax.plot(x, good, color=style.ACCENT, linewidth=1.6, label="better")
    ax.plot(x, bad, color=style.SECOND, linewidth=1.6, label="worse, removed")
    ax.plot(x, low + up, color=style.MUTED, linewidth=0.9, label="sum")
    cut = mixture.cut
    ax.axvspan(*((cut, edges[-1]) if high else (edges[0], cut)), color=style.SECOND, alpha=0.09)
    ax.axvline(cut, color=style.INK, linewidth=0.9, linestyle=(0, (4, 3)), label=f"cut {cut:.4g}")
    ax.set_ylim(0, 1.12 * max(count.max(), (low + up).max()))
    ax.legend(fontsize=8, frameon=False)
    _dress(ax, name, edges)
    return style.figure_png(fig)


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Edges of the bars: all values but the outermost 0.2 %; whole numbers get a bar each."""
    values = values[np.isfinite(values)]
    if not len(values):
        return np.linspace(0, 1, BINS + 1)
    low, high = np.percentile(values, (0.1, 99.9))
    whole = bool((values == np.round(values)).all())
    if whole and high - low <= 4 * BINS:
        return np.arange(low, high + 2) - 0.5
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def _dress(ax: Axes, name: str, edges: np.ndarray) -> None:
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    unit = f" ({UNITS[name]})" if name in UNITS else ""
    style.dress(ax, x=name + unit, y="particles")
