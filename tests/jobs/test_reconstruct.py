"""Averages from given poses: they show the truth, at every size, and only in the right poses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from classified import configured, easy, write_classified
from reference import pictures
from synthetic import PIXEL

from cryo2d.errors import InputError
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import ring_correlation
from cryo2d.io.averages import read_class_averages
from cryo2d.io.mrc import read_images
from cryo2d.io.particles import read_particles
from cryo2d.jobs.reconstruct import run
from cryo2d.jobs.source import read_source

BOX = 40


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classified(tmp_path_factory.mktemp("in"), easy(count=120))


def reconstruct(out: Path, *overrides: str) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    run(configured("reconstruct", "seed=1", "hardware.threads=1", *overrides), out)
    return out


@pytest.fixture(scope="module")
def usual(star: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job with its defaults."""
    return reconstruct(tmp_path_factory.mktemp("usual"), f"data.path={star}")


def truth_frc(images: np.ndarray, truth: torch.Tensor) -> torch.Tensor:
    """Ring correlation with the true pictures ``[k s]``."""
    grid = PolarGrid(truth.shape[-1], truth.shape[-1] // 2)
    found = torch.from_numpy(np.array(images, dtype=np.float32))
    return ring_correlation(grid, *(grid.harmonics(grid.sample(i)) for i in (found, truth)))


def likeness(images: np.ndarray, truth: torch.Tensor) -> np.ndarray:
    pairs = zip(images.reshape(len(images), -1), truth.flatten(1).numpy(), strict=True)
    return np.array([np.corrcoef(one, two)[0, 1] for one, two in pairs])


def test_averages_show_the_truth_and_every_file_is_there(usual):
    averages = read_class_averages(usual)
    assert averages.pixel_size == pytest.approx(PIXEL)
    assert averages.images.shape == (3, BOX, BOX)
    assert averages.columns["count"].tolist() == [40, 40, 40]
    assert (truth_frc(averages.images, pictures(BOX, 3))[:, :6] > 0.9).all()
    assert (likeness(averages.images, pictures(BOX, 3)) > 0.95).all()
    assert averages.rings.frc.shape == (3, BOX // 2)
    halves = [read_images(usual / f"class_averages_half{i}.mrcs") for i in (1, 2)]
    assert 0.4 < np.corrcoef(*(half.ravel() for half in halves))[0, 1] < 0.999
    assert read_images(usual / "masks.mrcs").max() == pytest.approx(1.0)
    manifest = json.loads((usual / "manifest.json").read_text())
    assert manifest["particles"] == {"total": 120, "averaged": 120, "excluded": 0}
    assert {"report.html", "classes.png", "frc.png"} <= set(manifest["files"])


def test_a_cs_and_many_small_blocks_give_the_same(star, usual, tmp_path):
    path = star.with_suffix(".cs")
    again = reconstruct(tmp_path, f"data.path={path}", "hardware.memory=0.00005")
    images = [read_class_averages(folder).images for folder in (usual, again)]
    np.testing.assert_allclose(*images, atol=1e-4 * np.abs(images[0]).max())


@pytest.mark.parametrize("wrong", ["psi", "shift"])
def test_poses_of_the_other_sign_are_worse(star, usual, tmp_path, wrong):
    table, _ = read_particles(star)
    values = {wrong: -getattr(table.alignment, wrong)}
    bad = write_classified(tmp_path / "bad", easy(count=120), **values)
    other = reconstruct(tmp_path / "out", f"data.path={bad}")
    right, left = (
        likeness(read_class_averages(folder).images, pictures(BOX, 3)) for folder in (usual, other)
    )
    assert (right > left + 0.03).all()


def test_a_coarser_pixel_is_the_cropped_average(star, usual, tmp_path):
    full = read_class_averages(usual)
    half = read_class_averages(
        reconstruct(tmp_path / "half", f"data.path={star}", f"average.pixel_size={1.25 * PIXEL}")
    )
    assert half.images.shape[-1] == 32
    assert half.pixel_size == pytest.approx(1.25 * PIXEL)
    expected = fourier_resize(torch.from_numpy(np.array(full.images)), 32)
    assert (likeness(half.images, expected) > 0.97).all()


def test_a_finer_pixel_shows_the_same_average_larger(star, usual, tmp_path):
    full = read_class_averages(usual)
    fine = read_class_averages(
        reconstruct(tmp_path / "fine", f"data.path={star}", f"average.pixel_size={0.8 * PIXEL}")
    )
    assert fine.images.shape[-1] == 50
    assert fine.pixel_size == pytest.approx(0.8 * PIXEL)
    expected = fourier_resize(torch.from_numpy(np.array(full.images)), 50)
    assert (likeness(fine.images, expected) > 0.97).all()


def test_the_box_is_cut_or_padded_about_the_centre(star, usual, tmp_path):
    full = read_class_averages(usual).images
    large = reconstruct(tmp_path / "large", f"data.path={star}", "average.box=48")
    small = reconstruct(tmp_path / "small", f"data.path={star}", "average.box=32")
    np.testing.assert_array_equal(read_class_averages(large).images[:, 4:-4, 4:-4], full)
    np.testing.assert_array_equal(read_class_averages(small).images, full[:, 4:-4, 4:-4])
    assert read_images(large / "masks.mrcs").shape == (3, 48, 48)


def test_centred_averages_take_their_particles_with_them(tmp_path):
    found = easy(count=90)
    away = np.array([4.0, -3.0]) * PIXEL
    psi = found.psi.double().numpy()
    turned = np.stack(
        [
            np.cos(psi) * away[0] + np.sin(psi) * away[1],
            -np.sin(psi) * away[0] + np.cos(psi) * away[1],
        ],
        axis=1,
    )
    star = write_classified(
        tmp_path / "in", found, shift=found.shift.double().numpy() * PIXEL + turned
    )
    off = reconstruct(tmp_path / "off", f"data.path={star}")
    centred = reconstruct(tmp_path / "on", f"data.path={star}", "model.recenter=true")
    again = reconstruct(tmp_path / "again", f"data.path={centred / 'particles.star'}")
    images = [read_class_averages(folder).images for folder in (off, centred, again)]
    assert (likeness(images[1], torch.from_numpy(np.array(images[2]))) > 0.999).all()
    assert (likeness(images[0], torch.from_numpy(np.array(images[2]))) < 0.9).all()


def test_contrast_ctf_and_mask_change_the_averages(star, usual, tmp_path):
    first = read_class_averages(usual).images
    for i, setting in enumerate(["data.invert=true", "model.ctf=flip", "model.mask_diameter=70"]):
        other = read_class_averages(
            reconstruct(tmp_path / str(i), f"data.path={star}", setting)
        ).images
        assert np.abs(other - first).max() > 0.05 * first.max(), setting


def test_a_run_hands_on_its_mask_and_contrast(star, tmp_path):
    write_classified(tmp_path / "run", easy(count=30))
    (tmp_path / "run" / "config.yaml").write_text("data: {invert: true}\nmodel: {ctf: none}\n")
    inherited = reconstruct(tmp_path / "a", f"run={tmp_path / 'run'}")
    path = tmp_path / "run" / "particles.star"
    given = reconstruct(tmp_path / "b", f"data.path={path}", "data.invert=true", "model.ctf=none")
    np.testing.assert_array_equal(*(read_class_averages(f).images for f in (inherited, given)))


def test_jobs_in_between_pass_the_mask_and_contrast_on(tmp_path):
    write_classified(tmp_path / "run", easy(count=30))
    (tmp_path / "run" / "config.yaml").write_text("data: {invert: true}\noptimizer: {}\n")
    middle = tmp_path / "middle"
    middle.mkdir()
    path = tmp_path / "run" / "particles.star"
    write_classified(middle, easy(count=30))
    (middle / "config.yaml").write_text("data: {invert: null}\n")
    (middle / "manifest.json").write_text(json.dumps({"source": str(path)}))
    for folder, expected in ((middle, True), (path.parent, True)):
        source = read_source(configured("reconstruct", f"run={folder}"))
        assert source.inherited(None, "data.invert", False) is expected
        assert source.inherited(None, "model.mask_diameter", 3.0) == 3.0
    assert not read_source(configured("reconstruct", f"data.path={path}")).settings


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "neither run nor data.path"),
        (["data.path={star}", "run=."], "and data.path="),
        (["run=/nowhere"], "no such folder"),
        (["data.path={star}", "average.pixel_size=0.5"], "average.pixel_size=0.5"),
        (["data.path={star}", "model.mask_diameter=200"], "at most the box"),
        (["data.path={bare}"], "rlnClassNumber.*rlnAnglePsi.*rlnOriginXAngst"),
    ],
)
def test_what_cannot_be_done_is_said(star, tmp_path, overrides, says):
    bare = star.parent / "bare.star"
    bare.write_text(
        "data_\nloop_\n_rlnImageName\n_rlnPixelSize\n1@particles.mrcs 3\n2@particles.mrcs 3\n"
    )
    texts = [text.format(star=star, bare=bare) for text in overrides]
    with pytest.raises(InputError, match=f"(?s){says}"):
        reconstruct(tmp_path, "model.ctf=none", *texts)
