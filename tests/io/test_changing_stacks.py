"""Stacks that a network file system loses for a moment, or that change while they are used."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryo2d.data.reader import ImageChunk, iterate
from cryo2d.errors import EnvironmentFault, InputError
from cryo2d.io import mrc, regular
from cryo2d.io.mrc import FileState, StackReader, read_header, write_stack
from cryo2d.io.particles import ParticleTable, read_particles


class Failing:
    """A system call that fails some times for one file, then works."""

    def __init__(self, name: str, times: int, number: int, stack: Path) -> None:
        self.call = getattr(os, name)
        self.times, self.number, self.inode = times, number, stack.stat().st_ino
        self.failed = 0
        self.lock = threading.Lock()

    def _is_meant(self, target: object) -> bool:
        try:
            status = os.fstat(target) if isinstance(target, int) else os.stat(target)
        except OSError:
            return False
        return status.st_ino == self.inode

    def __call__(self, target: object, *args: object, **more: object) -> object:
        with self.lock:
            if self.failed < self.times and self._is_meant(target):
                self.failed += 1
                raise OSError(self.number, os.strerror(self.number))
        return self.call(target, *args, **more)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Failing]:
    """Let a system call fail; nobody waits."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)

    def start(name: str, times: int, number: int, stack: Path) -> Failing:
        failing = Failing(name, times, number, stack)
        failing.waited = waited
        monkeypatch.setattr(os, name, failing)
        return failing

    return start


@pytest.fixture
def table(folder: Path, star_text: Callable[..., str], images: np.ndarray) -> ParticleTable:
    """Rows of two stacks by turns."""
    write_stack(folder / "other.mrcs", images + 1, 1.5)
    lines = star_text().splitlines(keepends=True)
    lines = [s.replace("@stack", "@other") if "2@" in s or "4@" in s else s for s in lines]
    (folder / "a.star").write_text("".join(lines))
    return read_particles(folder / "a.star")[0]


def collected(chunks: list[ImageChunk]) -> tuple[list[int], dict[int, str]]:
    rows = sorted(row for chunk in chunks for row in chunk.rows.tolist())
    return rows, {row: text for chunk in chunks for row, text in chunk.bad.items()}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", ["preadv", "open", "pread"])
def test_what_fails_for_a_moment_is_tried_again(
    fail: Callable[..., Failing], table: ParticleTable, folder: Path, number: int, name: str
) -> None:
    failing = fail(name, 2, number, folder / "stack.mrcs")
    rows, bad = collected(list(iterate(table, threads=2)))
    assert failing.failed == 2
    assert rows == list(range(6))
    assert not bad
    assert failing.waited == list(regular.PAUSES[:2])


def test_what_fails_for_good_costs_its_own_particles_and_waits_once(
    fail: Callable[..., Failing], table: ParticleTable, folder: Path
) -> None:
    failing = fail("preadv", 1000, errno.EIO, folder / "stack.mrcs")
    rows, bad = collected(list(iterate(table, threads=1, chunk=1)))
    assert rows == [1, 3]
    assert sorted(bad) == [0, 2, 4, 5]
    assert os.strerror(errno.EIO) in bad[0]
    assert str(folder / "stack.mrcs") in bad[0]
    assert failing.waited == list(regular.PAUSES)


def test_a_header_is_asked_for_again(
    fail: Callable[..., Failing], table: ParticleTable, folder: Path
) -> None:
    fail("pread", 2, errno.ESTALE, folder / "stack.mrcs")
    assert len(read_particles(folder / "a.star")[0]) == 6
    fail("pread", 1000, errno.ESTALE, folder / "stack.mrcs")
    with pytest.raises(InputError, match="cannot be opened or read") as error:
        read_particles(folder / "a.star")
    assert str(folder / "stack.mrcs") in str(error.value)


def test_metadata_are_asked_for_again(fail: Callable[..., Failing], table: ParticleTable) -> None:
    fail("open", 2, errno.EIO, Path(table.source))
    assert len(read_particles(table.source)[0]) == 6


def test_a_lack_of_descriptors_is_the_machines_fault(
    fail: Callable[..., Failing], table: ParticleTable, folder: Path
) -> None:
    fail("open", 1000, errno.EMFILE, folder / "stack.mrcs")
    with pytest.raises(EnvironmentFault, match="ulimit"):
        list(iterate(table))
    with pytest.raises(EnvironmentFault, match="ulimit"):
        read_header(folder / "stack.mrcs")


def replaced(path: Path) -> None:
    write_stack(path, np.ones((6, 16, 16)) * np.arange(16), 1.5)


def cut(path: Path) -> None:
    os.truncate(path, 3000)


def overwritten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:2000] + bytes(100) + data[2100:])
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def deleted(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [replaced, cut, overwritten, deleted, a_folder])
def test_a_stack_that_changes_between_two_passes_is_not_used(
    table: ParticleTable, folder: Path, change: Callable[[Path], None]
) -> None:
    states: dict[str, FileState] = {}
    assert not collected(list(iterate(table, states=states)))[1]
    change(folder / "stack.mrcs")
    rows, bad = collected(list(iterate(table, states=states)))
    assert rows == [1, 3]
    assert sorted(bad) == [0, 2, 4, 5]
    assert str(folder / "stack.mrcs") in bad[0]


@pytest.mark.parametrize("change", [cut, overwritten])
def test_a_stack_that_changes_while_it_is_open_is_not_used(
    table: ParticleTable, folder: Path, change: Callable[[Path], None]
) -> None:
    path = folder / "stack.mrcs"
    with StackReader() as reader:
        assert len(reader.read(str(path), 0, 1)) == 1
        change(path)
        with pytest.raises(InputError, match="written to while it was in use"):
            reader.read(str(path), 1, 3)
        # and neither is it later
        with pytest.raises(InputError, match="written to while it was in use"):
            reader.read(str(path), 0, 1)


def test_a_stack_may_be_unlinked_or_replaced_while_it_is_open(
    table: ParticleTable, folder: Path, images: np.ndarray
) -> None:
    path = folder / "stack.mrcs"
    with StackReader() as reader:
        reader.read(str(path), 0, 1)
        replaced(path)
        np.testing.assert_array_equal(reader.read(str(path), 0, 6), images)


def test_a_stack_may_grow(table: ParticleTable, folder: Path) -> None:
    states: dict[str, FileState] = {}
    list(iterate(table, states=states))
    with (folder / "stack.mrcs").open("ab") as file:
        file.write(bytes(4096))
    assert not collected(list(iterate(table, states=states)))[1]
    assert not collected(list(iterate(table, states=states)))[1]


def test_no_room_to_unpack_is_the_machines_fault(
    table: ParticleTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    data = (folder / "stack.mrcs").read_bytes()
    (folder / "stack.mrcs.gz").write_bytes(gzip.compress(data))
    packed, _ = read_particles(folder / "stack.mrcs.gz", require_ctf=False)

    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mrc.tempfile, "TemporaryFile", Full)
    with pytest.raises(EnvironmentFault, match="TMPDIR"):
        list(iterate(packed))
