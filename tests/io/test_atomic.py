import os
import stat
import tempfile
from pathlib import Path

import pytest

from cryo2d.io.atomic import PART, append, atomic_write, clear_parts


def test_the_data_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "data")
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append("name")
        replace(old, new)

    monkeypatch.setattr("cryo2d.io.atomic.os.fsync", flushed)
    monkeypatch.setattr("cryo2d.io.atomic.os.replace", renamed)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"new")
    assert done == ["data", "name", "folder"]
    append(tmp_path / "a", b"er")
    assert done[3:] == ["data"]
    assert (tmp_path / "a").read_bytes() == b"newer"


def test_parts_are_beside_their_place_and_in_no_other_folder(tmp_path: Path, monkeypatch):
    other = tmp_path / "temporary"
    other.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_bytes(b"old")
    with atomic_write(tmp_path / "run" / "a") as file:
        file.write(b"new")
        names = sorted(path.name for path in (tmp_path / "run").iterdir())
        assert len(names) == 2
        assert names[0].startswith(".a.")
        assert names[0].endswith(PART)
        # until it is whole there is the old one
        assert (tmp_path / "run" / "a").read_bytes() == b"old"
        assert list(other.iterdir()) == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


def test_an_error_leaves_the_old_file_and_a_kill_a_part_that_is_cleared(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(tmp_path / "a") as file:
        file.write("text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
    (tmp_path / f".a.0123{PART}").touch()
    clear_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
