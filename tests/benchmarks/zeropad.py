"""What model.zeropad costs and what it buys.

    PYTHONPATH=tests python tests/benchmarks/zeropad.py [--box 64] [--zeropad 1 1.5 2 3]

One child process per factor. Columns: size of the interpolation tables of the polar grid; peak
memory of the process beyond what it had before; milliseconds to sample and to synthesise one
image; the error of sampling (root mean square, as a part of the signal) against the exact sum over
pixels, for a smooth picture and for white noise that fills the box; the error of synthesis of the
sampled picture inside 0.8 of the half box; then of a classification of simulated particles: the
median in-plane and shift error, the correlation of the averages with the true views, seconds.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from reference import picture, polar
from truth import agreement, classified, pose_errors, simulated

from cryo2d.geometry.polar import PolarGrid, _interpolation
from cryo2d.physics.mask import radius_grid

COLUMNS = {
    "tables": "tables MiB",
    "peak": "peak MiB",
    "sample": "sample ms",
    "synthesise": "synthesise ms",
    "smooth": "error, picture",
    "noise": "error, noise",
    "back": "error, synthesis",
    "inplane": "in-plane",
    "shift": "shift A",
    "agreement": "agreement",
    "seconds": "run s",
}
SCENE = {"num_particles": 600, "num_molecules": 3, "views": 2, "snr": 0.3, "junk_fraction": 0.0}
SETTINGS = ("model.num_classes=8", "optimizer.iterations=20", "seed=1")


def peak() -> float:
    """Largest resident memory of this process so far (MiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def milliseconds(call, count: int) -> float:
    """Wall time of a call, for one of ``count`` images."""
    call()
    start = time.perf_counter()
    for _ in range(3):
        call()
    return 1e3 * (time.perf_counter() - start) / (3 * count)


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square difference as a part of the root mean square."""
    return float(np.sqrt((np.abs(found - exact) ** 2).mean() / (np.abs(exact) ** 2).mean()))


def measure(zeropad: float, box: int) -> dict[str, float]:
    """Everything of one factor."""
    torch.set_num_threads(1)
    grid, before = PolarGrid(box, int(0.45 * box), padding=zeropad), peak()
    smooth = picture(box, 0)
    noise = np.random.default_rng(0).standard_normal((box, box))
    images = torch.from_numpy(np.stack([smooth, noise] * 100)).float()
    rings = grid.sample(images)
    out = {
        "sample": milliseconds(lambda: grid.sample(images), len(images)),
        "synthesise": milliseconds(lambda: grid.synthesize(rings), len(images)),
        "peak": peak() - before,
        "smooth": relative(rings[0].numpy(), polar(smooth, grid)),
        "noise": relative(rings[1].numpy(), polar(noise, grid)),
    }
    inside = (radius_grid(box) < 0.4 * box).numpy()
    back = grid.synthesize(rings[:1])[0].numpy()
    level = (smooth - back)[inside].mean()  # the mean is on no ring
    out["back"] = relative((back + level)[inside], smooth[inside])
    tables = _interpolation(grid, torch.device("cpu"))
    bytes_ = sum(t.values().nbytes + t.indices().nbytes for t in tables)
    out["tables"] = bytes_ / 2**20
    with tempfile.TemporaryDirectory() as scratch:
        stack = simulated(Path(scratch), **SCENE, box=box, pixel_size=4.0, seed=5)
        start = time.perf_counter()
        found = classified(stack, *SETTINGS, "model.max_resolution=9", f"model.zeropad={zeropad}")
        out["seconds"] = time.perf_counter() - start
        errors = pose_errors(found, stack)
        out |= {"inplane": errors.degrees, "shift": errors.angstrom}
        out["agreement"] = agreement(found, stack)
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--zeropad", nargs="+", type=float, default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--child", type=float)
    options = parser.parse_args()
    if options.child is not None:
        logging.disable(logging.CRITICAL)
        print(json.dumps(measure(options.child, options.box)))
        return
    print("| zeropad | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for zeropad in options.zeropad:
        command = [sys.executable, __file__, "--child", str(zeropad), "--box", str(options.box)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(printed.splitlines()[-1])
        print(f"| {zeropad:g} | " + " | ".join(f"{found[key]:.3g}" for key in COLUMNS) + " |")


if __name__ == "__main__":
    main()
