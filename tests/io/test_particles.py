from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset

from cryo2d.errors import InputError
from cryo2d.io.columns import StarColumns
from cryo2d.io.cs import build, write_array
from cryo2d.io.mrc import read_images, write_stack
from cryo2d.io.particles import (
    AlignmentColumns,
    ParticleTable,
    read_particles,
    write_particles,
)

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
        *("cross_cor", "slice_pow", "alpha", "alpha_min"),
    )
    values = {name: rng.uniform(0, 2, COUNT).astype(np.float32) for name in names}
    return AlignmentColumns(
        class_index=np.array([0, 3, 1, 1, 2, 7]),
        psi=np.radians([0.0, 30, -30, 200, 359.5, 90]),
        shift=np.array([[0, 0], [1.5, -3], [-4.5, 0.75], [3, 3], [0.15, 0], [0, -0.3]]),
        half=np.array([0, 1, 0, 1, 1, 0]),
        **values,
    )


def star_texts(table: ParticleTable) -> dict[str, list[bytes]]:
    assert isinstance(table.columns, StarColumns)
    rows = table.columns.rows
    return {k: v.tolist() for k, v in rows.columns(rows.labels).items()}


def test_relion_31(star_path: Path) -> None:
    table, excluded = read_particles(star_path)
    assert len(table) == COUNT
    assert not len(excluded.table)
    assert table.stacks == (str(star_path.parent / "stack.mrcs"),)
    assert table.stack_names == ("stack.mrcs",)
    assert table.image_index.tolist() == list(range(COUNT))
    assert table.optics_names == ("opticsGroup1",)
    assert table.box.tolist() == [16]
    assert (table.pixel_size == 1.5).all()
    assert table.ctf is not None
    np.testing.assert_allclose(table.ctf.defocus_u, 10000.123456 + np.arange(COUNT))
    np.testing.assert_allclose(np.degrees(table.ctf.defocus_angle), np.arange(-30, -24) - 0.5)
    np.testing.assert_allclose(table.ctf.spherical_aberration, 2.7e7)
    np.testing.assert_allclose(np.degrees(table.ctf.phase_shift), np.arange(COUNT))
    assert table.locations is not None
    assert table.locations.micrograph.tolist() == ["mics/m0.mrc", "mics/m1.mrc"] * 3
    assert table.locations.pixel_size.tolist() == [0.75] * COUNT
    assert table.alignment is None
    assert not table.is_filament


def test_relion_1_and_3_0(folder: Path) -> None:
    path = folder / "old.star"
    path.write_text(old_star())
    table, _ = read_particles(path)
    np.testing.assert_allclose(table.pixel_size, 1.5)
    assert table.alignment is not None
    assert table.alignment.shift is not None
    np.testing.assert_allclose(table.alignment.shift[:, 0], 1.5 * np.arange(COUNT))
    np.testing.assert_allclose(table.alignment.shift[:, 1], -1.5 * np.arange(COUNT))
    assert table.alignment.psi is not None
    np.testing.assert_allclose(np.degrees(table.alignment.psi), 10 * np.arange(COUNT))
    assert table.alignment.class_index is not None
    assert table.alignment.class_index.tolist() == list(range(COUNT))
    assert table.alignment.half is None
    write_particles(folder / "new.star", table)
    blocks = starfile.read(folder / "new.star")
    assert blocks["optics"]["rlnImagePixelSize"].item() == 1.5
    assert blocks["optics"]["rlnVoltage"].item() == 300
    assert blocks["particles"]["rlnOpticsGroup"].tolist() == [1] * COUNT
    assert set(OLD_LABELS) <= set(blocks["particles"])


def test_optics_after_the_particles(folder: Path, star_text: Callable[..., str]) -> None:
    before, after = folder / "a.star", folder / "b.star"
    text = star_text()
    at = text.index("data_particles")
    before.write_text(text)
    after.write_text(text[at:] + text[:at])
    (a, _), (b, _) = read_particles(before), read_particles(after)
    assert star_texts(a) == star_texts(b)
    np.testing.assert_array_equal(a.pixel_size, b.pixel_size)


def test_cryosparc(cs_path: Path) -> None:
    array = cs_array()
    table, _ = read_particles(cs_path)
    assert table.stacks == (str(cs_path.parents[1] / "J1" / "imported" / "stack.mrcs"),)
    assert (table.sign == -1).all()
    assert table.optics_names == ("opticsGroup4",)
    assert table.locations is not None
    x, y = array["location/center_x_frac"], array["location/center_y_frac"]
    np.testing.assert_allclose(table.locations.x, 4000 * x.astype(float))
    np.testing.assert_allclose(table.locations.y, 3000 * (1 - y.astype(float)))
    assert table.locations.micrograph.tolist()[:2] == ["J2/m a.mrc", "J2/b.mrc"]
    assert table.alignment is not None
    assert table.alignment.shift is not None
    np.testing.assert_allclose(table.alignment.shift, 3.0 * array["alignments2D/shift"])
    assert table.alignment.half is not None
    assert table.alignment.half.tolist() == [0, 1] * 3


def test_a_bare_stack(folder: Path) -> None:
    path = folder / "stack.mrcs"
    with pytest.raises(InputError, match="CTF"):
        read_particles(path)
    table, _ = read_particles(path, require_ctf=False)
    assert len(table) == COUNT
    assert table.ctf is None
    assert table.pixel_size[0] == 1.5
    assert read_particles(path, require_ctf=False, pixel_size=2.0)[0].pixel_size[0] == 2.0
    write_particles(folder / "new.star", table)
    again, _ = read_particles(folder / "new.star", require_ctf=False)
    assert again.stacks == table.stacks
    assert again.image_index.tolist() == table.image_index.tolist()


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


def test_locations_are_turned_over_for_cryosparc(
    folder: Path, star_text: Callable[..., str]
) -> None:
    star, out = folder / "a.star", folder / "a.cs"
    star.write_text(star_text())
    write_particles(out, read_particles(star)[0])
    assert "location/center_y_frac" not in np.load(out).dtype.names
    for i in range(2):
        write_stack(folder / "mics" / f"m{i}.mrc", np.zeros((1, 300, 400), np.float32), 0.75)
    table, _ = read_particles(star)
    write_particles(out, table)
    data = Dataset.load(str(out))
    assert table.locations is not None
    np.testing.assert_allclose(data["location/center_x_frac"], table.locations.x / 400, rtol=1e-6)
    np.testing.assert_allclose(
        data["location/center_y_frac"], 1 - table.locations.y / 300, rtol=1e-6
    )
    assert data["location/micrograph_shape"].tolist() == [[300, 400]] * COUNT
    again = read_particles(out)[0].locations
    assert again is not None
    np.testing.assert_allclose(again.y, table.locations.y, rtol=1e-6)


def test_star_to_star_keeps_every_word(star_path: Path, found: AlignmentColumns) -> None:
    text = star_path.read_text() + "data_job\n\n_jobName 'two words'\n\n# the end\n"
    star_path.write_text(text.replace("mics/m1.mrc", "'mics/m 1.mrc'"))
    table, _ = read_particles(star_path)
    out = star_path.with_name("out.star")
    for wanted in (table, table.with_alignment(found)):
        write_particles(out, wanted)
        again, _ = read_particles(out)
        before, after = star_texts(table), star_texts(again)
        assert {label: after[label] for label in before} == before
        assert isinstance(again.columns, StarColumns)
        assert [block.split()[0] for block in again.columns.blocks] == [b"data_job"]
        assert b"_jobName 'two words'" in again.columns.blocks[0]


def test_results_replace_only_results(folder: Path, found: AlignmentColumns) -> None:
    path, out = folder / "old.star", folder / "out.star"
    path.write_text(old_star())
    table, _ = read_particles(path)
    write_particles(out, table.with_alignment(found))
    rows = starfile.read(out)["particles"]
    assert found.shift is not None
    np.testing.assert_allclose(rows["rlnOriginX"], found.shift[:, 0] / 1.5, atol=1e-6)
    np.testing.assert_allclose(rows["rlnOriginXAngst"], found.shift[:, 0], atol=1e-6)
    assert rows["rlnClassNumber"].tolist() == [1, 4, 2, 2, 3, 8]
    assert list(rows.columns).count("rlnAnglePsi") == 1


@pytest.mark.parametrize("aligned", [False, True])
def test_star_to_cs_to_star_loses_nothing(
    star_path: Path, found: AlignmentColumns, aligned: bool
) -> None:
    star_path.write_text(
        star_path.read_text().replace("mics/m1.mrc", "'mics/m 1.mrc'") + "data_job\n\n_a b\n"
    )
    if aligned:
        write_particles(star_path, read_particles(star_path)[0].with_alignment(found))
    table, _ = read_particles(star_path)
    cs, star = star_path.with_suffix(".cs"), star_path.with_name("back.star")
    write_particles(cs, table)
    write_particles(star, read_particles(cs)[0])
    again, _ = read_particles(star)
    before, after = star_texts(table), star_texts(again)
    assert {label: after[label] for label in before} == before
    assert {k for k in after if not k.startswith("cs.")} == set(before)
    assert isinstance(table.columns, StarColumns)
    assert isinstance(again.columns, StarColumns)
    assert b"_a b" in b"".join(again.columns.blocks)
    optics, optics_again = table.columns.optics, again.columns.optics
    assert optics is not None
    assert optics_again is not None
    for label in optics.labels:
        assert optics.column(label).tolist() == optics_again.column(label).tolist()


def test_cs_to_star_to_cs_loses_nothing(cs_path: Path) -> None:
    table, _ = read_particles(cs_path)
    star, cs = cs_path.with_name("a.star"), cs_path.with_name("b.cs")
    write_particles(star, table)
    write_particles(cs, read_particles(star)[0])
    before, after = np.load(cs_path), np.load(cs)
    for name in before.dtype.names:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    rows = starfile.read(star)["particles"]
    np.testing.assert_allclose(rows["rlnDefocusU"], before["ctf/df1_A"])
    np.testing.assert_allclose(rows["rlnDefocusAngle"], np.degrees(before["ctf/df_angle_rad"]))
    np.testing.assert_allclose(rows["rlnAnglePsi"], np.degrees(before["alignments2D/pose"]))
    np.testing.assert_allclose(
        rows["rlnOriginXAngst"], 3 * before["alignments2D/shift"][:, 0], atol=1e-6
    )
    assert rows["rlnMicrographName"].tolist()[:2] == ["J2/m a.mrc", "J2/b.mrc"]
    assert (read_particles(star)[0].sign == -1).all()


def test_new_results_replace_those_carried(cs_path: Path, found: AlignmentColumns) -> None:
    star, cs = cs_path.with_name("a.star"), cs_path.with_name("b.cs")
    write_particles(star, read_particles(cs_path)[0])
    write_particles(cs, read_particles(star)[0].with_alignment(found))
    write_particles(star, read_particles(cs)[0].with_alignment(found))
    for path in (star, cs):
        again = read_particles(path)[0].alignment
        assert again is not None
        assert again.class_index is not None
        assert found.class_index is not None
        assert again.class_index.tolist() == found.class_index.tolist()
        np.testing.assert_allclose(again.shift, found.shift, atol=1e-6)
    edited = np.load(cs)
    edited["alignments2D/class"] += 1
    write_cs_file(cs, edited)
    write_particles(star, read_particles(cs)[0])
    assert starfile.read(star)["particles"]["rlnClassNumber"].tolist() == [2, 5, 3, 3, 4, 9]


def test_values_edited_in_the_other_format_win(star_path: Path) -> None:
    cs = star_path.with_suffix(".cs")
    write_particles(cs, read_particles(star_path)[0])
    edited = np.load(cs)
    edited["ctf/df1_A"] += 500
    write_cs_file(cs, edited)
    out = star_path.with_name("out.star")
    write_particles(out, read_particles(cs)[0])
    rows = starfile.read(out)["particles"]
    np.testing.assert_allclose(rows["rlnDefocusU"], 10500.123456 + np.arange(COUNT), rtol=1e-7)
    np.testing.assert_allclose(rows["rlnDefocusV"], 9000.654321 + np.arange(COUNT), rtol=1e-12)


def test_uids_are_made_once_and_kept(star_path: Path) -> None:
    table, _ = read_particles(star_path)
    twice = table.take(np.array([0, 1, 2, 3, 4, 5, 0, 0]))
    write_particles(star_path.with_name("a.cs"), twice)
    write_particles(star_path.with_name("b.cs"), table)
    a, b = (np.load(star_path.with_name(name))["uid"] for name in ("a.cs", "b.cs"))
    assert len(set(a.tolist())) == 8
    assert a[:COUNT].tolist() == b.tolist()


@pytest.mark.parametrize("suffix", [".star", ".cs"])
def test_outputs_elsewhere_find_their_stacks(
    star_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    table, _ = read_particles(star_path)
    far = tmp_path_factory.mktemp("far") / "run" / ("out" + suffix)
    near = star_path.parent / "outputs" / "run" / ("out" + suffix)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    for out in (far, near):
        write_particles(out, table)
        again, _ = read_particles(out)
        assert again.stacks == table.stacks
        np.testing.assert_array_equal(
            read_images(again.stacks[0], again.image_index), read_images(table.stacks[0])
        )
    assert read_particles(near)[0].stack_names == ("stack.mrcs",)
    assert read_particles(far)[0].stack_names == table.stacks


def test_take_keeps_rows_together(star_path: Path, found: AlignmentColumns) -> None:
    table = read_particles(star_path)[0].with_alignment(found)
    mask = np.array([False, True, False, True, True, False])
    for rows in (mask, np.array([4, 1])):
        part = table.take(rows)
        out = star_path.with_name("part.star")
        write_particles(out, part)
        again, _ = read_particles(out)
        assert again.image_index.tolist() == table.image_index[rows].tolist()
        assert star_texts(again)["rlnCoordinateX"] == [
            f"{100 + i}.250000".encode() for i in part.image_index
        ]
        assert again.alignment is not None
        assert found.class_index is not None
        assert again.alignment.class_index is not None
        assert again.alignment.class_index.tolist() == found.class_index[rows].tolist()


def test_particles_beyond_the_end_or_without_ctf_are_excluded(
    folder: Path, star_text: Callable[..., str]
) -> None:
    path = folder / "a.star"
    path.write_text(star_text(9).replace("10002.123456", "nan"))
    table, excluded = read_particles(path)
    assert table.image_index.tolist() == [0, 1, 3, 4, 5]
    assert excluded.table.image_index.tolist() == [2, 6, 7, 8]
    assert "defocus_u" in excluded.reasons[0]
    assert (
        f"image 7 lies beyond the end of {folder / 'stack.mrcs'}, which has 6"
        in (excluded.reasons[1])
    )
    assert len(read_particles(path, max_particles=2)[0]) == 2
    write_particles(folder / "excluded.star", excluded.table)
    assert len(starfile.read(folder / "excluded.star")["particles"]) == 4
    write_stack(folder / "stack.mrcs", np.ones((1, 16, 16), np.float32), 1.5)
    path.write_text(star_text(3).replace("000001@", "000009@"))
    with pytest.raises(InputError, match="no usable particle"):
        read_particles(path)


def test_all_problems_are_in_one_report(folder: Path, star_text: Callable[..., str]) -> None:
    path = folder / "a.star"
    text = star_text().replace("300.000000 1.5", "3000.0 1.5").replace("000003@", "000000@")
    text = text.replace("5@stack.mrcs", "5@gone.mrcs").replace("-28.5", "-2800.5")
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_particles(path)
    report = str(error.value)
    line = next(i for i, row in enumerate(text.split("\n"), 1) if "000000@" in row)
    assert f"a.star, line {line}: found image name '000000@stack.mrcs'" in report
    assert "3000 in rlnVoltage (and 5 more like it); expected 30 to 1000 kV" in report
    assert "-2800.5 in rlnDefocusAngle" in report
    assert "gone.mrcs" in report
    assert len(error.value.problems) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("_rlnDefocusV #7", "_rlnSomething #7"), "no CTF columns rlnDefocusV"),
        (("_rlnVoltage #5", "_rlnOther #5"), "no CTF columns rlnVoltage"),
        (("_rlnImagePixelSize #6", "_rlnOther #6"), "no pixel size"),
        ((" 300.000000 1.5 16", " 300.000000 0 16"), "found 0 in rlnImagePixelSize"),
        ((" 300.000000 1.5 16", " 300.000000 nan 16"), "found nan in rlnImagePixelSize"),
        (("opticsGroup1 0.100000", "opticsGroup1 7"), "7 in rlnAmplitudeContrast"),
        (("0.100000 2.700000", "0.100000 270"), "270 in rlnSphericalAberration"),
        (("_rlnImageName #3", "_rlnOther #3"), "no column rlnImageName"),
        (("mics/m1.mrc 1 ", "mics/m1.mrc 4 "), "optics group 4, which the optics block does not"),
        ((" 16 2 0.75", " 16 3 0.75"), "rlnImageDimensionality 3"),
        (("000002@", "2e1@"), "image name '2e1@stack.mrcs'"),
    ],
)
def test_what_is_wrong_is_named(
    folder: Path, star_text: Callable[..., str], change: tuple[str, str], message: str
) -> None:
    path = folder / "a.star"
    text = star_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(InputError) as error:
        read_particles(path)
    assert message in str(error.value)


def test_ctf_is_needed_unless_told(folder: Path) -> None:
    path = folder / "a.star"
    path.write_text("data_\nloop_\n_rlnImageName\n_rlnPixelSize\n1@stack.mrcs 1.5\n")
    with pytest.raises(InputError, match="rlnDefocusU, rlnDefocusV, rlnDefocusAngle, rlnVoltage"):
        read_particles(path)
    assert read_particles(path, require_ctf=False)[0].ctf is None


def test_premultiplied_images_are_refused(folder: Path, star_text: Callable[..., str]) -> None:
    path = folder / "a.star"
    text = star_text().replace("_rlnMicrographPixelSize #9", "_rlnCtfDataAreCtfPremultiplied #9")
    path.write_text(text.replace("2 0.75", "2 1"))
    with pytest.raises(InputError, match="rlnCtfDataAreCtfPremultiplied"):
        read_particles(path)
    read_particles(path, require_ctf=False)


def test_groups_of_other_box_or_pixel_size_are_refused(
    folder: Path, star_text: Callable[..., str]
) -> None:
    path = folder / "a.star"
    second = "2 second 0.1 2.7 300 1.6 16 2 0.75\n"
    text = star_text().replace("2 0.75\n", "2 0.75\n" + second).replace("m1.mrc 1 ", "m1.mrc 2 ")
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_particles(path)
    assert "opticsGroup1: 16 px, 1.5 A/px; second: 16 px, 1.6 A/px" in str(error.value)
    path.write_text(text.replace(" 1.6 16", " 1.5 16"))
    table, _ = read_particles(path)
    assert table.optics_names == ("opticsGroup1", "second")
    assert table.optics.tolist() == [0, 1] * 3
    write_stack(folder / "big.mrcs", np.ones((6, 32, 32), np.float32), 1.5)
    path.write_text(text.replace(" 1.6 16", " 1.5 16").replace("2@stack.mrcs", "2@big.mrcs"))
    with pytest.raises(InputError, match="different box"):
        read_particles(path)


def test_metadata_without_stacks(folder: Path, star_text: Callable[..., str]) -> None:
    path = folder / "a.star"
    path.write_text(star_text(stack="gone.mrcs"))
    with pytest.raises(InputError, match=r"1 of 1 image stacks missing: gone\.mrcs"):
        read_particles(path)
    table, _ = read_particles(path, require_stacks=False)
    assert table.stacks == ("gone.mrcs",)
    assert table.box.tolist() == [16]
    write_particles(folder / "sub" / "out.star", table)
    again, _ = read_particles(folder / "sub" / "out.star", require_stacks=False)
    assert star_texts(again) == star_texts(table)


def test_filaments(folder: Path, star_text: Callable[..., str]) -> None:
    path = folder / "a.star"
    path.write_text(star_text().replace("rlnGroupName", "rlnHelicalTubeID"))
    table, _ = read_particles(path)
    assert table.is_filament
    write_particles(folder / "a.cs", table)
    assert read_particles(folder / "a.cs")[0].is_filament


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"blob/idx": np.full(COUNT, b"x")}, "field blob/idx of type"),
        ({"blob/shape": np.full((COUNT, 2), (16, 12), "<u4")}, "blob/shape"),
        ({"ctf/accel_kv": np.full(COUNT, 3e5, "<f4")}, "300000 in ctf/accel_kv"),
        ({"uid": np.zeros(COUNT, "<u8")}, "5 uid repeated"),
    ],
)
def test_what_is_wrong_with_a_cs_is_named(
    cs_path: Path, more: dict[str, np.ndarray], message: str
) -> None:
    write_cs_file(cs_path, cs_array(**more))
    with pytest.raises(InputError) as error:
        read_particles(cs_path)
    assert message in str(error.value)


def test_a_cs_without_images_or_rows(cs_path: Path) -> None:
    array = cs_array()
    fields = [n for n in array.dtype.names if not n.startswith("blob/")]
    other = cs_path.with_name("J5_passthrough_particles.cs")
    write_cs_file(other, array[[n for n in array.dtype.names if n[:4] in ("uid", "blob")]])
    write_cs_file(cs_path, array[fields])
    with pytest.raises(InputError, match="beside it lies J5_passthrough_particles"):
        read_particles(cs_path)
    table, _ = read_particles(cs_path, passthrough=[other])
    assert len(table) == COUNT
    write_cs_file(cs_path, array[:0])
    with pytest.raises(InputError, match="0 rows"):
        read_particles(cs_path)
    with pytest.raises(InputError, match="passthrough files"):
        read_particles(cs_path.parents[1] / "J1" / "imported" / "stack.mrcs", passthrough=[other])


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / "none.star", tmp_path):
        with pytest.raises(InputError):
            read_particles(path)
    with pytest.raises(ValueError, match="ending in"):
        write_particles(tmp_path / "a.txt", _empty())


def _empty() -> ParticleTable:
    none = np.zeros(0, np.int64)
    table = ParticleTable(
        *("none", none, (), (), none, none, (), none, none, none.astype(float), none.astype("f4"))
    )
    return replace(table, alignment=None)
