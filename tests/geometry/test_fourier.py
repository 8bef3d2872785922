import numpy as np
import pytest
import torch
from reference import fourier, picture, pictures

from cryo2d.geometry.fourier import (
    fourier_resize,
    fourier_shift,
    on_half_plane,
    ring_filter,
    smooth_size,
)

SIZES = [(48, 32), (48, 33), (47, 32), (47, 31), (33, 16)]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_low_frequencies_stay_and_the_centre_stays(old, new, rng, device):
    image = rng.standard_normal((old, old))
    small = fourier_resize(torch.from_numpy(image).float()[None].to(device), new)[0].cpu()
    assert small.shape == (new, new)
    count = np.arange(-((new - 1) // 2), (new - 1) // 2 + 1)
    fx, fy = np.meshgrid(count, count)
    # F is normalised by the box, and so is the value of a pixel
    before, after = fourier(image, fx / old, fy / old), fourier(small.numpy(), fx / new, fy / new)
    np.testing.assert_allclose(after / new, before / old, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_the_nyquist_of_an_even_box_is_empty(old, new, rng, device):
    image = torch.from_numpy(rng.standard_normal((2, old, old))).float().to(device)
    spectrum = torch.fft.fft2(fourier_resize(image, new))
    if new % 2 == 0:
        assert float(spectrum[:, new // 2].abs().max()) < 1e-3
        assert float(spectrum[:, :, new // 2].abs().max()) < 1e-3


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_mean_is_kept_and_a_blob_keeps_its_place(old, new, device):
    images = pictures(old).to(device)
    small = fourier_resize(images, new)
    torch.testing.assert_close(small.mean((1, 2)), images.mean((1, 2)), atol=1e-5, rtol=1e-4)

    def centre_of_mass(stack: torch.Tensor) -> torch.Tensor:
        axis = torch.arange(stack.shape[-1], device=device) - stack.shape[-1] // 2
        mass = stack.sum((1, 2))
        x, y = (stack.sum(1) * axis).sum(1) / mass, (stack.sum(2) * axis).sum(1) / mass
        return torch.stack((x, y), dim=1) / stack.shape[-1]

    torch.testing.assert_close(centre_of_mass(small), centre_of_mass(images), atol=4e-3, rtol=0)


def test_a_second_crop_takes_nothing_more(rng, device):
    image = torch.from_numpy(rng.standard_normal((1, 64, 64))).float().to(device)
    once = fourier_resize(image, 31)
    torch.testing.assert_close(
        fourier_resize(fourier_resize(image, 48), 31), once, atol=1e-5, rtol=0
    )
    assert fourier_resize(image, 64) is image


@pytest.mark.parametrize(("small", "large"), [(24, 40), (25, 40), (24, 41)])
def test_a_larger_box_holds_the_same_image(small, large, rng, device):
    image = torch.from_numpy(rng.standard_normal((2, 33, 33))).float().to(device)
    image = fourier_resize(image, small)  # nothing at the Nyquist frequency, which is dropped
    back = fourier_resize(fourier_resize(image, large), small)
    whole = fourier_resize(fourier_resize(image, 16), small)
    there = fourier_resize(fourier_resize(fourier_resize(image, 16), large), small)
    torch.testing.assert_close(there, whole, atol=1e-5, rtol=0)
    if small % 2:
        torch.testing.assert_close(back, image, atol=1e-5, rtol=0)
    larger = fourier_resize(image, large)
    torch.testing.assert_close(larger.mean((1, 2)), image.mean((1, 2)), atol=1e-5, rtol=0)


def test_white_noise_stays_white(rng, device):
    image = torch.from_numpy(rng.standard_normal((200, 48, 48))).float().to(device)
    small = fourier_resize(image, 33) * (48 / 33)
    assert float(small.square().mean()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("value", [1, 16, 17, 62, 121, 250, 257])
def test_smooth_size(value):
    size = smooth_size(value)
    assert size >= value
    assert size % 2 == 0
    rest = size
    for factor in (2, 3, 5, 7):
        while rest % factor == 0:
            rest //= factor
    assert rest == 1
    assert not any(smooth_size(other) == other for other in range(value, size))


@pytest.mark.parametrize("box", [32, 33])
def test_shift_moves_right_and_down(box, device):
    shift = torch.tensor([[3.0, 0.0], [0.0, -2.0], [1.5, 2.25], [0.0, 0.0]], device=device)
    found = fourier_shift(pictures(box).to(device), shift).cpu().numpy()
    for k, (x, y) in enumerate(shift.tolist()):
        np.testing.assert_allclose(found[k], picture(box, k, 0.0, (-x, -y)), atol=5e-3)


@pytest.mark.parametrize("box", [32, 33])
def test_values_on_the_half_plane_are_those_of_the_radius(box, device):
    # linear between the rings, and constant beyond the last one
    radial = torch.tensor([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 9.0]], device=device)
    found = on_half_plane(radial, box).cpu()
    fy = torch.fft.fftfreq(box, 1.0 / box)[:, None]
    radius = (fy**2 + torch.fft.rfftfreq(box, 1.0 / box) ** 2).sqrt().clamp(max=3.0)
    torch.testing.assert_close(found[0], radius)
    torch.testing.assert_close(found[1], 5.0 + 4.0 * (radius - 2.0).clamp(min=0.0))


def test_a_filter_of_rings_weighs_waves(device):
    box, axis = 32, torch.arange(32, device=device) - 16
    weights = torch.rand((2, 14), generator=torch.Generator().manual_seed(1)).to(device)
    for ring in (1, 5, 14):
        wave = torch.cos(2 * torch.pi * ring * axis / box).expand(2, box, box)
        expected = weights[:, ring - 1, None, None] * wave
        torch.testing.assert_close(ring_filter(wave, weights), expected, atol=1e-5, rtol=0)
        turned = ring_filter(wave.transpose(1, 2), weights)
        torch.testing.assert_close(turned, expected.transpose(1, 2), atol=1e-5, rtol=0)
