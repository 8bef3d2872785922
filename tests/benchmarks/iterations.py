"""Milliseconds of a particle visit in real runs: whole iterations, by the clock.

    python tests/benchmarks/iterations.py STAR [--classes 50 100] [--threads 1 2] [-- key=value ...]

Runs the program and reads its metrics.csv: E-step, statistics and M-step of the online iterations
after the resolution ramp, in which half-sets are aligned apart, and of the pass over everything.
Then the seconds of the whole command, and how many of them lie outside the iterations: imports,
reading, what is drawn and written meanwhile, and the output at the end. Other programs on the
machine disturb the clock.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def milliseconds(rows: list[dict[str, str]]) -> float:
    """Mean time of a visit."""
    visits = [float(row["particles"]) for row in rows]
    rates = [float(row["particles_per_second"]) for row in rows]
    return 1e3 * sum(n / rate for n, rate in zip(visits, rates, strict=True)) / sum(visits)


def main() -> None:
    """Print the table."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("star", type=Path)
    parser.add_argument("--classes", nargs="+", type=int, default=[50])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args(arguments[:cut])
    names = "all online iterations | after the ramp | last pass | command s | outside s"
    print(f"| classes | threads | {names} |")
    print("|---|---|---|---|---|---|---|")
    for num_classes in options.classes:
        for threads in options.threads:
            with tempfile.TemporaryDirectory() as folder:
                words = [f"data.path={options.star.resolve()}", f"model.num_classes={num_classes}"]
                words += [f"hardware.threads={threads}", "seed=1", "logger=none"]
                words += [f"hydra.run.dir={folder}/run", *arguments[cut + 1 :]]
                command = [sys.executable, "-m", "cryo2d", *words]
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                whole = time.perf_counter() - start
                with open(f"{folder}/run/metrics.csv", newline="") as table:
                    rows = list(csv.DictReader(table))
            *online, last = rows
            late = online[-len(online) // 5 :]
            times = [milliseconds(part) for part in (online[1:], late, [last])]
            text = " | ".join(f"{value:.3f}" for value in times)
            outside = whole - sum(float(row["seconds"]) for row in rows)
            shown = f"{num_classes} | {threads} | {text} | {whole:.1f} | {outside:.1f}"
            print(f"| {shown} |", flush=True)


if __name__ == "__main__":
    main()
