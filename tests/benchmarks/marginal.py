"""Poses marginalised (model.force_max=false) against poses maximised, on noisy particles.

    PYTHONPATH=tests python tests/benchmarks/marginal.py [--snr 0.08 0.04 0.02] [--seeds 1 2]

Particles of one molecule in three views, 64 px of 4 A. Every run starts from the true views,
blurred, so that the rows tell how well averages are made, and not how a random start went.
Agreement is the mean FRC of the averages with the clean views, all rings to 8 A; in-plane and shift
are median errors.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from guided import from_views, made
from truth import agreement, classified, pose_errors, purity

SCENE = {"num_particles": 1500, "box": 64, "pixel_size": 4.0, "num_molecules": 1, "views": 3}
SETTINGS = [
    "model.num_classes=3",
    "model.max_resolution=8",
    "optimizer.iterations=20",
    "optimizer.batch_per_class=150",
    "optimizer.full_iterations=2",
]


def measure(snr: float, force_max: str, seed: int) -> list[float]:
    """The measures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        stack = made(Path(folder, "stack"), **(SCENE | {"snr": snr, "seed": seed}))
        start = time.perf_counter()
        mode = [f"model.force_max={force_max}", f"seed={seed}"]
        found = classified(stack, *SETTINGS, *mode, *from_views(stack))
        seconds = time.perf_counter() - start
    errors = pose_errors(found, stack)
    quality = [agreement(found, stack), purity(found, stack)]
    return [*quality, errors.degrees, errors.angstrom, errors.right, seconds]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snr", nargs="+", type=float, default=[0.08, 0.04, 0.02])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    print("| SNR | poses | agreement | purity | in-plane | shift A | right | seconds |")
    print("|---" * 8 + "|")
    for snr in options.snr:
        for force_max, name in (("true", "maximised"), ("false", "summed over")):
            rows = [measure(snr, force_max, seed) for seed in options.seeds]
            cells = [f"{statistics.mean(column):.3g}" for column in zip(*rows, strict=True)]
            print(f"| {snr:g} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
