"""Dark particles where bright ones are expected are told of, whatever the scale of the images."""

import numpy as np
import pytest
import torch

from cryo2d.data.contrast import Contrast, centre_contrast
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.preprocess import Preprocessor

BOX, COUNT = 32, 400


def particles(strength: float, seed: int = 0) -> torch.Tensor:
    """Blobs of some brightness in noise of deviation 1."""
    row, column = np.indices((BOX, BOX)) - BOX // 2
    blob = strength * np.exp(-(row**2 + column**2) / 50)
    noise = np.random.default_rng(seed).normal(size=(COUNT, BOX, BOX))
    return torch.from_numpy((noise + blob).astype(np.float32))


def told(images: torch.Tensor, caplog: pytest.LogCaptureFixture, *, invert: bool = False) -> str:
    contrast = Contrast()
    for part in images.split(64):
        contrast.add(part)
    caplog.clear()
    contrast.warn("a.star", invert=invert)
    return caplog.text


def test_dark_particles_are_told_of_with_the_setting(caplog):
    text = told(particles(-0.3), caplog)
    assert "a.star: particles look darker than their background (0.1" in text
    assert "data.invert=true" in text
    assert "look brighter" in told(particles(0.3), caplog, invert=True)


@pytest.mark.parametrize(("strength", "invert"), [(0.3, False), (-0.3, True), (0.0, False)])
def test_nothing_is_said_of_others(caplog, strength, invert):
    assert told(particles(strength), caplog, invert=invert) == ""


def test_a_few_images_are_no_evidence(caplog):
    assert told(particles(-0.3)[:100], caplog) == ""


@pytest.mark.parametrize(("factor", "offset"), [(1e-3, 5.0), (2.0, 300.0), (1e4, -1e5)])
def test_scale_and_offset_of_the_images_do_not_matter(factor, offset):
    images = particles(-0.3)[:50]
    other = factor * images + offset
    torch.testing.assert_close(centre_contrast(other), centre_contrast(images), atol=2e-3, rtol=0)
    preprocess = Preprocessor(PolarGrid(16, 6), BOX)
    torch.testing.assert_close(preprocess(other), preprocess(images), atol=5e-3, rtol=0)


def test_a_constant_background_has_no_contrast():
    images = torch.zeros((2, BOX, BOX))
    images[0, BOX // 2, BOX // 2] = 1
    assert centre_contrast(images).tolist() == [0, 0]
