"""What a particle table holds of files of every dialect."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile
from particle_files import COUNT, OLD_LABELS, cs_array, old_star, star_texts

from cryo2d.errors import InputError
from cryo2d.io.particles import AlignmentColumns, read_particles, write_particles


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
