"""The folder of a finished classification, small and made by hand."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reference import PICTURES, picture

from cryo2d.io.averages import ClassAverages, Rings, write_class_averages
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import (
    AlignmentColumns,
    CtfColumns,
    Locations,
    ParticleTable,
    write_particles,
)

BOX, PIXEL, CLASSES = 32, 3.0, 6
COUNTS = (30, 25, 20, 15, 10, 0)
RESOLUTION = (8.0, 9.0, 14.0, 11.0, 20.0, np.inf)


@dataclass(frozen=True)
class FinishedRun:
    """Where it is and what its particles are.

    Attributes:
        folder: of the run.
        table: its particles.
        averages: its classes.
    """

    folder: Path
    table: ParticleTable
    averages: ClassAverages


def finished_run(folder: Path, *, micrographs: tuple[str, ...] = ("a.mrc", "b.mrc")) -> FinishedRun:
    """Particles without CTF, each the picture of its class turned and shifted, in some noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    classes = rng.permutation(np.repeat(np.arange(CLASSES), COUNTS))
    count = len(classes)
    psi, shift = rng.uniform(0, 2 * np.pi, count), rng.uniform(-2, 2, (count, 2))
    images = [
        picture(BOX, int(k) % len(PICTURES), p, t)
        for k, p, t in zip(classes, psi, shift, strict=True)
    ]
    stack = folder / "particles.mrcs"
    noisy = np.stack(images) + rng.normal(0, 0.1, (count, BOX, BOX))
    write_stack(stack, noisy.astype(np.float32), PIXEL)
    table = ParticleTable(
        source="particles.star",
        source_row=np.arange(count) + 30,
        stacks=(str(stack),),
        stack_names=("particles.mrcs",),
        stack_id=np.zeros(count, np.int32),
        image_index=np.arange(count),
        optics_names=("opticsGroup1",),
        box=np.array([BOX]),
        optics=np.zeros(count, np.int32),
        pixel_size=np.full(count, PIXEL),
        sign=np.ones(count, np.float32),
        ctf=CtfColumns(
            *(np.full(count, value) for value in (2e4, 1.9e4, 0.3, 300.0, 2.7e7, 0.1, 0.0, 0.0))
        ),
        locations=Locations(
            micrograph=np.array(micrographs, object)[rng.integers(0, len(micrographs), count)],
            x=rng.uniform(0, 400, count).round(3),
            y=rng.uniform(0, 300, count).round(3),
            pixel_size=np.full(count, 1.5),
            shape=np.zeros((count, 2), np.int64),
        ),
    ).with_alignment(
        AlignmentColumns(
            class_index=classes,
            psi=psi,
            shift=shift * PIXEL,
            half=np.arange(count) % 2,
            class_posterior=rng.uniform(0.5, 1, count),
        )
    )
    frequency = np.arange(1, BOX // 2) / (BOX * PIXEL)
    averages = ClassAverages(
        np.stack([picture(BOX, k % len(PICTURES)) for k in range(CLASSES)]).astype(np.float32),
        PIXEL,
        {
            "count": np.array(COUNTS),
            "resolution": np.array(RESOLUTION),
            "ess": np.array([1.0, 1.1, 1.9, 1.3, 2.5, np.nan]),
            "posterior": np.array([0.95, 0.9, 0.5, 0.8, 0.4, np.nan]),
            "superclass": np.array([1, 2, 3, 4, 1, 0]),
        },
        Rings(np.linspace(1, 0, len(frequency)) * np.ones((CLASSES, 1)), frequency),
        iteration=5,
    )
    write_class_averages(folder, averages)
    for name in ("particles.star", "particles.cs"):
        write_particles(folder / name, table)
    (folder / "manifest.json").write_text(json.dumps({"particles": {"total": count}}))
    return FinishedRun(folder, table, averages)
