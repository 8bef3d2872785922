"""Particles and megabytes a second from the stack to memory, against a plain read of the file.

    python tests/benchmarks/reading.py FOLDER [--boxes 64 128 256] [--types float32 float16 int8]
        [--threads 1 2] [--megabytes 128] [--repeat 3]

FOLDER is on the disk to measure. Cold means that the system has dropped the file from its memory.
The best of the repeats; ``read`` to ``prepare`` are the parts of one thread, warm, in microseconds
a particle: bytes into memory, bytes to checked float32, and background to polar samples.
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryo2d.data.reader import iterate
from cryo2d.io.mrc import stack_header
from cryo2d.io.particles import Excluded, ParticleTable, read_particles
from cryo2d.physics.preprocess import Preprocessor, working_box
from cryo2d.training.assembly import Frame
from cryo2d.training.datamodule import Particles

MODES = {"float32": 2, "float16": 12, "int8": 0}
PIXEL_SIZE = {64: 3.0, 128: 1.5, 256: 1.0}
BLOCK = 4 << 20


def make_stack(path: Path, box: int, kind: str, megabytes: float) -> None:
    """A stack of noise; the same few images over and over."""
    image_bytes = box * box * np.dtype(kind).itemsize
    count = int(megabytes * 1e6 / image_bytes)
    noise = np.random.default_rng(0).normal(0, 20, (min(count, 50), box, box))
    images = np.resize(noise.astype(kind), (count, box, box))
    with path.open("wb") as file:
        file.write(stack_header(images, PIXEL_SIZE.get(box, 1.0), MODES[kind]))
        file.write(images.data)
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Drop the file from the memory of the system."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def plain_read(path: Path) -> None:
    """The file from beginning to end."""
    descriptor, buffer = os.open(path, os.O_RDONLY), bytearray(BLOCK)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)


def best(action: Callable[[], object], before: Callable[[], object], repeat: int) -> float:
    """Shortest of several runs (s)."""
    times = []
    for _ in range(repeat):
        before()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def particles_of(table: ParticleTable, excluded: Excluded, threads: int) -> Particles:
    """The particles of a run at 6 A."""
    raw, pixel = int(table.box[0]), float(table.pixel_size[0])
    box = working_box(raw, pixel, 6.0)
    frame = Frame(box, raw * pixel / box, 6.0)
    preprocessor = Preprocessor(frame.grid, raw)
    device = torch.device("cpu")
    return Particles(table, excluded, preprocessor, seed=0, device=device, threads=threads)


def parts(path: Path, particles: Particles, repeat: int) -> list[float]:
    """Microseconds a particle of reading, decoding and preparing in one thread."""
    table, nothing = particles.table, lambda: None
    count = len(table)
    read = best(lambda: plain_read(path), nothing, repeat)
    both = best(lambda: list_of_none(iterate(table, threads=1)), nothing, repeat)
    images = torch.from_numpy(next(iter(iterate(table, threads=1))).images)
    with torch.no_grad():
        prepare = best(lambda: particles.preprocessor(images), nothing, repeat + 1)
    return [1e6 * read / count, 1e6 * (both - read) / count, 1e6 * prepare / len(images)]


def list_of_none(chunks) -> None:
    """Take every chunk and keep none."""
    for _ in chunks:
        pass


def measure(path: Path, threads: list[int], repeat: int) -> None:
    """Print the rows of one stack."""
    table, excluded = read_particles(path, require_ctf=False)
    size, count = path.stat().st_size / 1e6, len(table)
    torch.set_num_threads(1)
    split = parts(path, particles_of(table, excluded, 1), repeat)
    for number in threads:
        torch.set_num_threads(number)
        for state, before in (("cold", lambda: forget(path)), ("warm", lambda: None)):
            plain = best(lambda: plain_read(path), before, repeat)
            whole = best(lambda n=number: particles_of(table, excluded, n).read(), before, repeat)
            cells = [path.stem, str(number), state, f"{size / plain:.0f}", f"{size / whole:.0f}"]
            cells += [f"{count / whole:,.0f}", *(f"{part:.0f}" for part in split)]
            print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--boxes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--types", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--megabytes", type=float, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    columns = "stack|threads|state|plain MB/s|MB/s|particles/s|read us|decode us|prepare us"
    print("| " + columns.replace("|", " | ") + " |")
    print("|---" * len(columns.split("|")) + "|")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for box in options.boxes:
            for kind in options.types:
                path = Path(scratch, f"{box} px {kind}.mrcs")
                make_stack(path, box, kind, options.megabytes)
                measure(path, options.threads, options.repeat)
                path.unlink()


if __name__ == "__main__":
    main()
