"""Whether a class posterior of 0.7 is right seven times in ten.

    PYTHONPATH=tests python tests/benchmarks/calibration.py [--snr 0.01 0.02 0.04] [--picture X.png]

Two molecules in four views each; every run starts from the true views, so that the number of a
class is that of a view, and goes on with online EM. Prints, for good particles, the mean posterior
and the share that is right in each bin of the posterior that holds 50 or more, and the largest gap.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from guided import from_views, made
from truth import Stack, classified

from cryo2d.training.drawing import style

SCENE = {
    "num_particles": 4000,
    "box": 64,
    "pixel_size": 4.0,
    "num_molecules": 2,
    "views": 4,
    "junk_fraction": 0.0,
}
SETTINGS = [
    "model.num_classes=8",
    "model.max_resolution=8",
    "model.icuf=1",
    "optimizer.iterations=20",
    "optimizer.batch_per_class=100",
    "optimizer.full_iterations=2",
    "optimizer.reseed=null",
]
BINS = np.linspace(0.0, 1.0, 11)
ENOUGH = 50
MODES = {"false": "summed over", "true": "maximised"}


def reliability(stack: Stack, force_max: str) -> np.ndarray:
    """Stated posterior, share that is right, and particles of each bin with enough ``[b 3]``."""
    found = classified(stack, *SETTINGS, f"model.force_max={force_max}", *from_views(stack))
    stated = found.columns["class_posterior"]
    right = found.classes == stack.truth["view"]
    place = np.clip(np.digitize(stated, BINS) - 1, 0, len(BINS) - 2)
    rows = []
    for number in range(len(BINS) - 1):
        own = stack.good & (place == number)
        if own.sum() >= ENOUGH:
            rows.append((stated[own].mean(), right[own].mean(), own.sum()))
    return np.array(rows)


def draw(found: dict[tuple[float, str], np.ndarray], path: Path) -> None:
    """Reliability diagrams, one for each way of taking poses."""
    fig = style.figure(9.0, 4.6)
    for ax, (mode, name) in zip(fig.subplots(1, len(MODES)), MODES.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
        curves = [(snr, rows) for (snr, one), rows in found.items() if one == mode]
        for (snr, rows), colour in zip(curves, style.GROUPS, strict=False):
            ax.plot(rows[:, 0], rows[:, 1], "o-", color=colour, label=f"SNR {snr:g}")
        style.dress(ax, title=f"poses {name}", x="posterior of the class", y="share that is right")
        ax.legend(fontsize=8, frameon=False)
    path.write_bytes(style.figure_png(fig, dpi=110))


def main() -> None:
    """Print the table and draw the diagram."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snr", nargs="+", type=float, default=[0.01, 0.02, 0.04])
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    print("| SNR | poses | right | stated | largest gap | stated: right (particles) |")
    print("|---" * 6 + "|")
    found = {}
    for snr in options.snr:
        with tempfile.TemporaryDirectory() as folder:
            stack = made(Path(folder, "stack"), **(SCENE | {"snr": snr}))
            for mode, name in MODES.items():
                rows = found[snr, mode] = reliability(stack, mode)
                stated, right = (rows[:, i] @ rows[:, 2] / rows[:, 2].sum() for i in (0, 1))
                gap = np.abs(rows[:, 0] - rows[:, 1]).max()
                cells = " ".join(f"{p:.2f}: {r:.2f} ({int(n)})" for p, r, n in rows)
                row = f"{snr:g} | {name} | {right:.3f} | {stated:.3f} | {gap:.3f} | {cells}"
                print(f"| {row} |", flush=True)
    if options.picture:
        draw(found, options.picture)


if __name__ == "__main__":
    main()
