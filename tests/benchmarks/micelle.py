"""What model.min_align_resolution does for particles in belts of detergent.

    PYTHONPATH=tests python tests/benchmarks/micelle.py [--belt 8] [--seeds 1 2 3] [--out DIR]

Simulates the same particles without belts and with strong ones, classifies them with and without
the wavelengths beyond 50 A, and prints one row per combination: the median over the seeds of
purity, median in-plane and shift error, the share of particles of asymmetric views that lie in a
class of their view within 10 degrees, and the correlation of the averages with the bare protein.
Draws the averages of the first seed into DIR/micelle.png.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from truth import Found, Stack, agreement, classified, pose_errors, purity, simulated

from cryo2d.io.mrc import read_images
from cryo2d.training.drawing import style
from cryo2d.training.drawing.montage import grey_levels

SCENE = {
    "num_particles": 800,
    "box": 48,
    "pixel_size": 5.0,
    "num_molecules": 3,
    "views": 2,
    "snr": 0.8,
    "junk_fraction": 0.0,
    "neighbours": 0.0,
    "num_micrographs": 6,
    "shift_sigma": 4.0,
    "defocus_min": 12000.0,
    "defocus_max": 25000.0,
}
SETTINGS = (
    "model.num_classes=8",
    "model.max_resolution=10",
    "optimizer.iterations=15",
    "optimizer.batch_per_class=40",
    "model.remove_neighbours=false",
    "model.recenter=false",
)
BANDS = {"all wavelengths": "null", "below 50 A": "50"}


def measures(found: Found, stack: Stack) -> list[float]:
    """Numbers of one run, in the order of the columns."""
    errors = pose_errors(found, stack)
    return [
        purity(found, stack),
        errors.degrees,
        errors.angstrom,
        errors.right,
        agreement(found, stack),
    ]


def draw(stack: Stack, results: dict[str, Found], path: Path) -> None:
    """Some particles, and the averages of each band, largest class first."""
    fig = style.figure(10.0, 1.35 * (len(results) + 1))
    axes = fig.subplots(len(results) + 1, 8)
    raw = read_images(stack.star.parent / "particles.mrcs")[stack.good][:8]
    rows = {"particles": raw}
    for name, found in results.items():
        counts = np.bincount(found.classes, minlength=8)
        rows[name] = found.averages[np.argsort(-counts)[:8]]
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        if name != "particles":
            images = grey_levels(images)
        for ax, image in zip(line, images, strict=True):
            low, high = (0, 1) if name != "particles" else np.percentile(raw, (0.5, 99.8))
            ax.imshow(image, cmap="gray", vmin=low, vmax=high)
            ax.set_axis_off()
        line[0].set_title(name, loc="left", fontsize=10, fontweight="bold", color=style.INK)
    path.write_bytes(style.figure_png(fig))


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--belt", type=float, default=8.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    print("| belt / protein | aligned on | purity | in-plane | shift A | right | agreement |")
    print("|---" * 7 + "|")
    for belt in (0.0, options.belt):
        with tempfile.TemporaryDirectory() as scratch:
            stack = simulated(Path(scratch), **SCENE, micelle=belt, seed=2)
            first = {}
            for name, limit in BANDS.items():
                band = f"model.min_align_resolution={limit}"
                found = [
                    classified(stack, *SETTINGS, band, f"seed={seed}") for seed in options.seeds
                ]
                first[name] = found[0]
                columns = zip(*(measures(f, stack) for f in found), strict=True)
                cells = " | ".join(f"{statistics.median(c):.3g}" for c in columns)
                print(f"| {belt:g} | {name} | {cells} |", flush=True)
            if belt:
                draw(stack, first, options.out / "micelle.png")


if __name__ == "__main__":
    main()
