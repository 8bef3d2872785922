"""How well classes and poses are found on stacks whose truth is known.

    python tests/benchmarks/quality.py SET... --ruler score.py --seeds 1 2 3 [-- key=value ...]

SET is a folder with particles.star and truth.npz, or the word ``demo`` for the program's own
simulation. The ruler is a script that prints one JSON object for
``TRUTH.npz PARTICLES.star --averages CLASS_AVERAGES.mrcs``. Prints one row per set: the median over
the seeds, then the spread.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLUMNS = {
    "views_found": "views",
    "purity": "purity",
    "species_purity": "species",
    "junk_recall": "junk rec",
    "junk_purity": "junk pur",
    "inplane_error_deg": "in-plane",
    "inplane_ok": "ok",
    "shift_error_A": "shift A",
    "frc05_A": "frc05 A",
    "direction_error_deg": "direct.",
    "used_classes": "used",
    "effective_classes": "eff.",
    "empty": "empty",
    "ms_per_visit": "ms/visit",
    "seconds": "seconds",
}


def classify(data: Path, folder: Path, settings: list[str]) -> tuple[Path, float, int]:
    """Run the program; the run's folder, the wall time of its iterations, and their visits."""
    command = [sys.executable, "-m", "cryo2d", f"hydra.run.dir={folder}", *settings]
    if data.name != "demo":
        command.append(f"data.path={data.resolve() / 'particles.star'}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = (folder / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    values = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    visits = [float(row["particles"]) for row in values]
    rates = [float(row["particles_per_second"]) for row in values]
    seconds = sum(n / r for n, r in zip(visits, rates, strict=True))
    return folder, seconds, int(sum(visits))


def measure(data: Path, ruler: Path, seed: int, settings: list[str]) -> dict[str, float]:
    """Measures of one run."""
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        run, seconds, visits = classify(data, Path(scratch, "run"), [f"seed={seed}", *settings])
        wall = time.perf_counter() - started
        truth = (run / "simulated" if data.name == "demo" else data) / "truth.npz"
        printed = subprocess.run(
            [sys.executable, str(ruler), str(truth), str(run / "particles.star")]
            + ["--averages", str(run / "class_averages.mrcs")],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(printed.stdout)
        classes = json.loads((run / "manifest.json").read_text())["classes"]
    found["empty"] = classes - found["classes"]
    found["ms_per_visit"], found["seconds"] = 1e3 * seconds / visits, wall
    return found


def row(name: str, results: list[dict[str, float]]) -> str:
    """Median and, for several seeds, smallest and largest value of every column."""
    cells = []
    for key in COLUMNS:
        values = [r[key] for r in results if r.get(key) is not None]
        if not values:
            cells.append("-")
            continue
        text = f"{statistics.median(values):.3g}"
        if len(values) > 1:
            text += f" ({min(values):.3g}..{max(values):.3g})"
        cells.append(text)
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure every set and print the table."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--ruler", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    options = parser.parse_args(arguments[:cut])
    print("| set | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for data in options.sets:
        settings = [*arguments[cut + 1 :], "logger=none"]
        results = [measure(data, options.ruler, seed, settings) for seed in options.seeds]
        print(row(data.name, results), flush=True)


if __name__ == "__main__":
    main()
