import io

import numpy as np
import pytest
import torch
from finished_run import BOX, finished_run
from PIL import Image
from reference import picture

from cryo2d.jobs.selection.members import SHOWN, Members, Recording
from cryo2d.jobs.selection.pictures import (
    MANY,
    MANY_TILE,
    TILE,
    aligned,
    average_sheet,
    filtered,
    normalised,
)
from cryo2d.physics.ctf import ctf_at
from cryo2d.types import CtfParams


def test_an_aligned_particle_is_its_class(rng):
    psi, shift = rng.uniform(0, 2 * np.pi, 5), rng.uniform(-3, 3, (5, 2))
    images = np.stack([picture(64, 0, p, t) for p, t in zip(psi, shift, strict=True)])
    expected = np.broadcast_to(picture(64, 0), images.shape)
    np.testing.assert_allclose(aligned(images, psi, shift), expected, atol=0.01)


def ctf(count: int) -> CtfParams:
    values = (2e4, 1.5e4, 0.4, 300.0, 2.7e7, 0.1, 0.0, 0.0)
    return CtfParams(*(torch.full((count,), value) for value in values))


def test_the_filter_undoes_the_phases_of_the_ctf():
    box, pixel = 64, 3.0
    clean = torch.from_numpy(picture(box)).float()[None]
    fy = torch.fft.fftfreq(box, pixel)[:, None].expand(box, box // 2 + 1)
    fx = torch.fft.rfftfreq(box, pixel).expand(box, -1)
    blurred = torch.fft.irfft2(torch.fft.rfft2(clean) * ctf_at(ctf(1), fx, fy), s=(box, box))

    def likeness(image: np.ndarray) -> float:
        smooth = filtered(clean.numpy(), None, pixel, "none")
        return float(np.corrcoef(image.ravel(), smooth.ravel())[0, 1])

    full, flip, none = (
        likeness(filtered(blurred.numpy(), ctf(1), pixel, how)) for how in ("full", "flip", "none")
    )
    assert full > flip > none
    assert full > 0.8


def test_background_is_zero_and_particles_are_white_whatever_they_were():
    image = 7 - 3 * picture(BOX)[None].astype(np.float32)
    image += np.random.default_rng(0).normal(0, 0.1, image.shape).astype(np.float32)
    dark, bright = normalised(image, BOX), normalised(image, BOX, -1.0)
    np.testing.assert_allclose(dark, -bright, atol=1e-5)
    assert bright[0].max() > 5 > abs(float(np.median(bright)))
    assert normalised(image, BOX // 2).shape == (1, BOX // 2, BOX // 2)


@pytest.mark.parametrize("count", [1, 7, MANY + 1])
def test_a_sheet_holds_every_average(count):
    sheet = average_sheet(np.stack([picture(BOX)] * count).astype(np.float32))
    assert sheet.tile == (TILE if count <= MANY else MANY_TILE)
    width, height = Image.open(io.BytesIO(sheet.png)).size
    assert width == sheet.columns * sheet.tile
    assert (
        height // sheet.tile * sheet.columns >= count > (height // sheet.tile - 1) * sheet.columns
    )


def test_beyond_the_mask_nothing_is_shown():
    image = picture(64)[None].astype(np.float32)
    whole, part = average_sheet(image), average_sheet(image, radius=15.0)
    assert (whole.box, part.box) == (64, 36)
    assert (whole.tile, whole.columns) == (part.tile, part.columns)
    large = Image.open(io.BytesIO(whole.png)).crop(
        [192 * (32 - 18) // 64] * 2 + [192 * 50 // 64] * 2
    )
    shown = np.asarray(Image.open(io.BytesIO(part.png)), float)
    expected = np.asarray(large.resize(shown.shape), float)
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.95
    assert average_sheet(image, radius=100.0).box == 64


def test_the_members_on_a_sheet_look_like_their_class(tmp_path):
    run = finished_run(tmp_path)
    members = Members(tmp_path, Recording(ctf="none"))
    sheet = members.sheet(0)
    tiles = np.asarray(Image.open(io.BytesIO(sheet.png)), float)
    assert tiles.shape == (2 * sheet.tile, SHOWN * sheet.tile)
    average = np.asarray(Image.fromarray(run.averages.images[0]).resize((sheet.tile,) * 2), float)
    y, x = np.indices(average.shape) - sheet.tile // 2
    inside = np.hypot(x, y) < 0.4 * sheet.tile
    for i in range(SHOWN):
        raw = tiles[: sheet.tile, i * sheet.tile : (i + 1) * sheet.tile]
        assert np.corrcoef(raw[inside], average[inside])[0, 1] > 0.75


def test_the_sample_runs_from_the_most_to_the_least_certain():
    rows = np.arange(1000)
    sample = Members.sample(rows)
    assert len(sample) == SHOWN
    assert (sample[0], sample[-1]) == (0, 999)
    assert (np.diff(sample) > 0).all()
    assert Members.sample(rows[:3]).tolist() == [0, 1, 2]


def test_dark_particles_are_shown_white(tmp_path):
    finished_run(tmp_path)
    settings = "data: {invert: true, int8_signed: true}\nmodel: {ctf: flip, mask_diameter: 60}\n"
    assert Recording.of_run(tmp_path) == Recording()
    (tmp_path / "config.yaml").write_text(settings)
    recording = Recording.of_run(tmp_path)
    assert recording == Recording(invert=True, ctf="flip", mask_diameter=60)
    white = Members(tmp_path, Recording(ctf="none")).sheet(0)
    dark = Members(tmp_path, Recording(invert=True, ctf="none")).sheet(0)
    one, other = (np.asarray(Image.open(io.BytesIO(s.png)), float).ravel() for s in (white, dark))
    assert np.corrcoef(one, other)[0, 1] < -0.9
