import bz2
import gzip
import os
import resource
import tracemalloc
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryo2d.errors import EnvironmentFault, InputError
from cryo2d.io.mrc import StackReader, read_header, read_images, write_stack

MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def raw_stack(mode: int, order: str = "<", stamp: bytes | None = None, extended: int = 0) -> bytes:
    """A stack of 5 images of 8 x 8 pixels, made by hand."""
    pixels = np.random.default_rng(mode).integers(0, 100, (5, 8, 8)).astype(order + MODES[mode])
    head = np.zeros(256, order + "i4")
    head[[0, 1, 2, 3, 7, 8, 9]] = 8, 8, 5, mode, 8, 8, 5
    head[23] = extended
    head.view(order + "f4")[10:13] = 16
    text = bytearray(head.tobytes())
    machine = b"DD\0\0" if order == "<" else b"\x11\x11\0\0"
    text[208:216] = b"MAP " + machine if stamp is None else stamp
    return bytes(text) + bytes(extended) + pixels.tobytes()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extended", [0, 160])
def test_modes_and_byte_orders_as_mrcfile(
    tmp_path: Path, mode: int, order: str, extended: int
) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(raw_stack(mode, order, extended=extended))
    with mrcfile.open(path) as oracle:
        np.testing.assert_array_equal(read_images(path), oracle.data.astype(np.float32))
    header = read_header(path)
    assert (header.nx, header.ny, header.nz, header.mode) == (8, 8, 5, mode)
    assert header.pixel_size == 2.0
    np.testing.assert_array_equal(read_images(path, [3, 0]), read_images(path)[[3, 0]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [bytes(8), b"MAP\0\0\0\0\0", b"MAP \x44\x20\0\0", b"MAP "])
def test_odd_stamps_read_where_the_sizes_fit(tmp_path: Path, order: str, stamp: bytes) -> None:
    path = tmp_path / "a.mrc"
    good = raw_stack(2, order)
    path.write_bytes(good[:208] + stamp.ljust(8, b"\0") + good[216:])
    expected = np.frombuffer(good[1024:], order + "f4").reshape(5, 8, 8)
    np.testing.assert_array_equal(read_images(path), expected)


def test_mode_0_signed_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    data = bytearray(raw_stack(0))
    data[1024] = 200
    path.write_bytes(data)
    assert read_images(path)[0, 0, 0] == -56
    assert read_images(path, int8_signed=False)[0, 0, 0] == 200


@pytest.mark.parametrize("extra", [1, 4096 - 1024 % 4096])
def test_trailing_bytes_are_ignored(tmp_path: Path, extra: int) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(raw_stack(2) + bytes(extra))
    assert read_images(path).shape == (5, 8, 8)


@pytest.mark.parametrize("cut", [1, 100, 256, 300])
def test_a_cut_stack_says_how_many_images_it_holds(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(raw_stack(2)[:-cut])
    held = (5 * 256 - cut) // 256
    assert read_header(path).available == held
    with StackReader() as reader:
        assert len(reader.read(str(path), 0, 5)) == held
    with pytest.raises(InputError, match="ends"):
        read_images(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (raw_stack(2)[:1000], "1000 bytes"),
        (raw_stack(2)[:1100], "1100 bytes for images of 8 x 8"),
        (b"<html>" + bytes(3000), "starting with b'<html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (raw_stack(2)[:12] + b"\x03\0\0\0" + raw_stack(2)[16:], r"mode 3 \(complex"),
        (raw_stack(2)[:12] + b"\x65\0\0\0" + raw_stack(2)[16:], r"mode 101 \(4-bit"),
        (raw_stack(2)[:8] + b"\xff\xff\xff\xff" + raw_stack(2)[12:], "8 x 8 x -1"),
        (b"\xff\xff\xff\x7f" * 3 + raw_stack(2)[12:], "for images of 2147483647"),
    ],
)
def test_what_is_no_stack_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value)


def test_pipes_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mrcs")
    for name in ("pipe.mrcs", ".", "missing.mrcs", "/dev/zero"):
        with pytest.raises(InputError):
            read_header(tmp_path / name)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_stacks(tmp_path: Path, suffix: str, pack: type(gzip.compress)) -> None:
    plain, packed = tmp_path / "a.mrcs", tmp_path / f"a.mrcs{suffix}"
    plain.write_bytes(raw_stack(1))
    packed.write_bytes(pack(raw_stack(1)))
    np.testing.assert_array_equal(read_images(packed), read_images(plain))
    whole = pack(raw_stack(1) + bytes(range(256)) * 8000)
    packed.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(read_images(packed), read_images(plain))
    packed.write_bytes(pack(raw_stack(1)[:1500]))
    with StackReader() as reader:
        assert len(reader.read(str(packed), 0, 5)) == 3
    packed.write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be unpacked|bytes, starting"):
        read_header(packed)


def test_a_bomb_is_unpacked_to_its_declared_size_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs.gz"
    path.write_bytes(gzip.compress(raw_stack(2) + bytes(50 << 20)))
    with StackReader() as reader:
        assert reader.read(str(path), 0, 5).shape == (5, 8, 8)
        (entry,) = reader._open.values()
        assert os.fstat(entry.descriptor).st_size == len(raw_stack(2))


def test_more_stacks_than_descriptors(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{i}.mrcs") for i in range(120)]
    for i, name in enumerate(names):
        write_stack(name, np.full((1, 8, 8), i, np.float32), 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
    try:
        with StackReader(max_open=16) as reader:
            for i, name in enumerate(names * 2):
                assert (reader.read(name, 0, 1) == i % 120).all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_last_image_of_a_file_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    box, number = 1024, 1100
    one = np.random.default_rng(0).normal(size=(1, box, box)).astype(np.float32)
    write_stack(path, one, 1.0)
    with path.open("r+b") as file:
        head = np.frombuffer(file.read(1024), "<i4").copy()
        head[2] = number
        file.seek(0)
        file.write(head.tobytes())
        file.seek(1024 + (number - 1) * 4 * box * box)
        file.write(one.tobytes())
    np.testing.assert_array_equal(read_images(path, [number - 1]), one)


@pytest.mark.parametrize("mode", [2, 12])
def test_written_stacks_are_valid(tmp_path: Path, images: np.ndarray, mode: int) -> None:
    path = tmp_path / "new" / "a.mrcs"
    write_stack(path, images, 1.25, mode=mode)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        assert file.is_image_stack()
        assert file.voxel_size.x == pytest.approx(1.25)
        np.testing.assert_array_equal(file.data, images.astype(MODES[mode]))
    assert [p.name for p in path.parent.iterdir()] == ["a.mrcs"]


def test_a_large_stack_is_measured_with_little_memory(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(3.0, 2.0, (5000, 32, 32)).astype(np.float32)
    tracemalloc.start()
    write_stack(tmp_path / "a.mrcs", pixels, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * pixels.nbytes
    with mrcfile.open(tmp_path / "a.mrcs", header_only=True) as file:
        measured = [float(file.header[name]) for name in ("dmin", "dmax", "dmean", "rms")]
    expected = [pixels.min(), pixels.max(), pixels.mean(dtype="f8"), pixels.std(dtype="f8")]
    assert measured == pytest.approx(expected, rel=1e-6)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "a.mrcs"
    write_stack(path, images, 1.0)
    old = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(EnvironmentFault, match="cannot write"):
            write_stack(path, images + 1, 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(0, 255), st.integers(-(2**31), 2**31 - 1), max_size=6))
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.mrcs"
    data = raw_stack(2)
    head = np.frombuffer(data[:1024], "<i4").copy()
    for place, value in changes.items():
        head[place] = value
    path.write_bytes(head.tobytes() + data[1024:])
    try:
        header = read_header(path)
        with StackReader() as reader:
            reader.read(str(path), 0, min(header.available, 4))
    except InputError:
        pass
