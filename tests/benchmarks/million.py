"""Many particles from end to end: seconds and peak memory of a whole classification.

    python tests/benchmarks/million.py FOLDER [--particles 1000000] [--unique 100000] [-- key=value]

Simulates ``unique`` particles of the demo in every direction and writes them as often as it takes
(16.4 GB for a million of 64 pixels), on micrographs of their own. Half-sets then share images, so
that resolutions of the run mean nothing. Prints how long a plain read of the stack takes, and the
command with its seconds, those of its iterations, and the peak of its memory.
"""

import argparse
import csv
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PIECE = 1 << 24  # bytes read or written at a time


def pieces(path: Path, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file, one piece after the other."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(PIECE):
            yield piece


def repeated(source: Path, target: Path, times: int) -> Path:
    """A stack and its star, written so often, as one stack and one star."""
    stack, target_stack = source / "particles.mrcs", target / "particles.mrcs"
    head = np.fromfile(stack, "<i4", 256)
    count = int(head[2])
    head[[2, 9]] *= times
    head.view("<f4")[12] *= times
    with target_stack.open("wb") as file:
        file.write(head.tobytes())
        for _ in range(times):
            file.writelines(pieces(stack, 1024))
    lines = (source / "particles.star").read_text().splitlines()
    rows = [line.split() for line in lines if "@" in line]
    star = target / "particles.star"
    with star.open("w") as file:
        file.writelines(line + "\n" for line in lines[: lines.index(" ".join(rows[0]))])
        for turn in range(times):
            for number, (_, micrograph, *rest) in enumerate(rows, start=1 + turn * count):
                name = f"{number}@{target_stack.name} {turn}_{micrograph}"
                file.write(" ".join((name, *rest)) + "\n")
        file.write("\n")
    return star


def main() -> None:
    """Simulate, classify, and print."""
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--unique", type=int, default=100_000)
    options = parser.parse_args(arguments[:cut])
    cryo2d = [sys.executable, "-m", "cryo2d"]
    few, many, run = (options.folder / name for name in ("few", "many", "run"))
    many.mkdir(parents=True)
    recipe = {"num_particles": options.unique, "views": "null", "num_micrographs": 200}
    words = [f"simulation.{key}={value}" for key, value in recipe.items()]
    subprocess.run([*cryo2d, "simulate", f"hydra.run.dir={few}", *words], check=True)
    star = repeated(few, many, options.particles // options.unique)
    start = time.perf_counter()
    size = sum(len(piece) for piece in pieces(many / "particles.mrcs"))
    print(f"plain read of {size / 1e9:.1f} GB: {time.perf_counter() - start:.1f} s", flush=True)
    words = [f"data.path={star}", "model.num_classes=100", "logger=none", "seed=1"]
    start = time.perf_counter()
    subprocess.run(
        [*cryo2d, *words, f"hydra.run.dir={run}", *arguments[cut + 1 :]],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.perf_counter() - start
    with (run / "metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    inside = sum(float(row["seconds"]) for row in rows)
    visits = sum(float(row["particles"]) for row in rows)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"command {whole:.0f} s, of it iterations {inside:.0f} s; peak {peak:.1f} GB")
    print(f"{visits:,.0f} visits, {1e3 * inside / visits:.2f} ms each")


if __name__ == "__main__":
    main()
