"""Stacks that are cut, too long, of odd headers or boxes: what is refused, excluded and told of."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from child import run_child

from cryo2d.data.reader import iterate
from cryo2d.errors import InputError
from cryo2d.io.mrc import read_header, read_images, write_stack
from cryo2d.io.particles import read_particles

BOX = 16
IMAGE = 4 * BOX * BOX


def head(path: Path, **words: int) -> None:
    """Change words of a header: nx, ny, nz, ispg, mz, extended."""
    place = {"nx": 0, "ny": 1, "nz": 2, "mode": 3, "mz": 9, "ispg": 22, "extended": 23}
    data = bytearray(path.read_bytes())
    for name, value in words.items():
        data[4 * place[name] : 4 * place[name] + 4] = value.to_bytes(4, "little", signed=True)
    path.write_bytes(data)


@pytest.fixture
def stack(folder: Path) -> Path:
    return folder / "stack.mrcs"


@pytest.mark.parametrize("cut", [1, IMAGE // 2, IMAGE, 3 * IMAGE + 5, 5 * IMAGE])
def test_only_the_particles_past_the_cut_are_lost(
    stack: Path, star_path: Path, images: np.ndarray, cut: int, caplog
) -> None:
    stack.write_bytes(stack.read_bytes()[:-cut])
    held = (6 * IMAGE - cut) // IMAGE
    table, excluded = read_particles(star_path)
    assert [len(table), len(excluded.table)] == [held, 6 - held]
    assert f"image {held + 1} lies beyond the end of {stack}" in excluded.reasons[0]
    assert f"{6 - held} of 6 particles cannot be used and are left out" in caplog.text
    assert excluded.table.source_row.tolist()[-1] == star_path.read_text().count("\n")
    read = list(iterate(table))
    assert sum(len(chunk.bad) for chunk in read) == 0
    for chunk in read:
        np.testing.assert_array_equal(chunk.images, images[chunk.rows])


def test_a_run_that_would_lose_too_many_is_refused_and_told_why(
    stack: Path, star_path: Path
) -> None:
    stack.write_bytes(stack.read_bytes()[: -2 * IMAGE - 1])
    with pytest.raises(InputError) as error:
        read_particles(star_path, max_bad_fraction=0.1)
    few, cut = map(str, error.value.problems)
    assert "3 of 6 particles that cannot be used" in few
    assert "data.max_bad_fraction=1" in few
    whole = 1024 + 6 * IMAGE
    assert f"found {whole - 2 * IMAGE - 1} bytes, 3 of 6 images; expected {whole} bytes" in cut
    table, excluded = read_particles(star_path, max_bad_fraction=0.5)
    assert len(table) == len(excluded.table) == 3


@pytest.mark.parametrize("size", [0, 1000, 1024, 1024 + IMAGE - 1])
def test_a_stack_without_a_whole_image_is_refused(stack: Path, star_path: Path, size: int) -> None:
    stack.write_bytes(stack.read_bytes()[:size])
    with pytest.raises(InputError, match=rf"{size} bytes"):
        read_particles(star_path)


def test_a_header_of_fewer_images_than_the_file_has(stack: Path, star_path: Path, caplog) -> None:
    head(stack, nz=4)
    table, excluded = read_particles(star_path)
    assert [len(table), len(excluded.table)] == [4, 2]
    assert f"{2 * IMAGE} bytes" in caplog.text


@pytest.mark.parametrize("more", [1, 8192])
def test_bytes_after_the_last_image_are_told_of(
    stack: Path, star_path: Path, images: np.ndarray, caplog, more: int
) -> None:
    stack.write_bytes(stack.read_bytes() + bytes(more))
    assert len(read_particles(star_path)[0]) == 6
    assert f"go on after their last image, which is ignored: 1, as {stack}" in caplog.text
    assert f"({more} bytes)" in caplog.text
    np.testing.assert_array_equal(read_images(stack), images)


def test_odd_stamps_and_bytes_are_told_of_once(
    folder: Path, star_text: Callable[..., str], caplog
) -> None:
    rows = star_text().splitlines(keepends=True)
    for i in range(3):
        name = folder / f"{i}.mrcs"
        write_stack(name, np.ones((6, BOX, BOX)) * np.arange(BOX), 1.5)
        data = bytearray(name.read_bytes()[: 1024 + 6 * BOX * BOX])
        data[208:216] = bytes(8)
        data[152:160] = (1146047817).to_bytes(4, "little") + bytes(4)
        name.write_bytes(data)
        head(name, mode=0)
    names = [row.replace("@stack", f"@{i % 3}") for i, row in enumerate(rows)]
    (folder / "a.star").write_text("".join(names))
    with caplog.at_level(logging.WARNING):
        table, _ = read_particles(folder / "a.star")
        list(iterate(table))
    assert caplog.text.count("lack the MAP stamp") == 1
    assert "stacks that hold bytes (MRC mode 0), taken as -128 to 127" in caplog.text
    assert "data.int8_signed=false: 3, as" in caplog.text
    assert "says that it has 0 to 255" in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        {"ispg": 0},
        {"ispg": 1},
        {"ispg": 401},
        {"mz": 1},
        {"ispg": 1, "mz": 6},
    ],
)
@pytest.mark.parametrize("suffix", [".mrc", ".mrcs"])
def test_every_kind_of_header_is_a_stack(
    stack: Path, images: np.ndarray, words: dict[str, int], suffix: str
) -> None:
    head(stack, **words)
    np.testing.assert_array_equal(read_images(stack.rename(stack.with_suffix(suffix))), images)


def test_a_single_image_is_a_stack_of_one(stack: Path, images: np.ndarray) -> None:
    write_stack(stack, images[0], 1.5)
    table, _ = read_particles(stack, require_ctf=False)
    (chunk,) = iterate(table)
    np.testing.assert_array_equal(chunk.images, images[:1])


@pytest.mark.parametrize("pages", [1, 2, 7])
def test_files_of_whole_pages(tmp_path: Path, pages: int) -> None:
    path = tmp_path / "a.mrcs"
    images = np.random.default_rng(pages).normal(size=(pages, 32, 32)).astype(np.float32)
    write_stack(path, images, 1.0)
    data = path.read_bytes()
    path.write_bytes(data[:1024] + bytes(3072) + data[1024:])
    head(path, extended=3072)
    assert path.stat().st_size == 4096 * (pages + 1)
    np.testing.assert_array_equal(read_images(path), images)


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        (2, None),
        (46, None),
        (194, None),
        (4096, None),
        (3, "an even box size"),
        (97, "an even box size"),
        ((16, 12), "square images"),
        ((8194, 8194), "at most 8192 pixels"),
    ],
)
def test_boxes(tmp_path: Path, box: int | tuple[int, int], problem: str | None) -> None:
    path = tmp_path / "a.mrcs"
    nx, ny = box if isinstance(box, tuple) else (box, box)
    write_stack(path, np.zeros((1, 2, 2), np.float32), 1.0)
    head(path, nx=nx, ny=ny)
    with path.open("r+b") as file:
        file.truncate(1024 + 4 * nx * ny)
    if problem is None:
        table, _ = read_particles(path, require_ctf=False)
        assert table.box.tolist() == [nx]
    else:
        with pytest.raises(InputError, match=problem) as error:
            read_particles(path, require_ctf=False)
        assert str(path) in str(error.value)


# Runs in a process that may take 200 MB more than it has after the imports.
HEADERS = """
import time
from pathlib import Path
from child import little_memory
from cryo2d.errors import InputError
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import read_particles
import numpy as np, struct
path = Path("a.mrcs")
write_stack(path, np.ones((5, 8, 8)) * np.arange(8), 1.0)
good = path.read_bytes()
BIG = 2**31 - 1
cases = [
    {0: BIG, 1: BIG, 2: BIG}, {2: 0}, {2: -1}, {2: -BIG}, {23: -1}, {23: -BIG}, {23: BIG},
    {0: -8, 1: -8}, {0: 0}, {2: BIG}, {2: BIG, 3: 0}, {0: 2, 1: 2, 2: BIG, 3: 0}, {0: BIG, 1: 2},
]
try:
    read_particles(path, require_ctf=False)
    with little_memory(200 << 20):
        for words in cases:
            head = bytearray(good)
            for place, value in words.items():
                head[4 * place : 4 * place + 4] = struct.pack("<i", value)
            path.write_bytes(head)
            start = time.process_time()
            try:
                read_particles(path, require_ctf=False)
                raise SystemExit(f"{words} was read")
            except InputError as error:
                assert "negative count" not in str(error), words
                assert str(path) in str(error), words
            assert time.process_time() - start < 1, words
finally:
    path.unlink()
"""


def test_impossible_headers_are_refused_in_little_memory_and_time(tmp_path: Path) -> None:
    run_child(HEADERS, tmp_path)


BOMBS = """
import bz2, gzip, io, struct
from pathlib import Path
import numpy as np
from child import little_memory
from cryo2d.data.reader import iterate
from cryo2d.errors import InputError
from cryo2d.io.mrc import stack_header
from cryo2d.io.particles import read_particles

def header(nz):
    head = bytearray(stack_header(np.ones((1, 256, 256)), 1.0, 2))
    head[8:12] = struct.pack("<i", nz)
    return bytes(head)

def packed(kind, nz, images):
    # a gigabyte of zeros would take long to pack: members that follow each other are one file
    zeros = kind.compress(bytes(64 << 20))
    return kind.compress(header(nz)) + zeros * (images * 262144 // (64 << 20))

cases = {
    "claimed.mrcs.gz": (packed(gzip, 4096, 4096), 0),
    "claimed.mrcs.bz2": (packed(bz2, 4096, 4096), 0),
    "more.mrcs.gz": (packed(gzip, 4, 4096), 4),
    "less.mrcs.gz": (gzip.compress(header(20) + bytes(3 * 262144)), 20),
}
for name in cases:
    Path(name).write_bytes(cases[name][0])
with little_memory(300 << 20):
    for name, (_, expected) in cases.items():
        try:
            table, excluded = read_particles(name, require_ctf=False)
        except InputError as error:
            assert expected == 0, (name, error)
            assert "unpack it" in str(error), error
            continue
        chunks = list(iterate(table, threads=1))
        assert sum(len(c.rows) + len(c.bad) for c in chunks) == expected, name
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_compressed_bombs_cost_no_more_than_their_header_says(tmp_path: Path) -> None:
    run_child(BOMBS, tmp_path)


def test_a_bare_stack_that_lost_most_of_its_images_is_refused(stack: Path) -> None:
    head(stack, nz=100)
    with pytest.raises(InputError, match="6 of 100 images"):
        read_particles(stack, require_ctf=False)
    head(stack, nz=8)
    table, excluded = read_particles(stack, require_ctf=False)
    assert [len(table), len(excluded.table)] == [6, 2]
    assert read_header(stack).nz == 8
