"""How good a classification can be that begins from the truth.

    python tests/benchmarks/bound.py FOLDER... --ruler score.py [--classes 40] [-- key=value ...]

FOLDER holds particles.star and truth.npz. The classes to begin from are the true views, or where
there are none bins of the true directions, as many of each molecule (k-means on the sphere). Their
averages are made of all good particles at their true poses (``cryo2d reconstruct``). From them the
classification goes on with the settings that are given, and once with a single pass. The ruler is a
script that prints one JSON object for ``TRUTH.npz PARTICLES.star``; of it this prints the numbers,
and the mean squared error that each run ends with: where one that began at random ends with the
same or less, the likelihood does not know the truth from it.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import starfile
from quality import cryo2d, ruled
from scipy.cluster.vq import kmeans2

ONE_PASS = ["optimizer.iterations=0", "optimizer.full_iterations=1"]
MEASURES = {
    "views_found": "views",
    "purity": "purity",
    "species_purity": "species",
    "ari": "ARI",
    "junk_recall": "junk rec",
    "inplane_error_deg": "in-plane",
    "inplane_ok": "ok",
    "shift_error_A": "shift A",
    "direction_error_deg": "direct.",
    "effective_classes": "eff.",
}


def true_classes(truth: dict[str, np.ndarray], number: int) -> np.ndarray:
    """True view of each particle, or a bin of its direction, -1 for junk ``[n]``."""
    good, classes = truth["kind"] == 0, np.full(len(truth["kind"]), -1)
    if (truth["view"] >= 0).any():
        _, classes[good] = np.unique(truth["view"][good], return_inverse=True)
        return classes
    species = np.unique(truth["species"][good])
    for nth, one in enumerate(species):
        own = np.flatnonzero(good & (truth["species"] == one))
        # the row of the rotation that looks along the beam
        _, found = kmeans2(truth["R"][own, 2], number // len(species), minit="++", seed=1)
        classes[own] = nth * (number // len(species)) + found
    return classes


def mean_rotation(rotations: np.ndarray) -> np.ndarray:
    """The rotation nearest to the mean of rotations ``[n 3 3]``."""
    u, _, v = np.linalg.svd(rotations.mean(0))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ v)]) @ v


def true_turns(rotations: np.ndarray) -> np.ndarray:
    """Rotation image -> class of particles of one class ``[n]`` (radian), from ``[n 3 3]``."""
    centre = mean_rotation(rotations)
    for _ in range(20):  # particles turned into the plane of the centre, and their mean anew
        apart = rotations @ centre.T
        angle = np.arctan2(apart[:, 1, 0] - apart[:, 0, 1], apart[:, 0, 0] + apart[:, 1, 1])
        cosine, sine = np.cos(angle), np.sin(angle)
        back = np.zeros_like(rotations)
        back[:, 0, 0], back[:, 0, 1], back[:, 1, 0], back[:, 1, 1] = cosine, sine, -sine, cosine
        back[:, 2, 2] = 1.0
        centre = mean_rotation(back @ rotations)
    return -angle


def averages(folder: Path, bins: int, scratch: Path) -> tuple[Path, int]:
    """Averages of the true classes at the true poses, and how many there are."""
    with np.load(folder / "truth.npz", allow_pickle=False) as file:
        truth = dict(file)
    classes = true_classes(truth, bins)
    psi = np.zeros(len(classes))
    for k in range(classes.max() + 1):
        psi[classes == k] = np.degrees(true_turns(truth["R"][classes == k].astype(float)))
    tables = starfile.read(folder / "particles.star", always_dict=True)
    rows = tables["particles"]
    number, name = (rows["rlnImageName"].str.split("@").str[part] for part in (0, 1))
    rows["rlnImageName"] = number + "@" + name.map(lambda path: str(folder / path))
    row = number.astype(int).to_numpy() - 1
    rows["rlnClassNumber"], rows["rlnAnglePsi"] = classes[row] + 1, psi[row]
    rows["rlnOriginXAngst"], rows["rlnOriginYAngst"] = (
        -truth["shift"][row] * float(truth["apix"])
    ).T
    tables["particles"] = rows[classes[row] >= 0]
    starfile.write(tables, scratch / "true.star")
    cryo2d("reconstruct", f"data.path={scratch / 'true.star'}", f"hydra.run.dir={scratch / 'true'}")
    return scratch / "true" / "class_averages.mrcs", int(classes.max()) + 1


def row(name: str, run: Path, folder: Path, ruler: Path) -> str:
    """The measures of a run."""
    found = ruled(ruler, folder / "truth.npz", run)
    with (run / "metrics.csv").open() as file:
        error = float(list(csv.DictReader(file))[-1]["mean_error"])
    cells = (f"{found[m]:.3g}" if found.get(m) is not None else "-" for m in MEASURES)
    return f"| {folder.name}, {name} | {' | '.join(cells)} | {error:.5f} |"


def main() -> None:
    """Classify from the truth and print the table."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--ruler", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=40, help="where there are no fixed views")
    options = parser.parse_args(arguments[:cut])
    settings = arguments[cut + 1 :]
    print("| run | " + " | ".join(MEASURES.values()) + " | error |")
    print("|---" * (len(MEASURES) + 2) + "|")
    for folder in map(Path.resolve, options.folders):
        with tempfile.TemporaryDirectory() as scratch:
            start, count = averages(folder, options.classes, Path(scratch))
            begun = {
                "from the truth": [f"model.initial_references={start}"],
                "from the truth, one pass": [f"model.initial_references={start}", *ONE_PASS],
                "from random averages": [],
            }
            for nth, (name, words) in enumerate(begun.items()):
                run = Path(scratch, str(nth))
                data = f"data.path={folder / 'particles.star'}"
                usual = [data, f"model.num_classes={count}", "seed=1", "logger=none"]
                cryo2d(f"hydra.run.dir={run}", *usual, *settings, *words)
                print(row(name, run, folder, options.ruler), flush=True)


if __name__ == "__main__":
    main()
