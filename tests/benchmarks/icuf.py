"""What the initial classification uncertainty factor does, with and without re-seeding.

    PYTHONPATH=tests python tests/benchmarks/icuf.py [STACK] [--icuf 1 2 4 8] [--seeds 1 2 3]
        [--classes 20] [--out DIR] [-- key=value ...]

STACK is a folder with particles.star and truth.npz; without it a stack with a quarter of junk is
simulated. Prints one row per factor and kind of re-seeding, means over the seeds: effective
classes, classes in use (0.5 % of the particles), true views that most particles of some class
show, junk classes, the share of the junk in them, purity of the good particles, the mean number
of effective classes per particle half way and at the end, and the iterations until a particle's
most probable class holds 90 % on average. Draws DIR/icuf.png: the classes of the first seed, the
largest first, beside the curves; a tile's frame is red for a junk class.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from truth import (
    Found,
    Stack,
    classified,
    junk_classes,
    junk_recall,
    purity,
    simulated,
    views_found,
)

from cryo2d.training.drawing import style
from cryo2d.training.drawing.montage import grey_levels

SCENE = {
    "num_particles": 1000,
    "box": 48,
    "pixel_size": 5.0,
    "num_molecules": 4,
    "views": 3,
    "snr": 0.4,
    "junk_fraction": 0.25,
    "seed": 7,
}
RESEED = {"default": [], "none": ["optimizer.reseed=null"]}
COLUMNS = (
    "effective",
    "used",
    "views",
    "junk classes",
    "junk recall",
    "purity",
    "ESS half way",
    "ESS",
    "certain at",
)


def measures(found: Found, stack: Stack) -> list[float]:
    """Numbers of one run, in the order of the columns."""
    counts = np.bincount(found.classes[found.classes >= 0])
    ess = [float(summary.ess.mean()) for summary in found.history]
    sure = [float(summary.posteriors.mean()) > 0.9 for summary in found.history]
    return [
        found.history[-1].effective_classes,
        int((counts >= 0.005 * counts.sum()).sum()),
        views_found(found, stack),
        junk_classes(found, stack),
        junk_recall(found, stack),
        purity(found, stack),
        ess[len(ess) // 2],
        ess[-1],
        sure.index(True) if any(sure) else len(sure),
    ]


def tiles(found: Found, stack: Stack, columns: int = 5) -> np.ndarray:
    """The averages as one colour picture, largest first; junk classes in a red frame."""
    counts = np.bincount(found.classes[found.classes >= 0], minlength=len(found.averages))
    order = np.argsort(-counts)
    levels = np.clip(grey_levels(found.averages), 0.0, 1.0)
    box, rows = levels.shape[-1] + 4, -(-len(order) // columns)
    canvas = np.ones((rows * box, columns * box, 3))
    for place, k in enumerate(order):
        own = found.classes == k
        tile = np.ones((box, box, 3))
        if own.any() and (~stack.good[own]).mean() > 0.5:
            tile[:] = (0.78, 0.2, 0.15)
        tile[2:-2, 2:-2] = levels[k][..., None] if own.any() else 0.93
        y, x = divmod(place, columns)
        canvas[y * box : (y + 1) * box, x * box : (x + 1) * box] = tile
    return canvas


def curves(ax: Axes, found: dict[float, Found], what: str, title: str) -> None:
    """A mean over the particles by iteration, one line per factor."""
    for (icuf, one), colour in zip(found.items(), style.GROUPS, strict=False):
        values = [float(getattr(summary, what).mean()) for summary in one.history]
        ax.plot(values, color=colour, linewidth=1.6, label=f"{icuf:g}")
    style.dress(ax, title=title, x="iteration")
    ax.legend(title="ICUF", fontsize=8, title_fontsize=8, frameon=False)


def draw(found: dict[str, dict[float, Found]], stack: Stack, path: Path) -> None:
    """One row per kind of re-seeding: the classes of every factor, then the curves."""
    most = max(map(len, found.values()))
    fig = style.figure(2.9 * (most + 2), 3.1 * len(found))
    grid = fig.subplots(len(found), most + 2, squeeze=False)
    for line, (name, runs) in zip(grid, found.items(), strict=True):
        for ax, (icuf, one) in zip(line, runs.items(), strict=False):
            ax.imshow(tiles(one, stack))
            ax.set_axis_off()
            title = f"ICUF {icuf:g}, re-seeding {name}"
            ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=style.INK)
        curves(line[-2], runs, "ess", "classes a particle spreads over")
        curves(line[-1], runs, "posteriors", "posterior of the best class")
    path.write_bytes(style.figure_png(fig, dpi=110))


def main() -> None:
    """Print the table and draw the picture."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", nargs="?", type=Path)
    parser.add_argument("--icuf", nargs="+", type=float, default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args(arguments[:cut])
    settings = [f"model.num_classes={options.classes}", *arguments[cut + 1 :]]
    print("| re-seeding | ICUF | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        given = options.stack
        stack = Stack.of(given.resolve()) if given else simulated(Path(scratch), **SCENE)
        shown: dict[str, dict[float, Found]] = {}
        for name, extra in RESEED.items():
            for icuf in options.icuf:
                runs = [
                    classified(stack, *settings, *extra, f"model.icuf={icuf}", f"seed={seed}")
                    for seed in options.seeds
                ]
                shown.setdefault(name, {})[icuf] = runs[0]
                means = np.mean([measures(run, stack) for run in runs], axis=0)
                cells = " | ".join(f"{value:.3g}" for value in means)
                print(f"| {name} | {icuf:g} | {cells} |", flush=True)
        draw(shown, stack, options.out / "icuf.png")


if __name__ == "__main__":
    main()
