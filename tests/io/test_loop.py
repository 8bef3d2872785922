from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryo2d.errors import InputError
from cryo2d.io import loop
from cryo2d.io.loop import StarLoop, factorize, read_loop
from cryo2d.io.star import find_blocks, read_header, read_text

NUMBERS = ("rlnDefocusU", "rlnDefocusAngle", "rlnCoordinateX", "rlnPhaseShift")


def read(text: str | bytes, name: str = "particles") -> StarLoop:
    data = text.encode() if isinstance(text, str) else text
    blocks = {b.name: b for b in find_blocks(data, "f.star")}
    block = blocks[name]
    image = "rlnImageName" if "rlnImageName" in read_header(data, block, "f").labels else None
    return read_loop(
        data, block, "f.star", numbers=NUMBERS, names=["rlnMicrographName"], image=image
    )


def assert_same(a: StarLoop, b: StarLoop) -> None:
    assert a.rows.labels == b.rows.labels
    for label, column in a.rows.columns(a.rows.labels).items():
        assert column.tolist() == b.rows.column(label).tolist()
    for label, numbers in a.numbers.items():
        np.testing.assert_array_equal(numbers, b.numbers[label])
    assert a.names["stack"][1] == b.names["stack"][1]
    np.testing.assert_array_equal(a.image_number, b.image_number)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace(" ", "\t"),
        lambda t: t.replace("mics/", "   mics/"),
        lambda t: "\ufeff" + t,
        lambda t: "\n".join(line.split(" #")[0] for line in t.split("\n")),
        lambda t: t.replace(" #3", " #3 [Some explanation]").replace("0012\n", "0012 # remark\n"),
        lambda t: t.replace("mics/m0.mrc", "'mics/m0.mrc'").replace("loop_", "loop_ "),
        lambda t: t + "\n\n# version 30001\n\n",
        lambda t: t.replace(" 0012\n", " 0012 \n  "),
        lambda t: t.replace("0012\n", "0012\n# a line of its own\n"),
    ],
)
def test_dialects_read_alike(
    star_text: Callable[..., str], tmp_path: Path, change: Callable[[str], str]
) -> None:
    path = tmp_path / "f.star"
    path.write_text(change(star_text()), encoding="utf-8", newline="")
    assert_same(read(star_text()), read(read_text(path)))


def test_small_chunks_read_alike(
    star_text: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = star_text(50)
    whole = read(text)
    monkeypatch.setattr(loop, "CHUNK_BYTES", 200)
    pieces = read(text)
    assert_same(whole, pieces)
    np.testing.assert_array_equal(whole.line, pieces.line)


def test_line_numbers(star_text: Callable[..., str]) -> None:
    text = star_text()
    lines = text.split("\n")
    for line, row in zip(read(text).line, range(6), strict=True):
        assert f"{row + 1:06d}@stack.mrcs" in lines[line - 1]


def test_agrees_with_starfile_and_gemmi(star_text: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "f.star"
    path.write_text(star_text())
    ours = read(star_text())
    frame = starfile.read(path, always_dict=True, parse_as_string=list(ours.rows.labels))
    table = gemmi.cif.read(str(path)).find_block("particles")
    for label in ours.rows.labels:
        texts = [t.decode() for t in ours.rows.column(label)]
        assert texts == frame["particles"][label].tolist()
        assert texts == [gemmi.cif.as_string(v) for v in table.find_loop("_" + label)]
    for label, numbers in ours.numbers.items():
        np.testing.assert_array_equal(numbers, [float(v) for v in ours.rows.column(label)])


def test_numeric_looking_names_stay_text(star_text: Callable[..., str]) -> None:
    names = ("20230100", "1e5", "nan", "0012", "a#b")
    text = star_text(len(names))
    for i, name in enumerate(names):
        text = text.replace(f"{i + 1:06d}@stack.mrcs mics/m{i % 2}.mrc", f"{i + 1}@s.mrcs {name}")
    loop = read(text)
    codes, distinct = loop.names["rlnMicrographName"]
    assert tuple(distinct[c] for c in codes) == names


@pytest.mark.parametrize("change", [(" 0012\n", "\n"), (" 0012\n", " 0012 7\n")])
def test_a_row_of_wrong_length_is_named(
    star_text: Callable[..., str], change: tuple[str, str]
) -> None:
    lines = star_text().split("\n")
    line = next(i for i, text in enumerate(lines) if "000004@" in text)
    lines[line] = (lines[line] + "\n").replace(*change).rstrip("\n")
    with pytest.raises(InputError) as error:
        read("\n".join(lines))
    (problem,) = error.value.problems
    assert problem.row == line + 1
    assert "11 columns" in problem.expected
    assert problem.found in ("10 values", "12 values")


def test_a_blank_line_inside_the_loop_is_refused(star_text: Callable[..., str]) -> None:
    text = star_text()
    at = text.index("103.25")
    with pytest.raises(InputError, match="blank line") as error:
        read(text[:at] + "\n" + text[at:])
    assert error.value.problems[0].row == text[:at].count("\n") + 1


def test_a_word_in_a_number_column_is_named(star_text: Callable[..., str]) -> None:
    text = star_text().replace("10002.123456", "1O002.1").replace("10004.123456", "-")
    with pytest.raises(InputError) as error:
        read(text)
    first, second = error.value.problems
    assert "'1O002.1' in column rlnDefocusU" in first.found
    assert second.row == first.row + 2


def test_nan_is_a_number(star_text: Callable[..., str]) -> None:
    text = star_text().replace("10002.123456", "nan").replace("10003.123456", "-nan")
    np.testing.assert_array_equal(
        np.isnan(read(text).numbers["rlnDefocusU"]), [False, False, True, True, False, False]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("<html><body>404</body></html>", "text that begins with '<html><body>404"),
        ("data_a\nloop_\n_x\n_x\n1 2\n", "column x twice"),
        ("data_a\n_x 1\n\ndata_a\n_x 1\n", "block data_a again"),
        ("data_a\n_x 1 2\n", "2 values for _x"),
        ("data_a\nsome words\n", "neither label nor loop_"),
    ],
)
def test_damaged_headers_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text, "a")


def test_a_block_of_pairs_is_one_row() -> None:
    rows = read("data_a\n\n_x 1\n_y 'two words'\n", "a").rows
    assert {k: v.tolist() for k, v in rows.columns(("x", "y")).items()} == {
        "x": [b"1"],
        "y": [b"two words"],
    }


def test_a_file_cut_anywhere_is_refused_or_a_prefix(star_text: Callable[..., str]) -> None:
    text = star_text(3).encode()
    whole = read(text)
    lines = whole.rows.lines(0, 3)
    first = text.index(b"data_particles")
    for end in range(first + 14, len(text)):
        try:
            part = read(text[:end])
        except InputError:
            continue
        assert part.rows.lines(0, len(part.rows)) == lines[: len(part.rows)]
        assert whole.rows.labels[: len(part.rows.labels)] == part.rows.labels


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("000042@a.mrcs", 42),
        ("1234567@a@b.mrcs", 1234567),
        ("000000@a.mrcs", 0),
        ("-1@a.mrcs", -1),
        ("abc@a.mrcs", -1),
        ("a.mrcs", -1),
        ("@a.mrcs", -1),
        ("7@", -1),
        ("99999999999999999999@a.mrcs", -1),
        ("'3@a b.mrcs'", 3),
    ],
)
def test_image_names(name: str, number: int) -> None:
    got = read(f"data_p\nloop_\n_rlnImageName\n_x\n{name} 1\n5@c 1\n", "p")
    assert got.image_number is not None
    assert got.image_number.tolist() == [number, 5]


def test_factorize() -> None:
    texts = np.array([b"b", b"b", b"a", b"b", b"c"])
    codes, values = factorize(texts)
    assert (values[codes] == texts).all()
    assert values.tolist() == [b"b", b"a", b"c"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"data_", b"a", b"\n", b"loop_", b"_x", b"_rlnDefocusU", b" ", b"1", b"#", b"'", b'"']
        )
        | st.binary(max_size=4),
        max_size=40,
    )
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.star"
    path.write_bytes(b"".join(parts))
    try:
        data = read_text(path)
        for block in find_blocks(data, "fuzz"):
            read_loop(data, block, "fuzz", numbers=NUMBERS)
    except InputError:
        pass
