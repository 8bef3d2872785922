import os
from pathlib import Path

import numpy as np
import pytest
from arriving import Pieces, TestClock

from cryo2d.data.feed import Delivery, Feed
from cryo2d.io.merging import merged
from cryo2d.io.particles import read_particles, write_particles
from cryo2d.simulate.particles import simulate

SIZE = 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    settings = {"num_particles": 40, "box": 32, "pixel_size": 5.0, "num_molecules": 2, "views": 1}
    return simulate(
        tmp_path_factory.mktemp("whole"), **settings, num_micrographs=1, num_optics_groups=1, seed=1
    )


@pytest.fixture
def pieces(whole, tmp_path) -> Pieces:
    return Pieces(whole, tmp_path / "watched", SIZE)


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def feed(pieces, clock, tmp_path) -> Feed:
    return Feed(pieces.folder, tmp_path / "run" / "store", patience=100, clock=clock)


def images(deliveries: list[Delivery]) -> list[str]:
    tables = [d.table for d in deliveries if d.table is not None]
    return [
        f"{image}@{Path(t.stacks[stack]).name}"
        for t in tables
        for stack, image in zip(t.stack_id, t.image_index, strict=True)
    ]


def reasons(deliveries: list[Delivery]) -> list[str]:
    return [reason for d in deliveries for e in d.excluded for reason in e.reasons]


def test_a_folder_is_searched_and_each_row_comes_once(feed, pieces):
    assert feed.poll() == []
    pieces.deliver(0)
    assert images(feed.poll()) == [f"{i}@piece0.mrcs" for i in range(SIZE)]
    assert feed.poll() == []
    pieces.deliver(1)
    pieces.deliver(2)
    assert len(images(feed.poll())) == 2 * SIZE
    os.utime(pieces.folder / "piece1.star", (1, 1))
    assert feed.poll() == []


def test_stars_are_chosen_by_their_names(pieces, clock, tmp_path):
    pieces.deliver(0)
    pieces.deliver(1, name="deeper.star")
    feed = Feed(pieces.folder, tmp_path / "run" / "store", pattern="piece*.star", clock=clock)
    assert {name.split("@")[1] for name in images(feed.poll())} == {"piece0.mrcs"}


def test_a_star_that_grows(pieces, clock, tmp_path):
    for number in range(3):
        pieces.stack(number)
    grows = pieces.star(0, name="grows.star")
    feed = Feed(grows, tmp_path / "run" / "store", patience=100, clock=clock)
    assert len(images(feed.poll())) == SIZE
    pieces.star(0, 1, 2, name="grows.star")
    assert images(feed.poll())[0] == "0@piece1.mrcs"
    assert feed.poll() == []


def test_rows_wait_for_their_stack_alone(feed, pieces):
    pieces.stack(0)
    pieces.stack(1, cut=100)
    pieces.star(0, 1, 2)
    assert len(images(feed.poll())) == SIZE
    assert feed.poll() == []
    pieces.stack(1)
    assert {name.split("@")[1] for name in images(feed.poll())} == {"piece1.mrcs"}
    pieces.stack(2)
    assert len(images(feed.poll())) == SIZE


def test_what_is_never_whole_is_left_out_with_a_reason(feed, pieces, clock):
    pieces.stack(0, cut=100)
    pieces.star(0, 1)
    assert feed.poll() == []
    clock.sleep(99)
    assert feed.poll() == []
    clock.sleep(1)
    found = feed.poll()
    assert len(images(found)) == SIZE - 1
    said = reasons(found)
    assert len(said) == SIZE + 1
    assert "lies beyond the end of" in said[0]
    assert "is missing" in said[-1]
    assert feed.poll() == []


def test_a_stack_that_still_grows_is_waited_for(feed, pieces, clock):
    pieces.star(0)
    for cut in (20000, 10000, 100):
        pieces.stack(0, cut=cut)
        clock.sleep(60)
        assert feed.poll() == []
    pieces.stack(0)
    assert len(images(feed.poll())) == SIZE


def test_half_a_star_is_not_read(feed, pieces, clock):
    pieces.stack(0)
    path = pieces.star(0)
    text = path.read_bytes().rstrip()
    path.write_bytes(text[:-4])
    assert feed.poll() == []
    path.write_bytes(text + b"\n")
    assert len(images(feed.poll())) == SIZE


def test_an_unreadable_star_is_named(feed, pieces, clock):
    (pieces.folder / "bad.star").write_text("data_particles\nloop_\n_rlnImageName\n")
    feed.poll()
    assert feed.unreadable == {}
    clock.sleep(100)
    assert feed.poll() == []
    assert list(feed.unreadable) == [str(pieces.folder / "bad.star")]


def test_particles_that_do_not_fit_are_left_out(feed, pieces):
    pieces.deliver(0)
    feed.poll()
    pieces.blocks["optics"]["rlnImagePixelSize"] = 4.0
    pieces.deliver(1)
    assert "pixel size 4 A" in reasons(feed.poll())[0]
    pieces.blocks["optics"]["rlnImagePixelSize"] = 5.0
    pieces.blocks["particles"]["rlnOdd"] = 1
    pieces.deliver(2)
    assert reasons(feed.poll()) == ["other columns than those before: rlnOdd"] * SIZE


def test_a_feed_is_put_together_again(feed, pieces, clock, tmp_path):
    pieces.deliver(0)
    first = feed.poll()
    pieces.star(1)
    clock.sleep(100)
    feed.poll()
    clock.sleep(100)
    first += feed.poll()
    again = Feed(pieces.folder, tmp_path / "elsewhere" / "store", patience=100, clock=clock)
    second = again.restore(feed.store)
    assert images(second) == images(first)
    assert reasons(second) == reasons(first)
    assert len(reasons(second)) == SIZE
    pieces.deliver(2)
    assert images(again.poll()) == [f"{i}@piece2.mrcs" for i in range(SIZE)]


def test_tables_become_one_with_an_optics_group_that_came_late(feed, pieces, whole, tmp_path):
    pieces.deliver(0)
    pieces.deliver(1, group="late")
    pieces.deliver(2)
    tables = [d.table for d in feed.poll()]
    table = merged(tables, "all")
    assert len(table) == 3 * SIZE
    assert table.optics.tolist() == [0] * SIZE + [1] * SIZE + [0] * SIZE
    assert table.optics_names[1] == "late"
    assert [Path(s).name for s in table.stacks] == [f"piece{i}.mrcs" for i in range(3)]
    written = tmp_path / "written.star"
    write_particles(written, table)
    read, excluded = read_particles(written)
    assert len(excluded.table) == 0
    assert np.array_equal(read.optics, table.optics)
    assert read.ctf.voltage.tolist() == [300] * SIZE + [200] * SIZE + [300] * SIZE
    source, _ = read_particles(whole)
    assert np.allclose(read.ctf.defocus_u, source.ctf.defocus_u[: 3 * SIZE])
