"""Whether a class posterior of 0.7 is right seven times in ten.

    PYTHONPATH=tests python tests/benchmarks/calibration.py [--snr 0.02 0.05 0.1] [--stacks 3]
        [--molecules 2] [--views 4] [--modes default] [--picture X.png]

Molecules in some views each, 500 particles of each view; every run starts from the true views, so
that the number of a class is that of a view. Given averages are these; learned ones come from 20
iterations of online EM after them. Crossed: the posterior is by averages of the other half-set;
calibrated: that of a sample tells those of all. Prints, for the good particles of a few stacks
together, the mean posterior and the share that is right in each bin of the posterior that holds 300
or more, and the largest gap: the standard error of a share of a half is then 0.029.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from guided import SCENE as USUAL
from truth import Stack, classified, simulated

from cryo2d.io.mrc import write_stack
from cryo2d.training.drawing import style

SCENE = {
    "box": 64,
    "pixel_size": 4.0,
    "junk_fraction": 0.0,
}
OF_VIEW = 500
SETTINGS = [
    "model.max_resolution=8",
    "model.icuf=1",
    "optimizer.merge=null",
    "optimizer.reseed=null",
]
GIVEN = ["optimizer.iterations=0", "optimizer.full_iterations=1"]
LEARNED = [
    "optimizer.iterations=20",
    "optimizer.batch_per_class=100",
    "optimizer.full_iterations=2",
]
OWN, CROSS = "model.cross_posteriors=false", "model.cross_posteriors=true"
BINS = np.linspace(0.0, 1.0, 11)
ENOUGH = 300
MODES = {
    "given, summed over": [*GIVEN, "model.force_max=false"],
    "learned, summed over": [*LEARNED, "model.force_max=false", OWN],
    "learned, summed over, crossed": [*LEARNED, "model.force_max=false", CROSS],
    "learned, calibrated (default)": LEARNED,
    "learned, summed over, calibrated": [*LEARNED, "model.force_max=false"],
    "learned, maximised": [*LEARNED, "model.force_max=true", OWN],
    "learned, maximised, calibrated": [*LEARNED, "model.force_max=true"],
    "learned, maximised, crossed": [*LEARNED, "model.force_max=true", CROSS],
}


def outcome(stack: Stack, mode: list[str]) -> np.ndarray:
    """Stated posterior of each good particle, and whether its class is right ``[n 2]``."""
    start = stack.star.parent / "exact.mrcs"
    views = stack.truth["clean_views"] * stack.truth["clean_scale"]
    write_stack(start, views.astype(np.float32), stack.pixel, mode=2)
    known = [f"model.num_classes={len(views)}", f"model.initial_references={start}"]
    found = classified(stack, *SETTINGS, *mode, *known)
    right = found.classes == stack.truth["view"]
    return np.stack((found.columns["class_posterior"], right), axis=1)[stack.good]


def reliability(outcomes: np.ndarray) -> np.ndarray:
    """Mean posterior, share that is right, and particles of each bin with enough ``[b 3]``."""
    place = np.clip(np.digitize(outcomes[:, 0], BINS) - 1, 0, len(BINS) - 2)
    members = [outcomes[place == number] for number in range(len(BINS) - 1)]
    return np.array([(*own.mean(0), len(own)) for own in members if len(own) >= ENOUGH])


def draw(found: dict[tuple[float, str], np.ndarray], path: Path) -> None:
    """Reliability diagrams, one for each kind of averages and of taking poses."""
    modes = list(dict.fromkeys(mode for _, mode in found))
    fig = style.figure(4.2 * len(modes), 4.2)
    for ax, mode in zip(fig.subplots(1, len(modes), squeeze=False).flat, modes, strict=True):
        ax.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
        curves = [(snr, rows) for (snr, one), rows in found.items() if one == mode]
        for (snr, rows), colour in zip(curves, style.GROUPS, strict=False):
            ax.plot(rows[:, 0], rows[:, 1], "o-", color=colour, label=f"SNR {snr:g}")
        style.dress(ax, title=mode, x="posterior of the class", y="share that is right")
        ax.legend(fontsize=8, frameon=False)
    path.write_bytes(style.figure_png(fig, dpi=110))


def main() -> None:
    """Print the table and draw the diagram."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snr", nargs="+", type=float, default=[0.02, 0.05, 0.1])
    parser.add_argument("--stacks", type=int, default=3)
    parser.add_argument("--molecules", type=int, default=2)
    parser.add_argument("--views", type=int, default=4)
    help_modes = "those of these names, or whose names hold these"
    parser.add_argument("--modes", nargs="+", default=[""], help=help_modes)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    scene = USUAL | SCENE | {"num_molecules": options.molecules, "views": options.views}
    scene["num_particles"] = OF_VIEW * options.molecules * options.views
    parts = [part for part in options.modes if part not in MODES]
    named = [n for n in MODES if n in options.modes or any(part in n for part in parts)]
    modes = {name: MODES[name] for name in named}
    print("| SNR | averages, poses | right | stated | largest gap | stated: right (particles) |")
    print("|---" * 6 + "|")
    found = {}
    for snr in options.snr:
        with tempfile.TemporaryDirectory() as folder:
            recipes = [scene | {"snr": snr, "seed": n + 2} for n in range(options.stacks)]
            stacks = [simulated(Path(folder, str(r["seed"])), **r) for r in recipes]
            for name, mode in modes.items():
                outcomes = np.concatenate([outcome(stack, mode) for stack in stacks])
                rows = found[snr, name] = reliability(outcomes)
                stated, right = (rows[:, i] @ rows[:, 2] / rows[:, 2].sum() for i in (0, 1))
                gap = np.abs(rows[:, 0] - rows[:, 1]).max()
                cells = " ".join(f"{p:.2f}: {r:.2f} ({int(n)})" for p, r, n in rows)
                row = f"{snr:g} | {name} | {right:.3f} | {stated:.3f} | {gap:.3f} | {cells}"
                print(f"| {row} |", flush=True)
    if options.picture:
        draw(found, options.picture)


if __name__ == "__main__":
    main()
