"""Particle files that are refused, and particles that are set aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from particle_files import COUNT, cs_array, write_cs_file

from cryo2d.errors import InputError
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import ParticleTable, read_particles, write_particles


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
