import mrcfile
import numpy as np
import pytest
import torch
from reference import pictures

from cryo2d.errors import InputError
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.training.assembly import Frame
from cryo2d.training.references import given_references

FRAME = Frame(32, 4.0, 8.0)


def stack(path, images: torch.Tensor, pixel: float) -> str:
    with mrcfile.new(path) as file:
        file.set_data(images.numpy().astype(np.float32))
        file.voxel_size = pixel
    return str(path)


@pytest.mark.parametrize("box", [24, 32, 48])
def test_averages_of_any_pixel_size_fit_the_working_box(box, tmp_path):
    images = fourier_resize(pictures(64, 3), box)
    found = given_references(stack(tmp_path / "a.mrcs", images, 128.0 / box), FRAME, 3, 64)
    expected = fourier_resize(pictures(64, 3), 32) * FRAME.solvent.circle
    assert found.shape == (3, 32, 32)
    error = (found - expected).square().mean().sqrt()
    assert float(error) < (0.2 if box < 32 else 0.02) * float(expected.square().mean().sqrt())


def test_a_header_without_pixel_size_does_not_matter_for_boxes_of_the_particles(tmp_path):
    for box in (32, 64):
        images = fourier_resize(pictures(64, 3), box)
        path = stack(tmp_path / f"{box}.mrcs", images, 1.0)
        assert given_references(path, FRAME, 3, 64).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("shape", "pixel", "message"),
    [
        ((2, 32, 32), 4.0, "model.num_classes=2"),
        ((3, 32, 30), 4.0, "square"),
        ((3, 40, 40), 4.0, "128 A"),
    ],
)
def test_others_are_refused(shape, pixel, message, tmp_path):
    path = stack(tmp_path / "a.mrcs", torch.zeros(shape), pixel)
    with pytest.raises(InputError, match=message):
        given_references(path, FRAME, 3, 64)
