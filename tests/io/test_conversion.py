"""From one particle format to the other and back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset
from particle_files import COUNT, old_star, star_texts, write_cs_file

from cryo2d.io.columns import StarColumns
from cryo2d.io.mrc import read_images, write_stack
from cryo2d.io.particles import AlignmentColumns, read_particles, write_particles


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


def test_a_cs_made_from_a_star_knows_its_picks_without_the_micrographs(star_path: Path) -> None:
    table, _ = read_particles(star_path)
    cs = star_path.with_suffix(".cs")
    write_particles(cs, table)
    place, again = table.locations, read_particles(cs)[0].locations
    assert place is not None
    assert again is not None
    for name in ("micrograph", "x", "y", "pixel_size"):
        assert getattr(again, name).tolist() == getattr(place, name).tolist(), name
