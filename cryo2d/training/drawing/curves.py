"""Figures of a run: ring correlations, noise, posteriors, history. Each returns PNG bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from cryo2d.training.drawing import style
from cryo2d.training.drawing.classes import ClassTable
from cryo2d.training.drawing.montage import ANGSTROM

ROUND_RESOLUTIONS = np.array([200, 100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5])


def draw_frc(frc: np.ndarray, frequency: np.ndarray, table: ClassTable) -> bytes:
    """Half-set FRC of every class, and the class resolutions against the class sizes.

    Args:
        frc: ``[k s]``.
        frequency: ``[s]`` (1/Angstrom).
        table: counts and resolutions.
    """
    fig = style.figure(9.6, 3.9)
    left, right = fig.subplots(1, 2, width_ratios=(1.5, 1))
    used = np.flatnonzero(~table.empty & np.isfinite(frc).any(axis=1))
    finite = table.resolution[used][np.isfinite(table.resolution[used])]
    bounds = np.percentile(finite, (0, 100)) if len(finite) else np.array([1.0, 2.0])
    colours = ScalarMappable(Normalize(bounds[0], max(bounds[1], bounds[0] + 0.1)), "viridis")
    worst_first = used[np.argsort(-np.nan_to_num(table.resolution[used], nan=np.inf))]
    lines = LineCollection(
        [np.column_stack([frequency, frc[k]]) for k in worst_first],
        colors=colours.to_rgba(np.nan_to_num(table.resolution[worst_first], nan=bounds[1])),
        linewidths=0.8,
        alpha=0.75,
    )
    left.add_collection(lines)
    if len(used):
        weights = table.count[used] / table.count[used].sum()
        mean = weights @ np.nan_to_num(frc[used])
        left.plot(frequency, mean, color=style.INK, linewidth=1.8, label="mean over particles")
        left.legend(loc=(0.005, 0.27), fontsize=8, frameon=False)
    for level in (0.5, 0.143):
        left.axhline(level, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
        left.text(0.01 * frequency[-1], level + 0.012, f"{level:g}", fontsize=7.5)
    left.set_xlim(0, frequency[-1])
    left.set_ylim(min(-0.05, float(np.nanmin(frc, initial=0.0))), 1.03)
    style.dress(left, title="Fourier ring correlation of the half-sets", y="FRC")
    resolution_axis(left, frequency)
    _resolution_scatter(right, table, used, colours)
    return style.figure_png(fig)


def _resolution_scatter(
    ax: Axes, table: ClassTable, used: np.ndarray, colours: ScalarMappable
) -> None:
    ax.scatter(
        table.count[used],
        table.resolution[used],
        c=colours.to_rgba(np.nan_to_num(table.resolution[used], nan=0.0)),
        s=22,
        linewidths=0.5,
        edgecolors="white",
    )
    ax.set_xscale("log")
    plain_log_ticks(ax.xaxis)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=7))
    ax.invert_yaxis()
    style.dress(
        ax,
        title="Resolution of the classes",
        x="particles in class",
        y=f"resolution at FRC 0.143 ({ANGSTROM})",
    )


def plain_log_ticks(axis: Axis) -> None:
    """Labels 1, 2, 5, 10, ... on a logarithmic axis, whatever the number of decades."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    large = EngFormatter(sep="")
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1000 else large(value))
    )
    axis.set_minor_formatter(NullFormatter())


def resolution_axis(ax: Axes, frequency: np.ndarray) -> None:
    """Ticks at spatial frequencies, labelled as resolutions in Angstrom."""
    top = float(frequency[-1])
    ticks: list[float] = []
    for resolution in ROUND_RESOLUTIONS:
        if 1 / resolution <= top and (not ticks or 1 / resolution - ticks[-1] > 0.07 * top):
            ticks.append(1 / resolution)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.set_xticks(ticks, [f"{1 / tick:g}" for tick in ticks])
    ax.set_xlabel(f"resolution ({ANGSTROM})", fontsize=9, color=style.INK)


def draw_noise(noise: np.ndarray, frequency: np.ndarray, names: Sequence[str]) -> bytes:
    """Noise power of every optics group.

    Args:
        noise: sigma^2 ``[g s]``.
        frequency: ``[s]`` (1/Angstrom).
        names: of the optics groups ``[g]``.
    """
    fig = style.figure(6.2, 3.6)
    ax = fig.subplots()
    many = len(noise) > len(style.GROUPS)
    for g, power in enumerate(noise):
        colour = style.ACCENT if many else style.GROUPS[g]
        label = names[g] if g < len(names) else f"group {g + 1}"
        width, alpha = (0.7, 0.4) if many else (1.6, 1.0)
        ax.plot(frequency, power, color=colour, linewidth=width, alpha=alpha, label=label)
    if len(noise) > 1 and not many:
        ax.legend(loc="best", fontsize=8, frameon=False)
    if np.any(noise > 0):
        ax.set_yscale("log")
        plain_log_ticks(ax.yaxis)
    ax.set_xlim(0, frequency[-1])
    title = "Noise power" if len(noise) == 1 else f"Noise power of {len(noise)} optics groups"
    style.dress(ax, title=title, y=r"$\sigma^2$ per Fourier sample")
    resolution_axis(ax, frequency)
    return style.figure_png(fig)


def draw_posteriors(
    posterior: np.ndarray, ess: np.ndarray, shift: np.ndarray, alpha: np.ndarray
) -> bytes:
    """How sure the assignment of each particle is, and where its shift and contrast ended.

    Args:
        posterior: probability of the best class ``[n]``.
        ess: effective number of classes ``[n]``.
        shift: length of the shift ``[n]`` (Angstrom).
        alpha: contrast scale ``[n]``.
    """
    fig = style.figure(9.6, 5.8)
    axes = fig.subplots(2, 2)
    histogram(axes[0, 0], posterior, np.linspace(0, 1, 51))
    style.dress(axes[0, 0], title="Probability of the best class", x="probability", y="particles")
    top = max(2.0, float(np.nanpercentile(ess, 99.5)) if np.isfinite(ess).any() else 2.0)
    histogram(axes[0, 1], np.minimum(ess, top), np.linspace(1, top, 51))
    style.dress(
        axes[0, 1],
        title="Effective number of classes",
        x="class ESS per particle (last bar: and more)",
        y="particles",
    )
    histogram(axes[1, 0], shift, 50)
    style.dress(axes[1, 0], title="Shift", x=f"length ({ANGSTROM})", y="particles")
    histogram(axes[1, 1], alpha, 50)
    style.dress(axes[1, 1], title="Contrast scale", x="alpha", y="particles")
    return style.figure_png(fig)


def histogram(ax: Axes, values: np.ndarray, bins: np.ndarray | int) -> None:
    """Bars of the finite values with their running sum (per cent, right axis) as a line."""
    values = values[np.isfinite(values)]
    if len(values) and isinstance(bins, int) and np.ptp(values) < 1e-6:
        # a column that is constant (no scale fitted) still gets a visible bar
        bins = np.linspace(values[0] - 0.5, values[0] + 0.5, bins + 2)
    count, edges = np.histogram(values, bins)
    ax.stairs(count, edges, fill=True, color=style.SOFT, edgecolor=style.ACCENT, linewidth=0.5)
    ax.set_xlim(edges[0], edges[-1])
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if not len(values):
        return
    running = ax.twinx()
    share = 100 * np.cumsum(count) / len(values)
    running.plot(edges[1:], share, color=style.SECOND, linewidth=1.2)
    running.set_ylim(0, 103)
    running.set_ylabel("running %", fontsize=8, color=style.SECOND)
    running.tick_params(labelsize=7.5, labelcolor=style.SECOND, width=0.6, length=3)
    running.spines[["top", "left", "bottom"]].set_visible(False)
    running.spines["right"].set_color(style.RULE)


def draw_history(rows: Sequence[Mapping[str, float]], num_classes: int) -> bytes:
    """How a run went: resolution, classes in use, certainty and error by iteration.

    Args:
        rows: one mapping per iteration with the names of metrics.csv.
        num_classes: of the model.
    """
    iteration = np.array([row["iteration"] for row in rows])

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in rows], dtype=float)

    fig = style.figure(9.6, 2.7)
    first, second, third = fig.subplots(1, 3)
    line = {"linewidth": 1.5, "marker": "o", "markersize": 2.5}
    first.plot(iteration, column("resolution"), color=style.MUTED, label="band used", **line)
    first.plot(
        iteration, column("median_resolution"), color=style.ACCENT, label="median class", **line
    )
    first.plot(iteration, column("best_resolution"), color=style.SECOND, label="best", **line)
    first.legend(fontsize=7.5, frameon=False)
    style.dress(first, title="Resolution", x="iteration", y=ANGSTROM)
    second.plot(iteration, column("effective_classes"), color=style.ACCENT, **line)
    second.axhline(num_classes, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    second.set_ylim(0, 1.08 * num_classes)
    style.dress(second, title=f"Effective classes of {num_classes}", x="iteration")
    third.plot(iteration, column("mean_error"), color=style.ACCENT, **line)
    style.dress(third, title="Mean error per Fourier sample", x="iteration")
    for ax in (first, second, third):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    return style.figure_png(fig)
