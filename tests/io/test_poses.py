"""Poses that come with the particles: psi, shift and class out of every dialect."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset

from cryo2d.errors import InputError
from cryo2d.io.cs import build, write_array
from cryo2d.io.particles import (
    AlignmentColumns,
    ParticleTable,
    pose_problems,
    read_particles,
    write_particles,
)

PIXEL_SIZE = 1.5
PSI = np.array([0.0, 30.5, -170.25, 359.0, 90.0, 12.125])
SHIFT = np.array([[0, 0], [1.5, -3], [-4.5, 0.75], [3, 3], [0.25, 0], [0, -0.5]])


def with_columns(text: str, columns: dict[str, np.ndarray]) -> str:
    """A star with more columns of numbers at the end of its rows."""
    head, rows = text.split("_rlnGroupName #11\n")
    labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(columns, start=12))
    more = zip(*columns.values(), strict=True)
    lines = [
        " ".join([row, *(f"{value:g}" for value in values)])
        for row, values in zip(rows.splitlines(), more, strict=True)
    ]
    return f"{head}_rlnGroupName #11\n{labels}" + "\n".join(lines) + "\n"


def read(folder: Path, text: str) -> ParticleTable:
    path = folder / "poses.star"
    path.write_text(text)
    return read_particles(path)[0]


def same_poses(table: ParticleTable, rows: np.ndarray | None = None) -> None:
    rows = np.arange(len(PSI)) if rows is None else rows
    poses = table.poses
    assert poses is not None
    turns = (np.degrees(poses.psi) - PSI[rows]) / 360
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-6)
    np.testing.assert_allclose(poses.shift, SHIFT[rows], atol=1e-5)


@pytest.mark.parametrize("unit", ["Angst", ""])
def test_poses_of_a_star_in_angstrom_and_in_pixels(
    folder: Path, star_text: Callable[..., str], unit: str
) -> None:
    scale = 1 if unit else PIXEL_SIZE
    columns = {
        "rlnAnglePsi": PSI,
        f"rlnOriginX{unit}": SHIFT[:, 0] / scale,
        f"rlnOriginY{unit}": SHIFT[:, 1] / scale,
    }
    table = read(folder, with_columns(star_text(), columns))
    same_poses(table)
    assert table.poses is not None
    assert table.poses.class_index is None
    rows = np.array([4, 1])
    same_poses(table.take(rows), rows)
    assert pose_problems(table) == []
    for name in ("again.star", "again.cs"):
        write_particles(folder / name, table)
        same_poses(read_particles(folder / name)[0])


def test_poses_of_a_cs(folder: Path, star_text: Callable[..., str]) -> None:
    plain, out = folder / "plain.cs", folder / "poses.cs"
    write_particles(plain, read(folder, star_text()))
    assert read_particles(plain)[0].poses is None
    array = np.load(plain)
    fields = {name: array[name] for name in array.dtype.names}
    fields["alignments2D/pose"] = np.radians(PSI).astype("<f4")
    # shifts count in pixels of another image than the one at hand
    fields["alignments2D/shift"] = (SHIFT / 3).astype("<f4")
    fields["alignments2D/psize_A"] = np.full(len(PSI), 3, "<f4")
    classes = np.array([3, 0, 1, 1, 2, 0], "<u4")
    for more in ({}, {"alignments2D/class": classes}):
        with out.open("wb") as file:
            write_array(file, build(fields | more, len(PSI)))
        table = read_particles(out)[0]
        same_poses(table)
        assert table.poses is not None
        found = table.poses.class_index
        assert found is None if not more else found.tolist() == classes.tolist()
        for name in ("again.star", "again.cs"):
            write_particles(folder / name, table)
            same_poses(read_particles(folder / name)[0])


def test_without_poses(folder: Path, star_text: Callable[..., str]) -> None:
    for text in (star_text(), with_columns(star_text(), {"rlnAnglePsi": PSI})):
        table = read(folder, text)
        assert table.poses is None
        (problem,) = pose_problems(table)
        assert "no poses" in str(problem)
        assert "rlnAnglePsi" in problem.expected
        assert "model.align=true" in problem.action


def test_a_pose_that_is_no_number_is_named(folder: Path, star_text: Callable[..., str]) -> None:
    columns = {"rlnAnglePsi": PSI, "rlnOriginXAngst": SHIFT[:, 0], "rlnOriginYAngst": SHIFT[:, 1]}
    table = read(folder, with_columns(star_text(), columns))
    assert table.alignment is not None
    psi, shift = PSI.copy(), SHIFT.copy()
    psi[2], shift[3:5, 1] = np.nan, np.inf
    broken = replace(table, alignment=replace(table.alignment, psi=psi, shift=shift))
    report = InputError(pose_problems(broken)).report()
    assert "2 problems" in report
    assert f"line {table.source_row[2]}: found nan in the rotation" in report
    assert f"line {table.source_row[3]}: found inf in the y shift (and 1 more" in report
    text = with_columns(star_text(), columns | {"rlnAnglePsi": psi})
    (problem,) = pose_problems(read(folder, text))
    assert problem.row == table.source_row[2]


def test_poses_in_star_are_degrees_and_angstrom(star_path: Path, found: AlignmentColumns) -> None:
    table, _ = read_particles(star_path)
    out = star_path.parent / "out.star"
    write_particles(out, table.with_alignment(found), averages="class_averages.mrcs")
    blocks = starfile.read(out)
    rows = blocks["particles"]
    np.testing.assert_allclose(rows["rlnAnglePsi"], [0, 30, -30, 200, 359.5, 90], atol=1e-6)
    np.testing.assert_allclose(rows["rlnOriginXAngst"], [0, 1.5, -4.5, 3, 0.15, 0], atol=1e-6)
    np.testing.assert_allclose(rows["rlnOriginYAngst"], [0, -3, 0.75, 3, 0, -0.3], atol=1e-6)
    assert rows["rlnClassNumber"].tolist() == [1, 4, 2, 2, 3, 8]
    assert rows["rlnRandomSubset"].tolist() == [1, 2, 1, 2, 2, 1]
    np.testing.assert_allclose(
        rows["rlnMaxValueProbDistribution"], found.class_posterior, atol=1e-6
    )
    for label, name in {"ClassEss": "class_ess", "AlphaMin": "alpha_min"}.items():
        np.testing.assert_allclose(rows["cryo2d" + label], getattr(found, name), atol=1e-6)
    assert blocks["cryo2d"]["cryo2dClassAverages"].item() == "class_averages.mrcs"


def test_poses_in_cs_are_radian_and_pixels(star_path: Path, found: AlignmentColumns) -> None:
    table, _ = read_particles(star_path)
    out = star_path.parent / "out.cs"
    write_particles(out, table.with_alignment(found))
    data = Dataset.load(str(out))
    np.testing.assert_allclose(
        data["alignments2D/pose"], np.radians([0, 30, 330, 200, 359.5, 90]), rtol=1e-6
    )
    assert found.shift is not None
    np.testing.assert_allclose(data["alignments2D/shift"], found.shift / 1.5, rtol=1e-6)
    np.testing.assert_allclose(data["alignments2D/psize_A"], 1.5)
    assert data["alignments2D/class"].tolist() == [0, 3, 1, 1, 2, 7]
    assert data["alignments2D/split"].tolist() == [0, 1, 0, 1, 1, 0]
    kinds = {"class": "<u4", "split": "<u4", "pose": "<f4", "class_ess": "<f4", "error": "<f4"}
    for name, kind in kinds.items():
        assert data["alignments2D/" + name].dtype == kind


@pytest.mark.parametrize("suffix", [".star", ".cs"])
def test_written_poses_read_back(star_path: Path, found: AlignmentColumns, suffix: str) -> None:
    table, _ = read_particles(star_path)
    out = star_path.with_name("out" + suffix)
    write_particles(out, table.with_alignment(found))
    again = read_particles(out)[0].alignment
    assert again is not None
    for name, values in vars(found).items():
        got = getattr(again, name)
        if name == "psi":
            turn = 2 * np.pi
            got, values = got % turn, values % turn
        np.testing.assert_allclose(got, values, atol=1e-6, err_msg=name)
