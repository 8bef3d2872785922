"""How long the removal of duplicates takes: python tests/benchmarks/deduplicate.py [particles].

A fifth of the picks are second picks of another particle. Prints the time of the search alone and
that of the whole job, from particles.star to the files it writes.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from cryo2d.data.duplicates import aligned_centres, find_duplicates
from cryo2d.jobs.deduplicate import run

LABELS = (
    "ImageName MicrographName CoordinateX CoordinateY OriginXAngst OriginYAngst AnglePsi "
    "ClassNumber MaxValueProbDistribution OpticsGroup"
)
PIXEL_SIZE = 0.83


def picks(count: int) -> dict[str, np.ndarray]:
    """Picks on micrographs of 200, the last fifth of them near another one's particle."""
    rng = np.random.default_rng(0)
    again = count // 5
    micrograph = rng.integers(0, max(count // 200, 1), count)
    centre = rng.uniform(0, 3500, (count, 2))
    first = rng.integers(0, count - again, again)
    micrograph[count - again :] = micrograph[first]
    centre[count - again :] = centre[first] + rng.normal(0, 5, (again, 2))
    shift = rng.uniform(-20, 20, (count, 2))
    return {
        "micrograph": micrograph,
        "pick": (centre + shift) / PIXEL_SIZE,
        "shift": shift,
        "posterior": rng.uniform(0.2, 1, count),
    }


def write_star(path: Path, particles: dict[str, np.ndarray]) -> None:
    """A star file like that of a finished run, without its stack."""
    columns = zip(*(particles[k].tolist() for k in particles), strict=True)
    rows = [
        f"{i + 1:07d}@particles.mrcs mic{m:06d}.mrc {x:.3f} {y:.3f} {dx:.6f} {dy:.6f} "
        f"12.5 {i % 50 + 1} {p:.6f} 1"
        for i, (m, (x, y), (dx, dy), p) in enumerate(columns)
    ]
    optics = (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnImagePixelSize #3\n"
        f"_rlnMicrographPixelSize #4\n_rlnImageSize #5\n1 one 3.32 {PIXEL_SIZE} 64\n\n"
    )
    header = "".join(f"_rln{label} #{i}\n" for i, label in enumerate(LABELS.split(), start=1))
    path.write_text(f"{optics}data_particles\n\nloop_\n{header}" + "\n".join(rows) + "\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    particles = picks(count)
    names = np.array([f"mic{m:06d}.mrc" for m in particles["micrograph"]], dtype=object)
    size = np.full(count, PIXEL_SIZE)
    begin = time.perf_counter()
    centre = aligned_centres(*particles["pick"].T, size, particles["shift"])
    found = find_duplicates(names, centre, particles["posterior"], np.zeros(count), 20.0)
    seconds = time.perf_counter() - begin
    print(f"search of {count:,} picks: {seconds:.1f} s, {(~found.keep).sum():,} removed")  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        star = Path(folder) / "particles.star"
        write_star(star, particles)
        post = {"remove_duplicates": None, "min_separation": 20, "micrograph_pixel_size": None}
        cfg = OmegaConf.create({"data": {"path": str(star), "passthrough": []}, "post": post})
        out = Path(folder) / "out"
        out.mkdir()
        begin = time.perf_counter()
        kept = run(cfg, out)
        seconds = time.perf_counter() - begin
    print(f"whole job, files included: {seconds:.1f} s, {kept:,.0f} kept")  # noqa: T201


if __name__ == "__main__":
    main()
