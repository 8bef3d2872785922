"""Star files that are cut, odd or hostile, read as a run reads them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from child import run_child
from hypothesis import given, settings
from hypothesis import strategies as st
from particle_files import cs_array, write_cs_file

from cryo2d.errors import InputError
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import read_particles, write_particles
from cryo2d.io.stacks import find_stacks
from cryo2d.io.star import read_text


def refused(path: Path, text: str | bytes) -> str:
    """The report of a star of this text, which is refused."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as error:
        read_particles(path)
    assert str(path) in str(error.value)
    return str(error.value)


def line_of(text: str, word: str) -> int:
    return next(i for i, line in enumerate(text.split("\n"), 1) if word in line)


def test_a_star_cut_between_two_rows_is_told_of(star_path: Path, caplog) -> None:
    whole = star_path.with_name("whole.star")
    write_particles(whole, read_particles(star_path)[0])
    caplog.clear()
    read_particles(whole)
    assert "rows may be missing" not in caplog.text
    text = whole.read_text()
    ends = [match.end() for match in re.finditer(r"@stack\.mrcs[^\n]*\n", text)]
    for rows, end in enumerate(ends, 1):
        caplog.clear()
        whole.write_text(text[:end])
        assert len(read_particles(whole)[0]) == rows
        assert "rows may be missing" in caplog.text
        # and inside the row it is refused
        caplog.clear()
        assert "ends inside its last row" in refused(whole, text[: end - 3])
        assert not caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("_rlnDefocusV #7", "_rlnDefocusU #7"), "column rlnDefocusU twice"),
        (lambda t: t + "\ndata_optics\n\n_x 1\n", "block data_optics again"),
        (lambda t: t[: t.index("100.25")], "no particle rows"),
        (lambda t: "", "an empty file"),
        (lambda t: "\n# a\n", "nothing but comments"),
        (lambda t: t.replace("loop_", "loop_\0"), "binary data"),
        (lambda t: t.replace(" 0012\n", "\n", 1), "10 values; expected 11 columns"),
        (lambda t: t.replace(" 0012\n", " 0012 7\n", 1), "12 values; expected 11 columns"),
        (lambda t: t.replace("101.25", "\n101.25"), "a blank line inside the loop"),
        (lambda t: t.replace("mics/m1", "mics/m 1"), "12 values"),
        (lambda t: t.replace("_rlnGroupName", "_rlnGr\u00fcppe"), "a name in ASCII"),
    ],
)
def test_what_is_wrong_with_the_text_is_named(
    folder: Path, star_text: Callable[..., str], change: Callable[[str], str], said: str
) -> None:
    assert said in refused(folder / "a.star", change(star_text()))


@pytest.mark.parametrize("name", ["000000@", "-1@", "abc@", "", "1.5@", "99999999999999999999@"])
def test_a_malformed_image_name_is_refused_by_its_line(
    folder: Path, star_text: Callable[..., str], name: str
) -> None:
    text = star_text().replace("000003@", name)
    report = refused(folder / "a.star", text)
    assert f"a.star, line {line_of(text, '102.25')}: found image name '{name}stack" in report


def test_long_numbers_of_images_are_read(folder: Path, star_text: Callable[..., str]) -> None:
    path = folder / "a.star"
    path.write_text(star_text().replace("000003@", "00000000003@"))
    assert read_particles(path)[0].image_index.tolist() == list(range(6))


def test_names_beyond_ascii_are_kept(folder: Path, star_text: Callable[..., str]) -> None:
    (folder / "stack.mrcs").rename(folder / "st\u00e4ck.mrcs")
    text = star_text(stack="st\u00e4ck.mrcs").replace("mics/m1", "mics/\u03b1\u03b2")
    (folder / "a.star").write_text(text, encoding="utf-8")
    table, _ = read_particles(folder / "a.star")
    write_particles(folder / "out" / "b.star", table)
    again, _ = read_particles(folder / "out" / "b.star")
    assert again.stacks == table.stacks == (str(folder / "st\u00e4ck.mrcs"),)
    assert again.locations is not None
    assert again.locations.micrograph[1] == "mics/\u03b1\u03b2.mrc"


def test_one_of_ten_thousand_stacks_or_all_are_missing(folder: Path) -> None:
    names = [f"{i}.mrcs" for i in range(10_000)]
    for name in names[1:]:
        os.link(folder / "stack.mrcs", folder / name)
    (problem,) = find_stacks(folder / "a.star", names).problems
    assert problem.found == "1 of 10000 image stacks missing: 0.mrcs"
    (problem,) = find_stacks(folder / "none" / "a.star", [f"x/{n}" for n in names[:900]]).problems
    assert problem.found.startswith("900 of 900 image stacks missing: x/0.mrcs, x/1.mrcs")
    assert problem.found.count(",") == 20
    assert str(folder) in problem.expected


def test_a_link_leads_to_its_stack(folder: Path, star_path: Path, images: np.ndarray) -> None:
    (folder / "far").mkdir()
    (folder / "stack.mrcs").rename(folder / "far" / "stack.mrcs")
    (folder / "stack.mrcs").symlink_to(folder / "far" / "stack.mrcs")
    (folder / "a.star").symlink_to(star_path)
    assert len(read_particles(folder / "a.star")[0]) == 6
    (folder / "far" / "stack.mrcs").unlink()
    assert "1 of 1 image stacks missing" in refused(star_path, star_path.read_bytes())


def test_optics_groups_in_any_order_with_any_numbers(
    folder: Path, star_text: Callable[..., str]
) -> None:
    path = folder / "a.star"
    row = "1 opticsGroup1 0.100000"
    text = star_text().replace("m0.mrc 1 ", "m0.mrc 40 ").replace("m1.mrc 1 ", "m1.mrc 7 ")
    last = next(line for line in text.split("\n") if line.startswith(row))
    many = "\n".join(last.replace(row, f"{i} group{i} 0.{i:02d}") for i in (40, 9, 7))
    path.write_text(text.replace(last, many))
    table, _ = read_particles(path)
    assert table.ctf is not None
    assert table.ctf.amplitude_contrast.tolist() == [0.4, 0.07] * 3
    assert [table.optics_names[g] for g in table.optics[:2]] == ["group40", "group7"]
    report = refused(path, text.replace(last, many).replace("m1.mrc 7 ", "m1.mrc 8 "))
    assert "optics group 8, which the optics block does not define" in report
    assert "one of 40, 9, 7" in report


VALUES = st.sampled_from(
    ["nan", "inf", "-inf", "0", "-1", "1e30", "-1e30", "1e400", "300", "2.7", "0.1", "-", "1,5"]
) | st.floats(width=32).map(str)
CTF = ("10000.5", "9000.25", "-29.5", "0.15", "2.75", "200.5")


def ctf_star() -> str:
    """A star of six particles with these values."""
    labels = ("DefocusU", "DefocusV", "DefocusAngle", "AmplitudeContrast", "SphericalAberration")
    head = "".join(f"_rln{label}\n" for label in (*labels, "Voltage", "PixelSize", "ImageName"))
    rows = [f"{' '.join(CTF)} 1.5 {i}@stack.mrcs\n" for i in range(1, 7)]
    # one particle has values of its own
    rows[2] = rows[2].replace("10000.5", "12345").replace("-29.5", "30")
    return "data_\n\nloop_\n" + head + "".join(rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(CTF), VALUES), max_size=4))
def test_no_ctf_but_a_sound_one_gets_through(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "ctf"
    if not folder.exists():
        write_stack(folder / "stack.mrcs", np.ones((6, 16, 16), np.float32), 1.5)
    text = ctf_star()
    for old, new in changes:
        text = text.replace(old, new)
    (folder / "a.star").write_text(text)
    try:
        table, excluded = read_particles(folder / "a.star")
    except InputError as error:
        said = error.problems
    else:
        said = ()
    if said:
        assert all(problem.expected and problem.action for problem in said)
        return
    assert len(table) + len(excluded.table) == 6
    assert len(excluded.reasons) == len(excluded.table)
    assert table.ctf is not None
    for values in vars(table.ctf).values():
        assert np.isfinite(values).all()


def test_overfocus_is_told_of(folder: Path, star_text: Callable[..., str], caplog) -> None:
    path = folder / "a.star"
    text = re.sub(r" (1000\d\.123456) (900\d\.654321)", r" -\1 -\2", star_text())
    path.write_text(text)
    read_particles(path)
    assert "the defocus of 6 particles is negative" in caplog.text


def test_a_header_of_another_pixel_size_is_told_of(
    folder: Path, star_path: Path, images: np.ndarray, caplog
) -> None:
    write_stack(folder / "stack.mrcs", images, 3.0)
    assert (read_particles(star_path)[0].pixel_size == 1.5).all()
    assert "disagree with the pixel size 1.5 A" in caplog.text


def test_images_named_twice_are_told_of_and_all_kept(
    folder: Path, star_text: Callable[..., str], caplog
) -> None:
    path = folder / "a.star"
    path.write_text(star_text().replace("000003@", "000002@"))
    table, _ = read_particles(path)
    assert len(table) == 6
    assert "names images more than once: 1 rows too many" in caplog.text
    # a .cs wants each particle once
    write_particles(folder / "a.cs", table)
    assert len(read_particles(folder / "a.cs")[0]) == 6


def test_rows_copied_in_a_star_made_from_a_cs_are_particles_of_their_own(cs_path: Path) -> None:
    path = cs_path.with_name("a.star")
    write_particles(path, read_particles(cs_path)[0])
    lines = path.read_text().splitlines(keepends=True)
    row = next(i for i, line in enumerate(lines) if "000002@" in line)
    path.write_text("".join([*lines[: row + 1], *lines[row:]]))
    write_particles(cs_path.with_name("b.cs"), read_particles(path)[0])
    assert len(read_particles(cs_path.with_name("b.cs"))[0]) == 7


@pytest.mark.parametrize(
    "change",
    [
        ("<f4", "|O"),
        ("<f4", "<f4,<f4"),
        ("<f4", "V1000000000"),
        (" 2\n", " 2000000000\n"),
        (" 2\n", " 2x-1\n"),
        ("_csType", "_csKind"),
    ],
)
def test_damaged_types_of_carried_columns_are_refused(
    cs_path: Path, change: tuple[str, str]
) -> None:
    path = cs_path.with_name("a.star")
    write_particles(path, read_particles(cs_path)[0])
    before, types = path.read_text().split("data_cs_fields")
    assert change[0] in types
    assert "data_cs_fields" in refused(path, before + "data_cs_fields" + types.replace(*change))


def test_a_damaged_carried_value_does_not_end_a_run(cs_path: Path, caplog) -> None:
    path = cs_path.with_name("a.star")
    array = cs_array()
    array["ctf/anisomag"][:, 0] = 0.125
    write_cs_file(cs_path, array)
    write_particles(path, read_particles(cs_path)[0])
    path.write_text(path.read_text().replace(" 0.125 ", " zero ", 1))
    write_particles(cs_path.with_name("b.cs"), read_particles(path)[0])
    assert "the values of _cs.ctf/anisomag are left out" in caplog.text
    assert "ctf/anisomag" not in np.load(cs_path.with_name("b.cs")).dtype.names


WIDE = """
from pathlib import Path
from child import little_memory
from cryo2d.errors import InputError
from cryo2d.io.particles import read_particles
head = b"data_\\nloop_\\n_rlnImageName\\n_rlnMicrographName\\n_rlnPixelSize\\n"
short = b"1@stack.mrcs b 1\\n" * 120_000
words = [b"x" * 3_000_000, b"x" * 4000]
with little_memory(500 << 20):
    for word in words:
        for rows in ([short, word], [word, short]):
            parts = [b"1@a " + r + b" 1\\n" if r is word else r for r in rows]
            Path("a.star").write_bytes(head + b"".join(parts))
            try:
                read_particles("a.star", require_ctf=False)
                raise SystemExit("read")
            except InputError as error:
                assert f"a word of {len(word)} bytes" in str(error), error
"""


def test_one_long_word_among_many_short_ones_costs_no_memory(tmp_path: Path) -> None:
    run_child(WIDE, tmp_path)


def test_what_is_no_file_is_no_star(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.star")
    for name in ("pipe.star", ".", "gone.star", "/dev/zero", "/proc/self/mem", "a\0b", "x" * 5000):
        for read in (read_text, read_particles):
            with pytest.raises(InputError):
                read(tmp_path / name)


ODD_NAMES = (
    "../../../etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "pipe.mrcs",
    "x" * 5000,
    "$(touch${IFS}canary)",
    "`touch canary`",
    ";touch canary;",
    "https://example.org/a.mrcs",
    "%s%n{0}",
)


def test_names_in_the_data_open_nothing_but_stacks_and_name_no_output(
    folder: Path, star_text: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "pipe.mrcs")
    outside = folder / "outside"
    for name in ODD_NAMES:
        (folder / "a.star").write_text(star_text(stack=name))
        with pytest.raises(InputError):
            read_particles(folder / "a.star")
    outside.mkdir()
    monkeypatch.chdir(outside)
    text = star_text()
    for name in ODD_NAMES:
        text = text.replace("mics/m1.mrc", name.replace(" ", "_"), 1)
    (folder / "a.star").write_text(text)
    before = {str(p) for p in folder.rglob("*")}
    table, _ = read_particles(folder / "a.star")
    write_particles(folder / "out.star", table)
    write_particles(folder / "out.cs", table)
    new = {str(p) for p in folder.rglob("*")} - before
    assert new == {str(folder / "out.star"), str(folder / "out.cs")}
