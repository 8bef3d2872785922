"""Particles on disk whose class and pose are known: what the jobs after a classification read."""

from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from synthetic import PIXEL, Synthetic, synthetic

from cryo2d import cli
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import AlignmentColumns, CtfColumns, ParticleTable, write_particles


def configured(job: str, *overrides: str) -> DictConfig:
    """The configuration of a job."""
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        return compose(job, overrides=list(overrides))


def table_of(found: Synthetic, folder: Path, **alignment: Any) -> ParticleTable:
    """The particles as a table of ``particles.mrcs`` in a folder."""
    count, box = len(found.raw), found.grid.box
    columns = {name: getattr(found.ctf, name).double().numpy() for name in vars(found.ctf)}
    values = {
        "class_index": found.classes.numpy(),
        "psi": found.psi.double().numpy(),
        "shift": found.shift.double().numpy() * PIXEL,
        "half": found.half.numpy(),
        "class_posterior": np.linspace(0.5, 1.0, count),
        "class_ess": np.linspace(2.0, 1.0, count),
    }
    table = ParticleTable(
        source=str(folder / "particles.star"),
        source_row=np.arange(1, count + 1),
        stacks=(str(folder / "particles.mrcs"),),
        stack_names=("particles.mrcs",),
        stack_id=np.zeros(count, np.int32),
        image_index=np.arange(count),
        optics_names=("opticsGroup1",),
        box=np.array([box]),
        optics=np.zeros(count, np.int32),
        pixel_size=np.full(count, PIXEL),
        sign=np.ones(count, np.float32),
        ctf=CtfColumns(**columns),
    )
    return table.with_alignment(AlignmentColumns(**(values | alignment)))


def write_classified(folder: Path, found: Synthetic, **alignment: Any) -> Path:
    """Write stack, particles.star and particles.cs; the path of the star."""
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / "particles.mrcs", found.raw.numpy(), PIXEL)
    table = table_of(found, folder, **alignment)
    for kind in ("cs", "star"):
        write_particles(folder / f"particles.{kind}", table)
    return folder / "particles.star"


def easy(count: int = 90, **settings: Any) -> Synthetic:
    """A few particles with little noise."""
    return synthetic(count, **({"box": 40, "rings": 20, "sigma": 0.3} | settings))
