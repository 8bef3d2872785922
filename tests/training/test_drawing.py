import base64
import io
import re
import time

import numpy as np
import pytest
from fake_run import CLASSES, blobs, make_assignments, make_summary
from PIL import Image
from scipy.ndimage import rotate, shift

from cryo2d.training.drawing.classes import ClassTable
from cryo2d.training.drawing.curves import draw_frc, draw_history, draw_noise, draw_posteriors
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import (
    BACKGROUND,
    draw_montage,
    grey_levels,
    grid_columns,
    round_length,
)
from cryo2d.training.drawing.report import Counts, Report, readable_size, render_report
from cryo2d.training.drawing.similarity import descriptors, similarity_order
from cryo2d.training.drawing.style import image_png
from cryo2d.training.drawing.tracks import (
    EDGE,
    Tracks,
    draw_tracks,
    no_tracks,
    read_tracks,
    write_tracks,
)


def _table(count: np.ndarray) -> ClassTable:
    numbers = np.linspace(6, 12, len(count))
    return ClassTable(count, numbers, numbers + 1, np.ones(len(count)), np.ones(len(count)))


def _decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_grey_levels_ignore_scale_and_offset():
    pictures = blobs(3, 32)
    levels = grey_levels(pictures)
    np.testing.assert_allclose(grey_levels(7.0 * pictures - 3.0), levels, atol=1e-4)


def test_solvent_is_the_same_grey_and_protein_is_brighter():
    levels = grey_levels(blobs(3, 32))
    np.testing.assert_allclose(levels[:, 0, 0], BACKGROUND, atol=0.02)
    assert levels.max() >= 1.0


def test_an_average_without_contrast_is_plain_solvent():
    pictures = np.stack([blobs(1, 32)[0], np.full((32, 32), 5.0, np.float32)])
    np.testing.assert_allclose(grey_levels(pictures)[1], BACKGROUND)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 24, 50, 100, 133, 300])
def test_grid_is_wide_and_nearly_full(count: int):
    columns = grid_columns(count)
    rows = -(-count // columns)
    assert 1 <= columns <= count
    assert columns * rows - count < columns
    assert count < 4 or 0.9 <= columns / rows <= 4


@pytest.mark.parametrize(("target", "length"), [(130, 100), (100, 100), (0.07, 0.05), (450, 200)])
def test_scale_bar_has_a_round_length(target: float, length: float):
    assert round_length(target) == pytest.approx(length)


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_montage_shows_every_class(count: int):
    pictures = blobs(count, 24)
    counts = np.arange(count)
    image = draw_montage(pictures, _table(counts), pixel_size=3.0, title="Iteration 0")
    assert image.dtype == np.uint8
    assert image.ndim == 3
    np.testing.assert_array_equal(_decode(image_png(image)), image)
    # in every tile of a class with particles the solvent grey appears, in an empty one it does not
    solvent = round(255 * BACKGROUND)
    grey = (np.abs(image.astype(int) - solvent) <= 3).all(axis=2).sum()
    assert (grey > 0) == (count > 1)


def test_montage_order_moves_the_tiles():
    pictures, table = blobs(4, 24), _table(np.array([4, 3, 2, 1]))
    order = np.array([3, 2, 1, 0])
    straight = draw_montage(pictures, table, pixel_size=3.0, title="")
    turned = draw_montage(pictures, table, pixel_size=3.0, title="", order=order)
    assert (straight != turned).any()
    by_hand = draw_montage(
        pictures[order],
        ClassTable(
            *(values[order] for values in vars(table).values() if isinstance(values, np.ndarray))
        ),
        pixel_size=3.0,
        title="",
        order=np.arange(4),
    )
    # the same tiles and numbers, only the class numbers (#3 and so on) differ
    assert (turned != by_hand).mean() < 0.01


@pytest.mark.slow
def test_montage_of_a_hundred_classes_is_fast():
    pictures, table = blobs(100, 128), _table(np.arange(100) + 1)
    draw_montage(pictures, table, pixel_size=1.0, title="")
    start = time.perf_counter()
    draw_montage(pictures, table, pixel_size=1.0, title="")
    # measured 0.15 s; the bound leaves room for a busy machine
    assert time.perf_counter() - start < 1.5


def _posed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = rotate(picture, rng.uniform(0, 360), reshape=False, order=3)
    out = shift(out, rng.uniform(-2, 2, 2), order=3)
    return out[:, ::-1] if rng.random() < 0.5 else out


def test_descriptors_forget_rotation_shift_and_mirror():
    rng = np.random.default_rng(0)
    views = blobs(6, 48)
    label = np.repeat(np.arange(6), 5)
    described = descriptors(np.stack([_posed(views[k], rng) for k in label]))
    distance = np.linalg.norm(described[:, None] - described[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(1)] == label).mean() > 0.95


def test_similar_classes_stand_together():
    rng = np.random.default_rng(1)
    views = blobs(6, 48, seed=4)
    label = rng.permutation(np.repeat(np.arange(6), 5))
    order = similarity_order(np.stack([_posed(views[k], rng) for k in label]), np.ones(30))
    assert sorted(order) == list(range(30))
    # 24 of the 29 neighbours can be of one view
    assert (np.diff(label[order]) == 0).sum() >= 20


@pytest.mark.parametrize("counts", [[], [0], [5], [0, 3], [3, 0, 4], [0, 0, 0], [9, 1, 1, 0, 8]])
def test_order_of_few_classes_is_a_permutation_with_the_empty_last(counts: list[int]):
    order = similarity_order(blobs(len(counts), 16), np.array(counts))
    assert sorted(order) == list(range(len(counts)))
    used = np.array(counts, dtype=int)[order] > 0
    assert (np.diff(used.astype(int)) <= 0).all()


def test_class_table_counts_the_kept_members():
    summary, found = make_summary(), make_assignments(100)
    keep = np.arange(100) % 3 > 0
    table = ClassTable.of_members(summary, found, keep)
    assert table.count.sum() == keep.sum()
    k = int(table.by_count()[0])
    members = keep & (found.class_index.numpy() == k)
    assert table.posterior[k] == pytest.approx(found.class_posterior.numpy()[members].mean())
    assert table.empty[-1]
    assert np.isnan(table.ess[-1])
    assert table.share.sum() == pytest.approx(100)


def test_printed_table_sums_up_what_it_does_not_show():
    table = _table(np.array([3, 0, 5, 1]))
    text = table.text(limit=2)
    assert "2 more classes, 1 particles" in text
    assert "3 of 4 classes in use" in text
    assert re.search(r"^\s+3\s+5\s+55.56", text, re.MULTILINE), "classes count from 1"


@pytest.mark.parametrize("groups", [1, 3, 9])
def test_curves_are_pictures(groups: int):
    summary = make_summary()
    frequency = summary.frequency.numpy()
    noise = np.repeat(summary.noise.numpy(), groups, axis=0)
    names = [f"g{i}" for i in range(groups)]
    frc = summary.frc.numpy().copy()
    frc[-1] = np.nan
    for png in (
        draw_frc(frc, frequency, ClassTable.of_iteration(summary)),
        draw_noise(noise, frequency, names),
    ):
        assert _decode(png).std() > 5


def test_posterior_histograms_of_odd_values():
    full = np.full(10, 1.0)
    assert _decode(draw_posteriors(full, full, 0 * full, full)).std() > 5
    nothing = np.full(3, np.nan)
    assert _decode(draw_posteriors(nothing, nothing, nothing, nothing)).ndim == 3


def test_history_with_missing_values():
    rows = [{"iteration": i, "resolution": 9.0, "effective_classes": 3.0} for i in range(3)]
    assert _decode(draw_history(rows, 4)).std() > 5


def _report(note: str) -> Report:
    png = image_png(np.zeros((4, 40, 3), np.uint8))
    return Report(
        title="2D classification",
        source="<script>alert(1)</script>.star",
        counts=Counts(total=10, classified=7, rejected=2, excluded=1),
        facts={"classes": "6"},
        notes=[note],
        pictures=[Picture("Class averages", png, "caption", "classes.png")],
        settings="a: 1",
        overrides=["a=1"],
        versions={"cryo2d": "1"},
        files={"particles.star": 12345},
    )


def test_report_stands_alone_and_escapes_text_of_the_input():
    summary = make_summary()
    table = ClassTable.of_iteration(summary)
    order = table.by_count()
    page = render_report(_report("a < b"), summary.averages.numpy(), table, order)
    assert "<script>alert" not in page
    assert "a &lt; b" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)""", page)
    assert "http" not in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    # the figure, and a thumbnail of each class that has particles
    assert len(pictures) == 1 + CLASSES - 1
    for picture in pictures:
        assert _decode(base64.b64decode(picture)).size
    numbers = [
        int(k) for k in re.findall(r'(?:alt="class \d+">|</span>)</td><td data-key="(\d+)">', page)
    ]
    assert numbers == (order + 1).tolist(), "counted from 1, as in the particle star"
    assert "10 particles read = 7 classified + 2 duplicates + 1 excluded" in page


def test_counts_have_to_add_up():
    with pytest.raises(AssertionError):
        Counts(total=10, classified=7, rejected=2, excluded=0)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5e6, "5 MB"), (7e12, "7 TB")]
)
def test_sizes_for_people(size: float, text: str):
    assert readable_size(size) == text


def followed(last: int, most: int = 4) -> Tracks:
    """Tracks of an iteration after all before it; class 0 grows, the last is empty."""
    tracks = no_tracks(CLASSES)
    for i in range(last + 1):
        count = np.array([10 * i + 10, *[5] * (CLASSES - 2), 0])
        tracks = tracks.followed(i, blobs(seed=i), count, most=most)
    return tracks


@pytest.mark.parametrize(
    ("last", "kept"), [(0, [0]), (4, [0, 2, 4]), (5, [0, 2, 4, 5]), (13, [0, 4, 8, 12, 13])]
)
def test_tracks_are_thinned_evenly_and_keep_the_newest(last: int, kept: list[int]):
    tracks = followed(last)
    assert tracks.iteration.tolist() == kept
    assert tracks.count[:, 0].tolist() == [10 * i + 10 for i in kept]
    assert tracks.levels.shape == (len(kept), CLASSES, EDGE, EDGE)


def test_tracks_of_a_resumed_run_are_those_of_one_that_went_on(tmp_path):
    tracks = followed(6)
    write_tracks(tmp_path, followed(9))
    back = read_tracks(tmp_path).followed(6, blobs(seed=6), tracks.count[-1], most=4)
    # what was thinned out since then cannot come back
    assert set(back.iteration) <= set(tracks.iteration)
    np.testing.assert_array_equal(back.levels[-1], tracks.levels[-1])
    assert read_tracks(tmp_path / "nowhere") is None


def test_tracks_are_drawn_with_the_size_of_the_class():
    tracks = followed(13)
    drawn = draw_tracks(tracks)
    assert drawn.shape[0] > CLASSES * EDGE
    alone = draw_tracks(tracks, [0])
    blue = (alone == (0x1F, 0x5F, 0x8B)).all(-1)
    # class 0 is the largest at every iteration: a full bar below each of its pictures
    assert blue.sum() == len(tracks) * EDGE * 3
    assert not (draw_tracks(tracks, [CLASSES - 1]) == (0x1F, 0x5F, 0x8B)).all(-1).any()
    many = Tracks(tracks.iteration, np.tile(tracks.levels, (1, 9, 1, 1)), np.tile(tracks.count, 9))
    assert draw_tracks(many).shape[1] == 2 * drawn.shape[1]
