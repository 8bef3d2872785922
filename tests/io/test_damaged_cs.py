"""cryoSPARC files that are cut, odd or hostile, each with a message of its own."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from child import run_child
from cryosparc.dataset import CSDAT_FORMAT, Dataset
from particle_files import COUNT, cs_array, write_cs_file

from cryo2d.data.reader import iterate
from cryo2d.errors import InputError
from cryo2d.io.cs import build, read_array
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import read_particles, write_particles


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_array(path)
    assert str(path) in str(error.value)
    return str(error.value)


def numpy_file(header: bytes, body: bytes = b"") -> bytes:
    """A file of numpy's second version with any header."""
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + body


def described(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return text.encode()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (described("[('a', '|O')]", "(1,)"), "Python objects"),
        (described("'|O'", "(1,)"), "Python objects"),
        (described("[('a', '<f4')]", "(-3,)"), "0 of -3 rows"),
        (described("[('a', '<f4')]", "(10**9,)"), "damaged header"),
        (described("[('a', '<f4')]", "(99999999999,)"), "0 of 99999999999 rows"),
        (described("[('a', '|V2147483647')]", "(4,)"), "0 of 4 rows"),
        (described("[('a', '|S0')]", "(4,)"), "a plain array"),
        (described("[('a', '<f4'), ('a', '<f4')]", "(0,)"), "damaged header"),
        (described("[('\\ud800', '<f4')]", "(0,)"), "printable ASCII"),
        (described("[('\\u03b1', '<f4')]", "(0,)"), "printable ASCII"),
        (b"__import__('os').system('touch canary')", "damaged header"),
        (b"(" * 5000, "damaged header"),
        (b"[" * 100_000, "damaged header"),
        (b"-" * 100_000 + b"1", "damaged header"),
        (b"{'descr': " + b"\xff" * 50, "damaged header"),
    ],
)
def test_headers_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(tmp_path / "a.cs", numpy_file(header))
    assert not (tmp_path / "canary").exists()


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Canary(str(canary)))
    assert "a Python pickle" in refused(tmp_path / "a.cs", bomb)
    array = np.array([(Canary(str(canary)),)], dtype=[("uid", "O")])
    np.save(tmp_path / "b.npy", array, allow_pickle=True)
    assert "Python objects" in refused(tmp_path / "a.cs", (tmp_path / "b.npy").read_bytes())
    assert not canary.exists()


HEADER = """
import time
from pathlib import Path
from child import little_memory
from cryo2d.errors import InputError
from cryo2d.io.cs import read_array
path = Path("a.cs")
with path.open("wb") as file:
    file.write(b"\\x93NUMPY\\x02\\x00" + (1 << 30).to_bytes(4, "little"))
    file.truncate(1 << 30)
with little_memory(200 << 20):
    start = time.process_time()
    try:
        read_array(path)
    except InputError as error:
        assert "1073741824 bytes of header" in str(error), error
    else:
        raise SystemExit("read")
    assert time.process_time() - start < 1
"""


def test_a_huge_header_is_not_even_read(tmp_path: Path) -> None:
    run_child(HEADER, tmp_path)


def test_401_columns_and_more(tmp_path: Path) -> None:
    for count in (401, 3000):
        fields = {f"alignments_class_{i}/class_posterior": np.zeros(1, "<f4") for i in range(count)}
        path = write_cs_file(tmp_path / "a.cs", build(fields, 1))
        assert len(read_array(path).dtype.names) == count


def stream(path: Path) -> bytes:
    """A file of the compressed kind."""
    array = cs_array()
    array["pick_stats/odd text"] = [b"", b"one", b"another", b"one", b"", b"x"]
    Dataset(array).save(str(path), format=CSDAT_FORMAT)
    return path.read_bytes()


def with_header(data: bytes, **changes: object) -> bytes:
    """The stream with other entries in its header."""
    length = int.from_bytes(data[6:10], "little")
    header = json.dumps(json.loads(data[10 : 10 + length]) | changes).encode()
    return data[:6] + len(header).to_bytes(4, "little") + header + data[10 + length :]


def test_streams_are_what_cryosparc_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.cs"
    stream(path)
    expected, got = Dataset.load(str(path)), read_array(path)
    assert sorted(got.dtype.names) == sorted(expected.fields())
    for name in got.dtype.names:
        texts = got[name].astype(str) if got[name].dtype.kind == "S" else got[name]
        np.testing.assert_array_equal(texts, expected[name])


def test_damaged_streams_say_how(tmp_path: Path) -> None:
    path = tmp_path / "a.cs"
    data = stream(path)
    kinds = [["uid", "<u8"]]
    cases = {
        data[:8]: "an end",
        data[:400]: "an end",
        data[: len(data) // 2]: "early",
        with_header(data, length=-1): "a header without rows",
        with_header(data, length="6"): "a header without rows",
        with_header(data, length=7): "48 of 56 bytes in field uid",
        with_header(data, length=10**12): "of 8000000000000 bytes in field uid",
        with_header(data, dtype=[["uid", "|O"], *kinds]): "a field twice",
        with_header(data, dtype=[["x", "V9"]]): "field 'x' of type 'V9'",
        with_header(data, dtype=[["x", "<f4", [-1]]]): "field 'x'",
        with_header(data, dtype=[["x", "<f4", [10**9] * 3]]): "bytes",
        with_header(data, dtype=[]): "a header without rows",
        with_header(data, dtype=[["uid", "|O"]], compressed_fields=[]): "beyond the end",
        data[:6] + b"\xff\xff\xff\x7f" + data[10:]: "an end",
        data[:10] + b"[" * 200 + data[210:]: "a damaged header",
    }
    for damaged, said in cases.items():
        assert said in refused(path, damaged), said


def test_fields_of_images_that_are_missing_are_named(cs_path: Path) -> None:
    array = cs_array()
    for left_out in ("blob/path", "blob/idx"):
        names = [name for name in array.dtype.names if name != left_out]
        write_cs_file(cs_path, array[names])
        with pytest.raises(InputError, match=f"no fields {left_out}"):
            read_particles(cs_path)


@pytest.mark.parametrize("width", [22, 64, 256])
@pytest.mark.parametrize("mark", [b"", b">"])
def test_paths_of_any_width_with_and_without_a_mark(cs_path: Path, width: int, mark: bytes) -> None:
    paths = np.full(COUNT, mark + b"J1/imported/stack.mrcs"[: width - len(mark)], f"S{width}")
    if mark and width == 22:
        return
    write_cs_file(cs_path, cs_array(**{"blob/path": paths}))
    table, _ = read_particles(cs_path)
    assert table.stacks == (str(cs_path.parents[1] / "J1" / "imported" / "stack.mrcs"),)


def test_a_sign_is_applied_and_told_of(
    folder: Path, images: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    sign = np.array([1, -1, 1, -1, -1, 1], "<f4")
    more = {"blob/path": np.full(COUNT, b"stack.mrcs"), "blob/sign": sign}
    path = write_cs_file(folder / "a.cs", cs_array(**more))
    with caplog.at_level(logging.INFO):
        table, _ = read_particles(path)
    assert "3 particles have blob/sign -1" in caplog.text
    (chunk,) = iterate(table)
    np.testing.assert_array_equal(chunk.images, images[chunk.rows] * sign[chunk.rows, None, None])


def test_text_that_no_star_can_hold_is_written_all_the_same(folder: Path) -> None:
    odd = np.array([b"a' b\" c", b"a\0b", b"x\n_y 1", b"'\"", b"data_x", b"\x7f\xff"])
    more = {"blob/path": np.full(COUNT, b"stack.mrcs"), "star/rlnOdd": odd}
    path = write_cs_file(folder / "a.cs", cs_array(**more))
    write_stack(folder / "stack.mrcs", np.ones((COUNT, 16, 16)) * np.arange(16), 1.5)
    write_particles(folder / "b.star", read_particles(path)[0])
    assert len(read_particles(folder / "b.star")[0]) == COUNT
