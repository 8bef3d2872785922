"""Particle files of every dialect, made for one test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from particle_files import COUNT, cs_array, write_cs_file

from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import AlignmentColumns

BOX = 16
PIXEL_SIZE = 1.5

OPTICS = f"""
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnAmplitudeContrast #3
_rlnSphericalAberration #4
_rlnVoltage #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
_rlnMicrographPixelSize #9
1 opticsGroup1 0.100000 2.700000 300.000000 {PIXEL_SIZE} {BOX} 2 0.75

"""

PARTICLE_LABELS = (
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnImageName",
    "rlnMicrographName",
    "rlnOpticsGroup",
    "rlnDefocusU",
    "rlnDefocusV",
    "rlnDefocusAngle",
    "rlnCtfBfactor",
    "rlnPhaseShift",
    "rlnGroupName",
)


def particle_row(i: int, stack: str = "stack.mrcs") -> str:
    """The words of row ``i`` (from 0)."""
    return (
        f"{100 + i}.250000 {200 + 2 * i}.500000 {i + 1:06d}@{stack} mics/m{i % 2}.mrc 1 "
        f"{10000 + i}.123456 {9000 + i}.654321 {-30 + i}.5 0.000000 {i}.000000 0012"
    )


def loop(name: str, labels: tuple[str, ...], rows: list[str]) -> str:
    """A loop block."""
    header = "\n".join(f"_{label} #{i}" for i, label in enumerate(labels, start=1))
    return f"data_{name}\n\nloop_\n{header}\n" + "\n".join(rows) + "\n"


def particles_31(count: int = 6, stack: str = "stack.mrcs") -> str:
    """A RELION 3.1 star."""
    rows = [particle_row(i, stack) for i in range(count)]
    return OPTICS + loop("particles", PARTICLE_LABELS, rows)


@pytest.fixture
def images() -> np.ndarray:
    """Six images ``[n y x]``."""
    return np.random.default_rng(1).normal(size=(6, BOX, BOX)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    """A folder with ``stack.mrcs``."""
    write_stack(tmp_path / "stack.mrcs", images, PIXEL_SIZE)
    return tmp_path


@pytest.fixture
def star_text() -> Callable[..., str]:
    """Text of a RELION 3.1 star of ``count`` particles."""
    return particles_31


@pytest.fixture
def star_path(folder: Path) -> Path:
    """A RELION 3.1 star beside its stack."""
    path = folder / "particles.star"
    path.write_text(particles_31())
    return path


@pytest.fixture
def cs_path(folder: Path) -> Path:
    """A .cs in a job folder; its stack is named relative to the project folder."""
    (folder / "J1" / "imported").mkdir(parents=True)
    (folder / "stack.mrcs").rename(folder / "J1" / "imported" / "stack.mrcs")
    (folder / "J5").mkdir()
    return write_cs_file(folder / "J5" / "particles.cs", cs_array())


@pytest.fixture
def found() -> AlignmentColumns:
    """What a run could have found."""
    rng = np.random.default_rng(5)
    names = (
        *("class_posterior", "class_ess", "pose_ess", "shift_ess", "error", "image_pow"),
        *("cross_cor", "slice_pow", "alpha", "alpha_min", "outlier"),
    )
    values = {name: rng.uniform(0, 2, COUNT).astype(np.float32) for name in names}
    return AlignmentColumns(
        class_index=np.array([0, 3, 1, 1, 2, 7]),
        psi=np.radians([0.0, 30, -30, 200, 359.5, 90]),
        shift=np.array([[0, 0], [1.5, -3], [-4.5, 0.75], [3, 3], [0.15, 0], [0, -0.3]]),
        half=np.array([0, 1, 0, 1, 1, 0]),
        **values,
    )
