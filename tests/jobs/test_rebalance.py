"""Copies of a view, turned, shifted and mirrored, fall together, are evened out and in register."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from classified import configured, easy, write_classified
from reference import picture, pictures, turn
from synthetic import PIXEL

from cryo2d.errors import InputError
from cryo2d.io.averages import ClassAverages, read_class_averages, write_class_averages
from cryo2d.io.particles import read_particles
from cryo2d.jobs import reconstruct
from cryo2d.jobs.rebalance import run
from cryo2d.training.superclasses import Grouping, balanced_sizes, chosen

BOX, COUNT = 40, 160
TURN, SHIFT = 1.1, np.array([1.5, -2.0])
COPY, MIRROR = 2, 3  # classes that show picture 0 as well
LABEL = "cryo2dSuperclass"


def mirrored(images: np.ndarray) -> np.ndarray:
    """Images with their columns turned over about the centre BOX // 2."""
    return np.roll(images[..., ::-1], 1, axis=-1)


def run_folder(folder: Path) -> Path:
    """Two pictures in four classes: picture 0 also turned and shifted, and mirrored."""
    found = easy(COUNT, num_classes=2, rings=20)
    psi, shift = found.psi.double().numpy(), found.shift.double().numpy()
    index, raw = found.classes.numpy().copy(), found.raw.numpy().copy()
    again = np.flatnonzero((index == 0) & (np.arange(COUNT) % 10 == 2))
    for i in again:
        # y = R(TURN) (x + SHIFT) takes the copy into picture 0
        psi[i] -= TURN
        shift[i] -= turn(-psi[i]) @ SHIFT
        index[i] = COPY
    flipped = np.flatnonzero((index == 0) & (np.arange(COUNT) % 10 == 4))
    raw[flipped] = mirrored(raw[flipped])
    psi[flipped], shift[flipped, 0], index[flipped] = -psi[flipped], -shift[flipped, 0], MIRROR
    shown = replace(found, raw=torch.from_numpy(raw.copy()))
    values = {"class_index": index, "psi": psi, "shift": shift * PIXEL}
    write_classified(folder, shown, **values)
    images = np.stack(
        [
            picture(BOX, 0),
            picture(BOX, 1),
            picture(BOX, 0, TURN, SHIFT),
            mirrored(picture(BOX, 0)),
            np.zeros((BOX, BOX)),
        ]
    ).astype(np.float32)
    columns = {"count": np.append(np.bincount(index), 0), "resolution": np.full(5, 10.0)}
    write_class_averages(folder, ClassAverages(images, PIXEL, columns))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("run"))


def rebalance(source: Path, out: Path, *overrides: str) -> Path:
    out.mkdir(exist_ok=True)
    settings = ("seed=1", "least=1", f"run={source}", *overrides)
    run(configured("rebalance", *settings), out)
    return out


def superclasses(path: Path) -> np.ndarray:
    return read_particles(path)[0].columns.rows.column(LABEL).astype(int) - 1


def test_copies_fall_together_and_factor_0_keeps_all(source, tmp_path):
    out = rebalance(source, tmp_path, "factor=0")
    table, _ = read_particles(out / "particles.star")
    assert len(table) == COUNT
    before = table.columns.rows.column("cryo2dClassBefore").astype(int) - 1
    label = superclasses(out / "particles.star")
    assert {k: set(label[before == k].tolist()) for k in range(4)} == {
        0: {0},
        1: {1},
        2: {0},
        3: {0},
    }
    assert set(table.alignment.class_index[before == MIRROR].tolist()) == {2}
    assert not (out / "removed.star").exists()
    assert {"superclasses.png", "sizes.png", "report.html", "class_averages.mrcs"} <= set(
        json.loads((out / "manifest.json").read_text())["files"]
    )


def test_labels_are_those_of_the_whole(source):
    averages = read_class_averages(source)
    arguments = (averages.images, averages.columns["count"], averages.pixel_size)
    assert Grouping().labels(*arguments).tolist() == [0, 1, 0, 0, -1]
    for grouping in (Grouping(), Grouping(mirror=False, min_correlation=0.93), Grouping(number=1)):
        found = grouping(*arguments)
        assert found.label.tolist() == grouping.labels(*arguments).tolist()
    nothing = np.zeros(5, dtype=int)
    assert Grouping().labels(averages.images, nothing, PIXEL).tolist() == [-1] * 5


def test_members_are_in_register(source, tmp_path):
    out = rebalance(source, tmp_path / "a", "factor=0")
    merged = read_class_averages(out).images
    again = tmp_path / "b"
    again.mkdir()
    settings = (f"run={out}", "seed=1", "hardware.threads=1")
    reconstruct.run(configured("reconstruct", *settings), again)
    expected = [*pictures(BOX, 2).numpy(), mirrored(picture(BOX, 0))]
    for images in (merged, read_class_averages(again).images):
        for image, truth in zip(images, expected, strict=True):
            assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.94


@pytest.mark.parametrize("keep", ["random", "best"])
def test_factor_1_makes_equal_sizes(source, tmp_path, keep):
    # at this size the mirror image is rather like the picture
    apart = ("superclasses.mirror=false", "superclasses.min_correlation=0.93")
    out = rebalance(source, tmp_path, "factor=1", f"keep={keep}", *apart)
    kept, gone = (superclasses(out / f"{name}.star") for name in ("particles", "removed"))
    sizes = np.bincount(kept)
    assert len(sizes) == 3
    assert (sizes == sizes[0]).all()
    assert len(kept) + len(gone) == COUNT
    if keep == "best":
        tables = [read_particles(out / f"{name}.star")[0] for name in ("particles", "removed")]
        for g in range(3):
            stay, leave = (
                table.alignment.class_posterior[label == g]
                for table, label in zip(tables, (kept, gone), strict=True)
            )
            assert stay.min() >= leave.max(initial=0)


def test_poses_stay_if_asked_for_and_a_number_is_kept(source, tmp_path):
    settings = ("superclasses.register=false", "superclasses.number=1", "most=50")
    out = rebalance(source, tmp_path, *settings)
    table, _ = read_particles(out / "particles.cs")
    assert len(table) == 50
    old, _ = read_particles(source / "particles.cs")
    rows = np.searchsorted(old.image_index, table.image_index)
    for name in ("class_index", "psi", "shift"):
        values = [getattr(t.alignment, name) for t in (table, old.take(rows))]
        np.testing.assert_allclose(*values, atol=1e-5)
    assert not (out / "class_averages.mrcs").exists()


def test_the_same_seed_keeps_the_same(source, tmp_path):
    kept = [
        read_particles(rebalance(source, tmp_path / n, "most=30", s) / "particles.star")[0]
        for n, s in (("a", "seed=1"), ("b", "seed=1"), ("c", "seed=2"))
    ]
    assert (kept[0].image_index == kept[1].image_index).all()
    assert (kept[0].image_index != kept[2].image_index).any()


def test_sizes_follow_the_factor():
    size = np.array([1000, 400, 90, 10])
    assert balanced_sizes(size, 0).tolist() == size.tolist()
    assert balanced_sizes(size, 1).tolist() == [10, 10, 10, 10]
    assert balanced_sizes(size, 0.1).tolist() == [100, 100, 90, 10]
    assert balanced_sizes(size, 0.5, least=50).tolist() == [180, 180, 90, 10]
    assert balanced_sizes(size, 0, most=200).tolist() == [200, 200, 90, 10]
    for factor in (0.1, 0.3, 0.7, 1.0):
        kept = balanced_sizes(size, factor)
        assert kept.min() >= factor * kept.max()


def test_the_choice_has_the_sizes_asked_for(rng):
    label, size = rng.integers(0, 4, 500), np.array([10, 0, 50, 1000])
    keep = chosen(label, size, None, seed=3)
    assert (
        np.bincount(label[keep], minlength=4).tolist()
        == np.minimum(size, np.bincount(label)).tolist()
    )


def test_averages_of_another_run_are_refused(source, tmp_path):
    folder = tmp_path / "other"
    write_classified(folder, easy(12))
    averages = read_class_averages(source)
    write_class_averages(folder, averages.take(np.array([0])))
    with pytest.raises(InputError, match="an average of class 3"):
        rebalance(folder, tmp_path / "out")
