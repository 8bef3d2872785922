"""How well a score tells good classes from bad ones, drawn."""

from collections.abc import Mapping

import numpy as np

from cryo2d.training.drawing import style


def draw_roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], score: np.ndarray, good: np.ndarray
) -> bytes:
    """ROC curves beside the scores of good and of bad classes.

    Args:
        curves: share of the bad and of the good classes above each score, by name.
        score: of held-out classes ``[k]``.
        good: which of them are good ``[k]`` (bool).
    """
    fig = style.figure(9.6, 4.2)
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.15))
    left.plot((0, 1), (0, 1), color=style.RULE, lw=0.8)
    colours = (style.INK, *style.GROUPS)
    for i, (name, (false, true)) in enumerate(curves.items()):
        colour, width = colours[i % len(colours)], 2.0 if i == 0 else 1.0
        left.plot(false, true, color=colour, lw=width, label=name)
    style.dress(left, title="Held-out molecules", x="bad classes kept", y="good classes kept")
    left.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")
    left.legend(fontsize=7.5, frameon=False, loc="lower right")
    bins = np.linspace(0, 1, 21)
    for values, colour, name in (
        (score[~good], style.SECOND, "bad"),
        (score[good], style.ACCENT, "good"),
    ):
        right.hist(values, bins, color=colour, alpha=0.75, label=f"{len(values):,} {name} classes")
    style.dress(right, title="Their scores", x="score", y="classes")
    right.legend(fontsize=8, frameon=False, loc="upper center")
    return style.figure_png(fig)
