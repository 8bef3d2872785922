"""Seconds and memory of reading and writing the metadata of very many particles.

    python tests/benchmarks/metadata.py FOLDER [--rows 1000000] [--repeat 3]

Each measure is the best of several fresh processes: wall time, time of all cores, and peak memory
above what the process takes before. The star has fourteen usual columns of RELION 3.1; one .cs
has the slots blob, ctf, location and alignments2D as cryoSPARC writes them, the other is made from
the star and carries its columns.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cryo2d.io.cs import build, write_array
from cryo2d.io.particles import AlignmentColumns, read_particles, write_particles

STACK_ROWS = 250
OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnAmplitudeContrast #3\n"
    "_rlnSphericalAberration #4\n_rlnVoltage #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n"
    "_rlnImageDimensionality #8\n1 opticsGroup1 0.1 2.7 300 1.06 256 2\n\n"
)
LABELS = (
    *("rlnCoordinateX", "rlnCoordinateY", "rlnImageName", "rlnMicrographName", "rlnOpticsGroup"),
    *("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnAnglePsi"),
    *("rlnOriginXAngst", "rlnOriginYAngst", "rlnClassNumber", "rlnCtfMaxResolution"),
)
ACTIONS = {
    "star read": "particles.star",
    "star write": "particles.star",
    "cs read": "particles.cs",
    "cs write": "particles.cs",
    "converted cs read": "converted.cs",
}


def make_star(path: Path, rows: int) -> None:
    """A star of particles of 250 on each micrograph."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write(OPTICS + "data_particles\n\nloop_\n")
        file.writelines(f"_{label} #{i}\n" for i, label in enumerate(LABELS, start=1))
        for start in range(0, rows, STACK_ROWS):
            count = min(STACK_ROWS, rows - start)
            name = f"grid{start // STACK_ROWS:06d}_fractions_aligned"
            numbers = np.hstack(
                [
                    rng.uniform(0, 4000, (count, 2)),
                    rng.uniform(5000, 25000, (count, 2)),
                    rng.uniform(-180, 180, (count, 3)),
                    rng.normal(0, 3, (count, 2)),
                ]
            ).tolist()
            classes = rng.integers(1, 101, count).tolist()
            file.writelines(
                f"{x:12.6f} {y:12.6f} {i:06d}@Extract/job012/Movies/{name}.mrcs"
                f" MotionCorr/job002/Movies/{name}.mrc 1 {u:12.6f} {v:12.6f} {angle:12.6f}"
                f" 0.000000 {psi:12.6f} {ox:12.6f} {oy:12.6f} {k:4d} 3.512345\n"
                for i, ((x, y, u, v, angle, _, psi, ox, oy), k) in enumerate(
                    zip(numbers, classes, strict=True), start=1
                )
            )


def make_cs(path: Path, rows: int) -> None:
    """A .cs as a 2D classification of cryoSPARC writes it."""
    rng = np.random.default_rng(0)
    each = np.arange(rows)
    names = [f"{i:021d}_grid{i:06d}_patch_aligned".encode() for i in range(rows // STACK_ROWS + 1)]
    stacks = np.array([b"J12/extract/" + name + b"_particles.mrc" for name in names])
    micrographs = np.array([b"J2/motioncorrected/" + name + b".mrc" for name in names])

    def numbers(*shape: int) -> np.ndarray:
        return rng.uniform(0, 1, (rows, *shape)).astype("<f4")

    fields = {
        "uid": rng.permutation(rows).astype("<u8"),
        "blob/path": stacks[each // STACK_ROWS],
        "blob/idx": (each % STACK_ROWS).astype("<u4"),
        "blob/shape": np.full((rows, 2), 256, "<u4"),
        "blob/psize_A": np.full(rows, 1.06, "<f4"),
        "blob/sign": np.full(rows, -1, "<f4"),
        "ctf/exp_group_id": np.zeros(rows, "<u4"),
        "ctf/accel_kv": np.full(rows, 300, "<f4"),
        "ctf/cs_mm": np.full(rows, 2.7, "<f4"),
        "ctf/amp_contrast": np.full(rows, 0.1, "<f4"),
        "ctf/df1_A": 1e4 + numbers(),
        "ctf/df2_A": 1e4 + numbers(),
        "ctf/df_angle_rad": numbers(),
        "ctf/phase_shift_rad": np.zeros(rows, "<f4"),
        "ctf/anisomag": np.zeros((rows, 4), "<f4"),
        "location/micrograph_path": micrographs[each // STACK_ROWS],
        "location/micrograph_shape": np.full((rows, 2), 4096, "<u4"),
        "location/center_x_frac": numbers(),
        "location/center_y_frac": numbers(),
        "location/micrograph_psize_A": np.full(rows, 0.53, "<f4"),
        "alignments2D/split": (each % 2).astype("<u4"),
        "alignments2D/shift": numbers(2),
        "alignments2D/pose": numbers(),
        "alignments2D/psize_A": np.full(rows, 1.06, "<f4"),
        "alignments2D/class": rng.integers(0, 50, rows).astype("<u4"),
        "alignments2D/class_posterior": numbers(),
        "alignments2D/error": numbers(),
    }
    with path.open("wb") as file:
        write_array(file, build(fields, rows))


def found(rows: int) -> AlignmentColumns:
    """What a run adds."""
    rng = np.random.default_rng(1)
    return AlignmentColumns(
        class_index=rng.integers(0, 100, rows),
        psi=rng.uniform(0, 6.28, rows),
        shift=rng.normal(0, 3, (rows, 2)),
        half=rng.integers(0, 2, rows),
        **{
            name: rng.uniform(0, 2, rows).astype(np.float32)
            for name in (
                *("class_posterior", "class_ess", "pose_ess", "shift_ess", "error", "image_pow"),
                *("cross_cor", "slice_pow", "alpha", "alpha_min"),
            )
        },
    )


def memory(line: str) -> float:
    """A line of the process's status: VmRSS now, VmHWM at its peak (MB)."""
    status = Path("/proc/self/status").read_text().split(line + ":")[1]
    return int(status.split()[0]) / 1024


def act(action: str, folder: Path) -> dict[str, float]:
    """Do one thing in this process, and say what it took."""
    source = folder / ACTIONS[action]
    if action.endswith("write"):
        table = read_particles(source, require_stacks=False)[0]
        table = table.with_alignment(found(len(table)))
    # from here on the peak is counted anew
    Path("/proc/self/clear_refs").write_text("5")
    before, start, cores = memory("VmRSS"), time.perf_counter(), time.process_time()
    if action.endswith("write"):
        write_particles(folder / f"out{source.suffix}", table)
    else:
        read_particles(source, require_stacks=False)
    seconds, cores = time.perf_counter() - start, time.process_time() - cores
    return {"seconds": seconds, "cores": cores, "megabytes": memory("VmHWM") - before}


def measure(action: str, folder: Path, repeat: int) -> str:
    """One row of the table."""
    command = [sys.executable, __file__, str(folder), "--act", action]
    results = []
    for _ in range(repeat):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    least = {name: min(result[name] for result in results) for name in results[0]}
    size = (folder / ACTIONS[action]).stat().st_size / 1e6
    times = f"{least['seconds']:.2f} | {least['cores']:.2f}"
    return f"| {action} | {size:.0f} | {times} | {least['megabytes']:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--act", choices=ACTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.act:
        print(json.dumps(act(options.act, options.folder)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        make_star(folder / "particles.star", options.rows)
        make_cs(folder / "particles.cs", options.rows)
        table = read_particles(folder / "particles.star", require_stacks=False)[0]
        write_particles(folder / "converted.cs", table)
        del table
        print(f"{options.rows:,} rows")
        print("| action | input MB | s | s of all cores | peak MB |\n|---|---|---|---|---|")
        for action in ACTIONS:
            print(measure(action, folder, options.repeat), flush=True)


if __name__ == "__main__":
    main()
