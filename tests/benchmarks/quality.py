"""How well classes and poses are found on stacks whose truth is known, over several seeds.

    python tests/benchmarks/quality.py SET... --ruler score.py --seeds 1 2 3 4 5 [-- key=value ...]

SET is a folder with particles.star and truth.npz, or ``NAME:key=value,...`` to simulate one: keys
are those of ``simulation``, and settings of the classification where they have a dot, as in
``rare:rarest=0.01,model.num_classes=60``. The ruler is a script that prints one JSON object for
``TRUTH.npz PARTICLES.star --averages CLASS_AVERAGES.mrcs`` and has a function that compares an
average with the truth, ``frc_against(average, view, pixel_size)``. Prints one row per set: the
median over the seeds, then the spread. Besides the ruler's measures:

    resol./true  half-set resolution (FRC 0.143) over that against the truth (0.5) of the same
                 average, median of the views that are found
    overconf.    mean class posterior of the good particles less the share that sits with its kind
    seeds        ARI between the classes of good particles in two runs, all pairs of seeds
    visits       of each particle
"""

import argparse
import itertools
import json
import re
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import starfile

SIMULATION_SEED = 7
SHOWN = 0.005  # of the particles, that a class of a view has at least
COLUMNS = {
    "views_found": "views",
    "purity": "purity",
    "species_purity": "species",
    "ari": "ARI",
    "junk_recall": "junk rec",
    "junk_purity": "junk pur",
    "inplane_error_deg": "in-plane",
    "inplane_ok": "ok",
    "shift_error_A": "shift A",
    "frc05_A": "frc05 A",
    "frc_ratio": "resol./true",
    "direction_error_deg": "direct.",
    "overconfidence": "overconf.",
    "used_classes": "used",
    "effective_classes": "eff.",
    "empty": "empty",
    "visits": "visits",
    "ms_per_visit": "ms/visit",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Set:
    """A stack with its truth, and settings of the classification that go with it."""

    name: str
    folder: Path
    settings: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str, scratch: Path) -> "Set":
        """A folder, or a simulation that is run now."""
        name, colon, words = text.partition(":")
        if not colon:
            return cls(Path(text).name, Path(text).resolve())
        pairs = [word for word in words.split(",") if word]
        own = tuple(pair for pair in pairs if "." in pair.split("=")[0])
        recipe = [f"simulation.{pair}" for pair in pairs if pair not in own]
        cryo2d("simulate", f"hydra.run.dir={scratch / name}", f"seed={SIMULATION_SEED}", *recipe)
        return cls(name, scratch / name, own)


@dataclass(frozen=True)
class Truth:
    """What the particles of a stack are: good or not, and their view, or molecule.

    Attributes:
        good: whether a particle is one ``[n]``.
        label: its view, or molecule where there are no fixed views ``[n]``.
        views: the fixed views ``[v y x]``, or None.
    """

    good: np.ndarray
    label: np.ndarray
    views: np.ndarray | None

    @classmethod
    def of(cls, path: Path) -> "Truth":
        """Read a truth.npz."""
        with np.load(path, allow_pickle=False) as truth:
            fixed = bool((truth["view"] >= 0).any())
            views = truth["clean_views"] if fixed else None
            return cls(truth["kind"] == 0, truth["view" if fixed else "species"], views)


def cryo2d(*words: str) -> None:
    """Run the program."""
    subprocess.run([sys.executable, "-m", "cryo2d", *words], check=True, stdout=subprocess.DEVNULL)


def ruled(ruler: Path, truth: Path, run: Path, *words: str) -> dict[str, Any]:
    """What the ruler says of the particles of a run."""
    command = [sys.executable, str(ruler), str(truth), str(run / "particles.star"), *words]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(printed.stdout)


def ari(first: np.ndarray, second: np.ndarray) -> float:
    """Adjusted Rand index of two partitions (Hubert & Arabie 1985)."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    both, one, two = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance, most = one * two / pairs(np.array([len(first)])), (one + two) / 2
    return (both - chance) / (most - chance) if most != chance else 1.0


def results(
    run: Path, truth: Truth, found: dict[str, Any], frc_against: Callable[..., float]
) -> np.ndarray:
    """Add measures of a run's own files to those of the ruler; the classes ``[n]``, -1 for none."""
    rows = starfile.read(run / "particles.star", always_dict=True)["particles"]
    row = rows["rlnImageName"].str.split("@").str[0].astype(int).to_numpy() - 1
    classes = np.full(len(truth.good), -1)
    classes[row] = rows["rlnClassNumber"].to_numpy() - 1
    posterior = np.full(len(truth.good), np.nan)
    posterior[row] = rows["rlnMaxValueProbDistribution"]
    good = truth.good & (classes >= 0)
    right = np.zeros(len(good), dtype=bool)
    best: dict[int, tuple[int, int]] = {}  # members and number of the best class of each view
    for k in np.unique(classes[good]):
        own = good & (classes == k)
        major = int(np.bincount(truth.label[own]).argmax())
        here = own & (truth.label == major)
        right |= here
        if own.sum() >= SHOWN * len(good) and here.sum() >= 0.5 * own.sum():
            best[major] = max(best.get(major, (0, 0)), (int(own.sum()), int(k)))
    found["overconfidence"] = float(posterior[good].mean() - right[good].mean())
    table = starfile.read(run / "class_averages.star", always_dict=True)["model_classes"]
    found["empty"] = len(table) - found["classes"]
    if found.get("frc05_A") and truth.views is not None:
        resolution = table["rlnEstimatedResolution"].to_numpy(dtype=float)
        with mrcfile.open(run / "class_averages.mrcs") as file:
            averages, pixel = file.data.astype(float), float(file.voxel_size.x)
        pairs = [(k, averages[k], truth.views[view].astype(float)) for view, (_, k) in best.items()]
        ratios = [resolution[k] / frc_against(own, view, pixel) for k, own, view in pairs]
        found["frc_ratio"] = float(np.median(ratios))
    return classes


def measure(
    data: Set, ruler: Path, seed: int, settings: list[str], run: Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Measures of one run, and its classes."""
    started = time.perf_counter()
    star = data.folder / "particles.star"
    # the command line's own settings come last
    words = [f"hydra.run.dir={run}", f"data.path={star}", f"seed={seed}"]
    cryo2d(*words, "logger=none", *data.settings, *settings)
    wall = time.perf_counter() - started
    truth = data.folder / "truth.npz"
    found = ruled(ruler, truth, run, "--averages", str(run / "class_averages.mrcs"))
    frc_against = runpy.run_path(str(ruler))["frc_against"]
    classes = results(run, Truth.of(truth), found, frc_against)
    lines = (run / "metrics.csv").read_text().splitlines()
    values = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    visits = sum(float(row["particles"]) for row in values)
    spent = sum(float(row["particles"]) / float(row["particles_per_second"]) for row in values)
    found["visits"] = visits / len(classes)
    found["ms_per_visit"], found["seconds"] = 1e3 * spent / visits, wall
    return found, classes


def spread(values: list[float]) -> str:
    """Median, and for several values the smallest and the largest."""
    if not values:
        return "-"
    text = f"{statistics.median(values):.3g}"
    return f"{text} ({min(values):.3g}..{max(values):.3g})" if len(values) > 1 else text


def row(data: Set, runs: list[tuple[dict[str, Any], np.ndarray]]) -> str:
    """The table row of a set."""
    good = Truth.of(data.folder / "truth.npz").good
    for _, classes in runs:
        good = good & (classes >= 0)
    columns = [[f[key] for f, _ in runs if f.get(key) is not None] for key in COLUMNS]
    pairs = itertools.combinations([classes[good] for _, classes in runs], 2)
    columns.append([ari(first, second) for first, second in pairs])
    return f"| {data.name} | " + " | ".join(spread(values) for values in columns) + " |"


def main() -> None:
    """Measure every set and print the table."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--ruler", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--pictures", type=Path, help="folder for the class averages of each set")
    options = parser.parse_args(arguments[:cut])
    print("| set | " + " | ".join(COLUMNS.values()) + " | seeds |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for text in options.sets:
            data, runs = Set.of(text, Path(scratch)), []
            for seed in options.seeds:
                run = Path(scratch, f"{data.name}_{seed}_run")
                runs.append(measure(data, options.ruler, seed, arguments[cut + 1 :], run))
                if options.pictures and seed == options.seeds[0]:
                    options.pictures.mkdir(parents=True, exist_ok=True)
                    name = re.sub(r"\W", "_", data.name)
                    shutil.copy(run / "classes.png", options.pictures / f"{name}.png")
                shutil.rmtree(run)
            print(row(data, runs), flush=True)


if __name__ == "__main__":
    main()
