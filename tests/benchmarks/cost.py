"""Cost of a visit and peak memory, against classes, particles, box and shift range, as pictures.

    python tests/benchmarks/cost.py FOLDER [--visits 256] [--quick]

Each point is a fresh process that runs two iterations of the throughput benchmark and times the
second: seconds of all cores, and the process's peak memory. Writes cost.png and memory.png, prints
the tables, and gives for each sweep the exponent p of cost ~ size^p: 1 is linear.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

USUAL = {"classes": 50, "particles": 256, "box": 64, "shift": 6.4}
SWEEPS = {
    "classes": [12, 25, 50, 100, 200],
    "particles": [128, 256, 512, 1024, 2048],
    "box": [32, 48, 64, 96, 128],
    "shift": [1.6, 3.2, 6.4, 9.6, 12.8],
}
LABELS = {
    "classes": "classes",
    "particles": "particles of an iteration",
    "box": "working box (pixel)",
    "shift": "largest shift (pixel)",
}


def point(classes: int, particles: int, box: int, shift: float) -> dict[str, float]:
    """Cost of the second of two iterations, in this process."""
    import torch
    from throughput import E_STEP, iteration, problem

    from cryo2d.training.assembly import Frame

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    pixel = 4.0 * 64 / box
    # as fine in pixels for every box
    frame = Frame(box, pixel, 2.0 * pixel, max_shift=shift * pixel)
    cache, model = problem(frame, classes, particles, "cpu")
    iteration(frame, cache, model, 512)
    clock, _, _ = iteration(frame, cache, model, 512)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    e_step = sum(clock[part] for part in E_STEP)
    return {"e_step": e_step, "whole": sum(clock.values()), "megabytes": peak}


def measured(**sizes: float) -> dict[str, float]:
    """A point in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(sizes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: list[float], costs: list[float]) -> float:
    """Slope in the double logarithm over the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def swept(name: str, sizes: list[float], particles: int) -> list[dict[str, float]]:
    """The table of one sweep."""
    print(f"\n| {name} | E-step ms a visit | whole ms a visit | peak MB |\n|---|---|---|---|")
    rows = []
    for size in sizes:
        given = USUAL | {"particles": particles} | {name: size}
        found = measured(**given)
        each = 1e3 / given["particles"]
        numbers = f"{each * found['e_step']:.3f} | {each * found['whole']:.3f}"
        print(f"| {size:g} | {numbers} | {found['megabytes']:.0f} |", flush=True)
        rows.append(found)
    return rows


def draw(folder: Path, found: dict[str, list[dict[str, float]]]) -> None:
    """One picture of seconds and one of memory, a panel for each sweep."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    for file, kinds, label in (
        ("cost.png", {"whole": "whole iteration", "e_step": "E-step"}, "CPU seconds"),
        ("memory.png", {"megabytes": "peak"}, "peak memory (MB)"),
    ):
        figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.8))
        for axis, (name, rows) in zip(np.atleast_1d(axes), found.items(), strict=True):
            sizes = SWEEPS[name]
            for kind, title in kinds.items():
                costs = [row[kind] for row in rows]
                axis.loglog(sizes, costs, "o-", label=f"{title}, ~ n^{exponent(sizes, costs):.2f}")
            least = min(rows[0][kind] for kind in kinds)
            # what linear would look like
            line = [least * size / sizes[0] for size in sizes]
            axis.loglog(sizes, line, "--", color="0.6", label="linear")
            axis.set(xlabel=LABELS[name], ylabel=label)
            axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
            axis.legend(frameon=False, fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / file, dpi=110)
        plt.close(figure)


def main() -> None:
    """Print the tables and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--visits", type=int, default=USUAL["particles"])
    parser.add_argument("--quick", action="store_true", help="the first three sizes of each sweep")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(point(**json.loads(options.point))))
        return
    if options.quick:
        SWEEPS.update({name: sizes[:3] for name, sizes in SWEEPS.items()})
    found = {name: swept(name, sizes, options.visits) for name, sizes in SWEEPS.items()}
    for name, rows in found.items():
        order = exponent(SWEEPS[name], [row["whole"] for row in rows])
        assert math.isfinite(order)
        print(f"cost ~ {name}^{order:.2f}")
    draw(options.folder, found)


if __name__ == "__main__":
    main()
