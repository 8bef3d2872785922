"""Whether the consensus of a sweep is better than its runs, and what its stability says.

    cryo2d simulate simulation.num_molecules=3 simulation.views=4 seed=7 hydra.run.dir=STACK
    cryo2d -m data.path=STACK/particles.star seed=1,2,3,4,5 hydra.sweep.dir=SWEEP \\
        model.num_classes=24 model.mask_diameter=150
    PYTHONPATH=tests python tests/benchmarks/consensus.py STACK SWEEP [SWEEP ...] [--picture X.png]

The noisy set is made with simulation.num_particles=1000 simulation.snr=0.05, and classified with
optimizer.iterations=20 model.num_classes=15 in place of the last line.

STACK holds the truth of fixed views; without ``psi`` in it errors of poses are not told. Prints the
measures of every run and of the consensus of each sweep (junk recall: share of the junk in classes
that are mostly junk), the agreement of the sweeps with each other, and how many of the particles of
each stability share the most frequent label, a view or junk, of their class. The picture shows the
latter.
"""

import argparse
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from truth import Stack, pose_errors, purity, views_found, written

from cryo2d.data.consensus import adjusted_rand, contingency
from cryo2d.io.averages import write_class_averages
from cryo2d.io.particles import write_particles
from cryo2d.jobs.consensus import Consensus, consensus_of
from cryo2d.jobs.finished import finished_runs
from cryo2d.training.drawing import style

BINS = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])
HEAD = (
    "| | views | purity | ARI to truth | junk recall | in-plane error (degrees) | shift error (A) |"
)


def stack_of(folder: Path) -> Stack:
    """A stack, the views of all molecules numbered through."""
    stack = Stack.of(folder)
    pairs = np.stack([stack.truth["species"], stack.truth["view"]], axis=1)
    view = np.full(len(pairs), -1)
    _, view[stack.good] = np.unique(pairs[stack.good], axis=0, return_inverse=True)
    # where poses are known the numbers are also those of the views' pictures
    return stack if "psi" in stack.truth else Stack(stack.star, stack.truth | {"view": view})


def row(name: str, folder: Path, stack: Stack) -> str:
    """Measures of the classes in a folder."""
    found = written(folder, stack)
    told = "- | -"
    if "psi" in stack.truth:
        errors = pose_errors(found, stack)
        told = f"{errors.degrees:.2f} | {errors.angstrom:.2f}"
    own = stack.good & (found.classes >= 0)
    agreement = adjusted_rand(contingency(found.classes[own], stack.truth["view"][own]))
    return (
        f"| {name} | {views_found(found, stack)} | {purity(found, stack):.3f} | {agreement:.3f} | "
        f"{gathered(found.classes, ~stack.good):.3f} | {told} |"
    )


def gathered(classes: np.ndarray, junk: np.ndarray) -> float:
    """Share of the junk in classes that are mostly junk, however small."""
    used = classes >= 0
    counts = contingency(classes[used], junk[used].astype(int))
    return float(counts[counts[:, 1] > counts[:, 0], 1].sum() / junk.sum())


def consensus_row(name: str, made: Consensus, stack: Stack) -> str:
    """Measures of a consensus."""
    with tempfile.TemporaryDirectory() as folder:
        write_particles(Path(folder, "particles.star"), made.table)
        write_class_averages(folder, made.averages)
        return row(name, Path(folder), stack)


def reliability(made: Consensus, stack: Stack) -> np.ndarray:
    """Mean stability, share with the label of their class, and particles of each bin ``[b 3]``."""
    found = made.table.alignment
    assert found is not None
    label = np.where(stack.good, stack.truth["view"], -1)[made.table.image_index] + 1
    right = contingency(found.class_index, label).argmax(1)[found.class_index] == label
    place = np.clip(np.digitize(made.particles, BINS) - 1, 0, len(BINS) - 2)
    rows = []
    for number in range(len(BINS) - 1):
        own = place == number
        if own.any():
            rows.append((made.particles[own].mean(), right[own].mean(), own.sum()))
    return np.array(rows)


def draw(tables: dict[str, np.ndarray], path: Path) -> None:
    """Share that is right against stability, one line per sweep."""
    fig = style.figure(5.4, 4.2)
    ax = fig.subplots()
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1.0)
    for (name, rows), colour in zip(tables.items(), style.GROUPS, strict=False):
        ax.plot(rows[:, 0], rows[:, 1], "-", color=colour, linewidth=1.2)
        size = 8 + 240 * rows[:, 2] / rows[:, 2].sum()
        ax.scatter(rows[:, 0], rows[:, 1], s=size, color=colour, label=name)
    ax.set_xlim(0, 1.03)
    ax.set_ylim(0, 1.03)
    style.dress(ax, x="stability", y="share with the label of their class")
    if len(tables) > 1:
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    path.write_bytes(style.figure_png(fig, dpi=110))


def main() -> None:
    """Print the tables and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", type=Path)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    stack, made, sweeps = stack_of(options.stack), {}, {}
    print(f"{HEAD}\n{'|---' * 7}|")
    for sweep in options.sweeps:
        runs = sweeps[sweep.name] = finished_runs([sweep])[0]
        for run in runs:
            print(row(f"{sweep.name}, run {run.name}", run.folder, stack), flush=True)
        made[sweep.name] = consensus_of(runs, None)
        print(consensus_row(f"{sweep.name}, consensus", made[sweep.name], stack), flush=True)
    names = list(made)
    for i, one in enumerate(names):
        for other in names[:i]:
            pair = consensus_of(sweeps[one] + sweeps[other], 0)
            first = len(sweeps[one])
            single = np.mean(
                [
                    pair.agreement[a, first + b]
                    for a, b in product(range(first), range(len(sweeps[other])))
                ]
            )
            labels = [made[n].table.alignment.class_index for n in (one, other)]
            both = adjusted_rand(contingency(*labels))
            print(f"\n{other} and {one}: agreement of runs {single:.3f}, of consensuses {both:.3f}")
    tables = {name: reliability(one, stack) for name, one in made.items()}
    print("\n| stability: share with the label of their class (particles) |\n|---|")
    for name, rows in tables.items():
        cells = ", ".join(f"{s:.2f}: {r:.2f} ({int(n):,})" for s, r, n in rows)
        print(f"| {name} | {cells} |")
    if options.picture:
        draw(tables, options.picture)


if __name__ == "__main__":
    main()
