"""Picks on a micrograph: which of them stay, and how far they move."""

import numpy as np
from matplotlib.axes import Axes

from cryo2d.training.drawing import style

ANGSTROM = "\N{ANGSTROM SIGN}"
BINS = 40


def draw_duplicates(
    kept: tuple[np.ndarray, np.ndarray],
    rejected: tuple[np.ndarray, np.ndarray],
    distance: np.ndarray,
    limit: float,
) -> bytes:
    """Picks of the micrograph that loses most, and how near the rejected ones were, as a PNG.

    Args:
        kept: micrograph ``[n]`` and place ``[n 2]`` (Angstrom) of the particles that stay.
        rejected: the same of the others, at least one.
        distance: of the rejected ones to what is kept instead ``[m]`` (Angstrom).
        limit: particles nearer than this are one (Angstrom).
    """
    fig = style.figure(9.6, 4.4)
    left, right = fig.subplots(1, 2, width_ratios=(1.0, 1.1))
    name = _most_frequent(rejected[0])
    _scatter(left, kept[1][kept[0] == name], style.ACCENT, "kept")
    _scatter(left, rejected[1][rejected[0] == name], style.SECOND, "rejected")
    _micrograph(left, name)
    right.hist(distance, bins=BINS, range=(0.0, limit), color=style.SECOND)
    style.dress(
        right,
        title="Rejected picks",
        x=f"distance to the one that stays ({ANGSTROM})",
        y="particles",
    )
    return style.figure_png(fig, dpi=110)


def draw_moves(
    micrograph: np.ndarray, before: np.ndarray, after: np.ndarray, distance: np.ndarray
) -> bytes:
    """Picks of the fullest micrograph before and after, and how far all of them moved, as a PNG.

    Args:
        micrograph: of each pick ``[n]``.
        before: places ``[n 2]`` (Angstrom).
        after: places ``[n 2]`` (Angstrom).
        distance: between the two ``[n]`` (Angstrom).
    """
    fig = style.figure(9.6, 4.4)
    left, right = fig.subplots(1, 2, width_ratios=(1.0, 1.1))
    name = _most_frequent(micrograph)
    own = micrograph == name
    x, y = np.stack((before[own], after[own]))[..., 0], np.stack((before[own], after[own]))[..., 1]
    left.plot(x, y, color=style.SOFT, linewidth=1.2)
    _scatter(left, before[own], style.MUTED, "before")
    _scatter(left, after[own], style.ACCENT, "after")
    _micrograph(left, name)
    right.hist(distance, bins=BINS, color=style.ACCENT)
    style.dress(right, title="Moves of all picks", x=f"distance ({ANGSTROM})", y="particles")
    return style.figure_png(fig, dpi=110)


def _most_frequent(names: np.ndarray) -> str:
    found, counts = np.unique(names.astype(str), return_counts=True)
    return str(found[counts.argmax()])


def _scatter(ax: Axes, place: np.ndarray, colour: str, label: str) -> None:
    ax.plot(place[:, 0], place[:, 1], ".", color=colour, markersize=5, label=label)


def _micrograph(ax: Axes, name: str) -> None:
    """Axes of a micrograph: rows run down."""
    ax.set_aspect("equal", adjustable="datalim")
    ax.invert_yaxis()
    short = name.rsplit("/", 1)[-1]
    style.dress(ax, title=short[-48:], x=f"x ({ANGSTROM})", y=f"y ({ANGSTROM})")
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.14), ncols=2)
