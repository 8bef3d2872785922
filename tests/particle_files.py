"""Particle files of RELION and cryoSPARC, as text and arrays."""

from pathlib import Path

import numpy as np

from cryo2d.io.columns import StarColumns
from cryo2d.io.cs import build, write_array
from cryo2d.io.particles import ParticleTable

COUNT = 6
OLD_LABELS = (
    *("rlnVoltage", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnSphericalAberration"),
    *("rlnDetectorPixelSize", "rlnMagnification", "rlnAmplitudeContrast", "rlnImageName"),
    *("rlnOriginX", "rlnOriginY", "rlnAnglePsi", "rlnClassNumber"),
)


def old_star(count: int = COUNT, voltage: str = "300") -> str:
    """A RELION 1.x or 3.0 star: one block, constants in every row, pixel size 1.5 A."""
    header = "".join(f"_{label} \n" for label in OLD_LABELS)
    rows = [
        f"{voltage} 10000 9000 45 2.7 6 40000 0.1 {i + 1}@stack.mrcs {i} -{i} {10 * i} {i + 1}\n"
        for i in range(count)
    ]
    return "data_images\n\nloop_\n" + header + "".join(rows)


def cs_array(count: int = COUNT, **more: np.ndarray) -> np.ndarray:
    """A .cs of particles with the slots blob, ctf, location and alignments2D."""
    rng = np.random.default_rng(3)
    fields: dict[str, np.ndarray] = {
        "uid": rng.integers(1, 2**63, count, np.uint64) * np.uint64(2),
        "blob/path": np.full(count, b">J1/imported/stack.mrcs"),
        "blob/idx": np.arange(count, dtype="<u4"),
        "blob/shape": np.full((count, 2), 16, "<u4"),
        "blob/psize_A": np.full(count, 1.5, "<f4"),
        "blob/sign": np.full(count, -1, "<f4"),
        "blob/import_sig": rng.integers(0, 2**63, count, np.uint64),
        "ctf/type": np.full(count, b"spline"),
        "ctf/exp_group_id": np.full(count, 3, "<u4"),
        "ctf/accel_kv": np.full(count, 300, "<f4"),
        "ctf/cs_mm": np.full(count, 2.7, "<f4"),
        "ctf/amp_contrast": np.full(count, 0.1, "<f4"),
        "ctf/df1_A": rng.uniform(1e4, 2e4, count).astype("<f4"),
        "ctf/df2_A": rng.uniform(1e4, 2e4, count).astype("<f4"),
        "ctf/df_angle_rad": rng.uniform(-3, 3, count).astype("<f4"),
        "ctf/phase_shift_rad": rng.uniform(0, 3, count).astype("<f4"),
        "ctf/anisomag": rng.normal(size=(count, 4)).astype("<f4"),
        "location/micrograph_path": np.array([b"J2/m a.mrc", b">J2/b.mrc"])[np.arange(count) % 2],
        "location/micrograph_shape": np.full((count, 2), (3000, 4000), "<u4"),
        "location/center_x_frac": rng.uniform(0, 1, count).astype("<f4"),
        "location/center_y_frac": rng.uniform(0, 1, count).astype("<f4"),
        "location/micrograph_psize_A": np.full(count, 0.75, "<f4"),
        "alignments2D/split": np.arange(count, dtype="<u4") % 2,
        "alignments2D/shift": rng.normal(size=(count, 2)).astype("<f4"),
        "alignments2D/pose": rng.uniform(0, 6.28, count).astype("<f4"),
        "alignments2D/psize_A": np.full(count, 3, "<f4"),
        "alignments2D/class": rng.integers(0, 50, count).astype("<u4"),
        "alignments2D/class_posterior": rng.uniform(0, 1, count).astype("<f4"),
        "alignments3D/pose": rng.normal(size=(count, 3)).astype("<f4"),
        "pick_stats/odd text": np.array([b"", b"a \"b\" 'c' %41", b"\xff_"])[np.arange(count) % 3],
    }
    return build(fields | more, count)


def write_cs_file(path: Path, array: np.ndarray) -> Path:
    with path.open("wb") as file:
        write_array(file, array)
    return path


def star_texts(table: ParticleTable) -> dict[str, list[bytes]]:
    assert isinstance(table.columns, StarColumns)
    rows = table.columns.rows
    return {k: v.tolist() for k, v in rows.columns(rows.labels).items()}
