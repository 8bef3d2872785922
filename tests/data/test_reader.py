from pathlib import Path

import numpy as np
import pytest

from cryo2d.data import reader as module
from cryo2d.data.reader import ImageChunk, iterate
from cryo2d.io.mrc import StackReader, write_stack
from cryo2d.io.particles import ParticleTable

BOX = 8
COUNTS = (7, 4, 9)


def table_of(stacks: list[Path], stack: np.ndarray, image: np.ndarray) -> ParticleTable:
    count = len(stack)
    names = tuple(map(str, stacks))
    return ParticleTable(
        source="test",
        source_row=np.arange(1, count + 1),
        stacks=names,
        stack_names=names,
        stack_id=stack.astype(np.int32),
        image_index=image.astype(np.int64),
        optics_names=("opticsGroup1",),
        box=np.array([BOX]),
        optics=np.zeros(count, np.int32),
        pixel_size=np.ones(count),
        sign=np.where(np.arange(count) % 2, -1, 1).astype(np.float32),
    )


@pytest.fixture
def stacks(tmp_path: Path, rng: np.random.Generator) -> list[tuple[Path, np.ndarray]]:
    made = []
    for i, count in enumerate(COUNTS):
        images = rng.normal(size=(count, BOX, BOX)).astype(np.float32)
        write_stack(tmp_path / f"{i}.mrcs", images, 1.0)
        made.append((tmp_path / f"{i}.mrcs", images))
    return made


@pytest.fixture
def shuffled(
    stacks: list[tuple[Path, np.ndarray]], rng: np.random.Generator
) -> tuple[ParticleTable, np.ndarray]:
    """A table of all images in random order, one of them twice; and the images it means."""
    stack = np.repeat(np.arange(3), COUNTS)
    image = np.concatenate([np.arange(count) for count in COUNTS])
    order = rng.permutation(len(stack))
    order = np.append(order, order[0])
    table = table_of([p for p, _ in stacks], stack[order], image[order])
    expected = np.concatenate([images for _, images in stacks])[order]
    return table, expected * table.sign[:, None, None]


def collect(chunks: list[ImageChunk], count: int) -> tuple[np.ndarray, dict[int, str]]:
    images = np.full((count, BOX, BOX), np.nan, np.float32)
    bad: dict[int, str] = {}
    for rows, pixels, reasons in chunks:
        assert np.isnan(images[rows]).all(), "a row twice"
        images[rows] = pixels
        bad |= reasons
    return images, bad


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_row_gets_its_image(
    shuffled: tuple[ParticleTable, np.ndarray], chunk: int, threads: int
) -> None:
    table, expected = shuffled
    images, bad = collect(list(iterate(table, chunk=chunk, threads=threads)), len(table))
    np.testing.assert_array_equal(images, expected)
    assert not bad


def test_some_rows_only(shuffled: tuple[ParticleTable, np.ndarray]) -> None:
    table, expected = shuffled
    rows = np.array([9, 2, 14])
    images, _ = collect(list(iterate(table, rows=rows, chunk=2)), len(table))
    np.testing.assert_array_equal(images[rows], expected[rows])
    assert np.isnan(np.delete(images, rows, axis=0)).all()
    assert not list(iterate(table, rows=rows[:0]))


def test_each_byte_is_read_once_and_in_file_order(
    shuffled: tuple[ParticleTable, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, int]] = []

    class Recorder(StackReader):
        def read(self, path: str, first: int, count: int) -> np.ndarray:
            asked.append((path, first, count))
            return super().read(path, first, count)

    monkeypatch.setattr(module, "StackReader", Recorder)
    table, _ = shuffled
    list(iterate(table, chunk=5, threads=1))
    assert asked == sorted(asked)
    read = [(path, first + i) for path, first, count in asked for i in range(count)]
    assert len(read) == len(set(read)) == sum(COUNTS)


def test_bad_images_are_reported_and_the_others_unharmed(
    stacks: list[tuple[Path, np.ndarray]],
) -> None:
    (first, images), (second, cut), (third, _) = stacks
    images = images.copy()
    images[1, 3, 3] = np.nan
    images[2, 0, 0] = np.inf
    images[4] = 7
    write_stack(first, images, 1.0)
    second.write_bytes(second.read_bytes()[: 1024 + 4 * BOX * BOX * 2 + 10])
    third.unlink()
    stack = np.repeat(np.arange(3), COUNTS)
    image = np.concatenate([np.arange(count) for count in COUNTS])
    table = table_of([p for p, _ in stacks], stack, image)
    got, bad = collect(list(iterate(table, chunk=4)), len(table))
    good = [0, 3, 5, 6, 7, 8]
    expected = np.concatenate([images, cut])[good] * table.sign[good][:, None, None]
    np.testing.assert_array_equal(got[good], expected)
    assert sorted(bad) == sorted(set(range(20)) - set(good))
    assert bad[1] == f"image 2 of {first} holds NaN or infinity"
    assert "NaN or infinity" in bad[2]
    assert "image 5 of" in bad[4]
    assert "constant (7 everywhere)" in bad[4]
    assert "cut short" in bad[9]
    assert "no such file" in bad[12]


def test_the_reader_can_be_left_early(shuffled: tuple[ParticleTable, np.ndarray]) -> None:
    chunks = iterate(shuffled[0], chunk=1)
    next(chunks)
    chunks.close()


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    images = np.random.default_rng(2).normal(0, 3, (4, BOX, BOX)).astype(np.float16)
    images[1, 0, :3] = 65504, 6e-8, -1e-6
    images[2, 1, 1], images[3, 0, 0] = np.nan, -np.inf
    write_stack(tmp_path / "half.mrcs", images, 1.0, mode=12)
    table = table_of([tmp_path / "half.mrcs"], np.zeros(4, np.int64), np.arange(4))
    got, bad = collect(list(iterate(table)), 4)
    expected = images[:2].astype(np.float32) * table.sign[:2, None, None]
    np.testing.assert_array_equal(got[:2], expected)
    assert sorted(bad) == [2, 3]
