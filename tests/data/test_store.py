"""Preprocessed particles in memory, in a folder and nowhere: the same, and safe."""

import logging
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryo2d.data import reader as reader_module
from cryo2d.data import store as store_module
from cryo2d.data.prepared import PreparedParticles, key_of
from cryo2d.data.samples import DamagedSamplesError, SampleFile
from cryo2d.data.store import Filled, InMemory, Nowhere, OnDisk, Shared
from cryo2d.errors import EnvironmentFault
from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.mrc import StackReader, write_stack
from cryo2d.io.particles import ParticleTable, read_particles
from cryo2d.physics.preprocess import Preprocessor

COUNT, BOX, BAD = 30, 24, 11


def ignored(_: int) -> None:
    """No progress is shown."""


@pytest.fixture
def table(tmp_path: Path) -> ParticleTable:
    """Particles of one stack in another order than the stack's, one of them constant."""
    images = np.random.default_rng(4).normal(3, 2, (COUNT, BOX, BOX)).astype(np.float32)
    images[BAD] = 5
    write_stack(tmp_path / "stack.mrcs", images, 2.0)
    table, _ = read_particles(tmp_path / "stack.mrcs", require_ctf=False)
    return table.take(np.random.default_rng(5).permutation(COUNT))


def prepared(table: ParticleTable, threads: int = 1, **settings) -> PreparedParticles:
    settings = {"grid": PolarGrid(16, 6), "raw_box": BOX} | settings
    return PreparedParticles(table, Preprocessor(**settings), threads)


def same_but_for_rounding(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Of float16: transforms of many particles and of few may not round alike."""
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-4)


def everything(filled: Filled) -> torch.Tensor:
    if isinstance(filled.samples, torch.Tensor):
        return filled.samples
    rows = np.random.default_rng(1).permutation(COUNT - len(filled.bad))
    # in pieces and in any order, as the batches of an iteration
    parts = [filled.samples(part) for part in np.array_split(rows, 4)]
    samples = torch.cat(parts)
    return samples[torch.from_numpy(np.argsort(rows))]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_store_gives_the_same(table: ParticleTable, tmp_path: Path, threads: int) -> None:
    particles = prepared(table, threads)
    memory = InMemory().fill(particles, ignored)
    wanted = everything(memory)
    assert wanted.shape == (COUNT - 1, *particles.shape)
    assert wanted.float().abs().mean() > 0.1
    streaming = OnDisk(tmp_path / "cache", fraction=0.0)
    for store in (OnDisk(tmp_path / "cache"), streaming, Nowhere()):
        told: list[int] = []
        filled = store.fill(particles, told.append)
        assert isinstance(filled.samples, torch.Tensor) == (store == OnDisk(tmp_path / "cache"))
        same_but_for_rounding(everything(filled), wanted)
        if not isinstance(filled.samples, torch.Tensor):
            twice = np.array([3, 0, 3, 8])
            torch.testing.assert_close(filled.samples(twice), wanted[twice], rtol=0, atol=0)
        assert filled.bad == memory.bad
        assert sum(told) in (0, COUNT)
    (bad,) = memory.bad
    assert table.image_index[bad] == BAD


def test_a_second_run_reads_no_image(
    table: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Recorder(StackReader):
        def read(self, path: str, first: int, count: int) -> np.ndarray:
            asked.append(count)
            return super().read(path, first, count)

    monkeypatch.setattr(reader_module, "StackReader", Recorder)
    first = OnDisk(tmp_path / "cache").fill(prepared(table), ignored)
    assert sum(asked) == COUNT
    for fraction in (0.8, 0.0):
        again = OnDisk(tmp_path / "cache", fraction).fill(prepared(table), ignored)
        torch.testing.assert_close(everything(again), everything(first), rtol=0, atol=0)
        assert again.bad == first.bad
    assert sum(asked) == COUNT
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_whatever_changes_the_samples_changes_the_key(table: ParticleTable) -> None:
    plain = prepared(table)
    keys = [key_of(plain.identity())]
    assert key_of(prepared(table, threads=3).identity()) == keys[0]
    for change in (
        {"grid": PolarGrid(18, 6)},
        {"grid": PolarGrid(16, 5)},
        {"grid": PolarGrid(16, 6, padding=1.5)},
        {"background_radius": 0.8},
        {"window": False},
        {"window_inner": 0.5},
        {"window_outer": 0.9},
        {"invert": True},
        {"ignore_dc": False},
        {"remove_ramp": True},
    ):
        keys.append(key_of(prepared(table, **change).identity()))
    keys.append(key_of(replace(plain, int8_signed=False).identity()))
    keys.append(key_of(prepared(table.take(np.arange(COUNT - 1))).identity()))
    keys.append(key_of(prepared(table.take(np.arange(COUNT)[::-1])).identity()))
    keys.append(key_of(prepared(replace(table, sign=-table.sign)).identity()))
    stack = Path(table.stacks[0])
    for moment in (1, 2):
        os.utime(stack, ns=(moment, moment))
        keys.append(key_of(plain.identity()))
    copy = shutil.copy2(stack, stack.with_name("copy.mrcs"))
    keys.append(key_of(prepared(replace(table, stacks=(str(copy),))).identity()))
    with stack.open("ab") as file:
        file.write(b"more")
    os.utime(stack, ns=(1, 1))
    keys.append(key_of(plain.identity()))
    assert len(set(keys)) == len(keys)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = 4096 + 1000
    return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]


def relabelled(data: bytes) -> bytes:
    return data.replace(b'"excluded"', b'"Excluded"')


@pytest.mark.parametrize(
    "damage", [cut, flipped, relabelled, lambda data: data[:-3], lambda _: b""]
)
def test_a_damaged_file_is_made_anew(
    table: ParticleTable, tmp_path: Path, damage, caplog: pytest.LogCaptureFixture
) -> None:
    store = OnDisk(tmp_path / "cache")
    wanted = everything(store.fill(prepared(table), ignored))
    (path,) = store.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        again = store.fill(prepared(table), ignored)
    torch.testing.assert_close(everything(again), wanted, rtol=0, atol=0)
    assert len(caplog.messages) == 1
    assert f"{path} is damaged" in caplog.text
    SampleFile(path, path.stem)


def test_damage_is_noticed_while_streaming(table: ParticleTable, tmp_path: Path) -> None:
    store = OnDisk(tmp_path / "cache", fraction=0.0)
    filled = store.fill(prepared(table), ignored)
    (path,) = store.folder.iterdir()
    with path.open("r+b") as file:
        file.seek(4096 + 1000)
        file.write(b"\x55\xaa")
    with pytest.raises(EnvironmentFault, match="has changed on disk"):
        everything(filled)
    with pytest.raises(DamagedSamplesError, match="something else"):
        SampleFile(path, "another key")


def test_a_stack_that_goes_away_during_the_run(table: ParticleTable) -> None:
    filled = Nowhere().fill(prepared(table), ignored)
    Path(table.stacks[0]).unlink()
    with pytest.raises(EnvironmentFault, match="though it could be read before"):
        everything(filled)


def fill_folder(table: ParticleTable, folder: Path, barrier, read) -> None:
    class Counting(StackReader):
        def read(self, path: str, first: int, count: int) -> np.ndarray:
            with read.get_lock():
                read.value += count
            return super().read(path, first, count)

    reader_module.StackReader = Counting
    barrier.wait()
    filled = OnDisk(folder).fill(prepared(table), ignored)
    torch.save(everything(filled), folder.parent / f"{os.getpid()}.pt")


def test_of_processes_at_the_same_time_one_reads(table: ParticleTable, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, read = context.Barrier(3), context.Value("l", 0)
    arguments = (table, tmp_path / "cache", barrier, read)
    processes = [context.Process(target=fill_folder, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert read.value == COUNT
    wanted = everything(InMemory().fill(prepared(table), ignored))
    found = [torch.load(path) for path in tmp_path.glob("*.pt")]
    assert len(found) == 3
    for samples in found:
        torch.testing.assert_close(samples, wanted, rtol=0, atol=0)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_runs_that_share_read_for_themselves_where_there_is_no_room(
    table: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    wanted = everything(InMemory().fill(prepared(table), ignored))
    usage = type(shutil.disk_usage(tmp_path))(100, 90, 10)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage)
    found = Shared(tmp_path / "cache").fill(prepared(table), ignored)
    torch.testing.assert_close(everything(found), wanted, rtol=0, atol=0)
    assert "read by each run" in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(EnvironmentFault, match="data.cache=off"):
        Shared(tmp_path / "cache", fraction=1e-12).fill(prepared(table), ignored)


def test_a_file_made_anew_by_another_process_stays(
    table: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OnDisk(tmp_path / "cache")
    wanted = everything(store.fill(prepared(table), ignored))
    (path,) = store.folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(cut(good))

    class Slow(SampleFile):
        def __init__(self, path: Path, key: str, threads: int = 1) -> None:
            try:
                super().__init__(path, key, threads)
            except DamagedSamplesError:
                # the other one was quicker to find the damage
                path.unlink()
                path.write_bytes(good)
                raise

    monkeypatch.setattr(store_module, "SampleFile", Slow)
    monkeypatch.setattr(store_module, "write_samples", None)
    again = everything(store.fill(prepared(table), ignored))
    torch.testing.assert_close(again, wanted, rtol=0, atol=0)


def test_what_does_not_fit_is_said_before_anything_is_read(
    table: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    particles = prepared(table)
    with pytest.raises(EnvironmentFault, match="data.cache=off") as error:
        InMemory(fraction=1e-12).fill(particles, ignored)
    assert "30 particles need" in str(error.value)
    assert "hardware.memory_fraction=1e-12" in str(error.value)
    usage = type(shutil.disk_usage(tmp_path))(100, 90, 10)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EnvironmentFault, match="has 0.0 MB left and the particles need"):
        OnDisk(tmp_path / "cache").fill(particles, ignored)
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="data.cache=.*file/cache cannot be used"):
        OnDisk(tmp_path / "file" / "cache").fill(particles, ignored)


def test_a_disk_that_fills_up_leaves_nothing_behind(
    table: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cryo2d.io.atomic.os.fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        OnDisk(tmp_path / "cache").fill(prepared(table), ignored)
    assert list((tmp_path / "cache").iterdir()) == []


def test_leftovers_of_killed_processes_are_removed(table: ParticleTable, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    old, new = folder / ".a.samples.0123.part", folder / ".b.samples.4567.part"
    for path in (old, new):
        path.write_text("")
    os.utime(old, (0, 0))
    OnDisk(folder).fill(prepared(table), ignored)
    assert not old.exists()
    assert new.exists()
