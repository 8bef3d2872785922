"""How a classification grows while its particles arrive."""

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from cryo2d.training.drawing import style
from cryo2d.training.drawing.montage import ANGSTROM


def draw_growth(
    iteration: Sequence[int], particles: Sequence[int], resolution: Sequence[float]
) -> bytes:
    """Particles that have arrived and the median resolution of the classes, as a PNG.

    Args:
        iteration: number of each ``[t]``.
        particles: there were then ``[t]``.
        resolution: median of the classes in use at FRC 0.143 (Angstrom) ``[t]``; nan for none.
    """
    fig = style.figure(9.6, 2.9)
    left, right = fig.subplots(1, 2)
    left.step(iteration, particles, where="post", color=style.ACCENT, linewidth=1.8)
    left.fill_between(iteration, particles, step="post", color=style.ACCENT, alpha=0.12)
    left.set_ylim(bottom=0)
    right.plot(iteration, resolution, color=style.ACCENT, linewidth=1.8)
    right.invert_yaxis()
    style.dress(left, title="Particles that have arrived", x="iteration", y="particles")
    label = f"median resolution ({ANGSTROM})"
    style.dress(right, title="Resolution of the classes", x="iteration", y=label)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return style.figure_png(fig)
