import dataclasses
import math

import numpy as np
import pytest
import torch
from reference import (
    chi2,
    frequencies,
    microscope,
    picture,
    pictures,
    plane_sum,
    polar,
    transfer,
)

from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.ctf import ctf_at
from cryo2d.physics.mask import radius_grid
from cryo2d.physics.preprocess import (
    TRANSFER,
    Preprocessor,
    no_ctf,
    phase_flip,
    weigh,
    working_box,
)
from cryo2d.types import ParticleBatch

PIXEL = 3.0


def raw_boxes(rng: np.random.Generator, count: int, box: int) -> torch.Tensor:
    """Particles on an uneven scale: every box has a background and contrast of its own."""
    noise = rng.standard_normal((count, box, box)) * rng.uniform(2, 5, (count, 1, 1))
    return torch.from_numpy(noise + rng.uniform(-50, 50, (count, 1, 1))).float()


@pytest.mark.parametrize("box", [48, 49])
def test_background_has_mean_zero_and_deviation_one(box, rng, device):
    preprocessor = Preprocessor(PolarGrid(32, 14), box)
    images = raw_boxes(rng, 5, box)
    found = preprocessor.normalise(images.to(device)).cpu()
    outside = found[:, radius_grid(box) > 0.9 * box / 2]
    torch.testing.assert_close(outside.mean(1), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(outside.std(1), torch.ones(5), atol=1e-4, rtol=0)


def test_scale_and_offset_of_the_raw_image_do_not_matter(rng, device):
    preprocessor = Preprocessor(PolarGrid(32, 14), 48)
    images = raw_boxes(rng, 4, 48).to(device)
    found = preprocessor(images)
    torch.testing.assert_close(preprocessor(3.0 * images - 7.0), found, atol=1e-3, rtol=1e-3)
    dark = dataclasses.replace(preprocessor, invert=True)
    torch.testing.assert_close(dark(images), -found)
    torch.testing.assert_close(dark(-images), found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("raw", "box"), [(48, 48), (48, 32), (49, 32), (49, 33), (48, 33)])
def test_samples_of_a_particle_in_the_working_box(raw, box, device):
    # the same picture, drawn in the working box, on the working box's scale
    grid = PolarGrid(box, box // 2 - 3)
    shift = (2.0, -1.0)
    image = torch.from_numpy(picture(raw, 0, 0.0, shift)).float()[None]
    flat = dataclasses.replace(Preprocessor(grid, raw), window=False, ignore_dc=False)
    border = image[0, radius_grid(raw) > 0.9 * raw / 2]
    found = flat(image.to(device))[0].cpu().numpy() * float(border.std())
    small = picture(box, 0, 0.0, tuple(box / raw * s for s in shift)) - float(border.mean())
    # a sample is a sum over pixels: a working box has (box / raw)^2 times as many, over box
    expected = polar(small, grid)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_the_window_takes_the_corners_away(rng, device):
    grid = PolarGrid(48, 20)
    images = raw_boxes(rng, 2, 48).to(device)
    spoiled = images.clone()
    spoiled[:, :4, :4] += 40.0
    windowed = Preprocessor(grid, 48, background_radius=0.5)
    # same normalisation for both, so that only the window matters
    flat = windowed.normalise(images) * windowed._window.to(device)
    windowed = dataclasses.replace(windowed, ignore_dc=False)
    corner = (windowed._window[:4, :4]).abs().max()
    assert float(corner) == 0.0
    torch.testing.assert_close(grid.sample(flat), windowed(images))
    middle = radius_grid(48) < 0.8 * 24
    assert bool((windowed._window[middle] == 1).all())


def test_a_constant_inside_the_window_is_ignored(rng, device):
    # the background lies in the corners alone, so that the offset is none of its business
    ignoring = Preprocessor(PolarGrid(32, 14), 48, background_radius=1.2)
    keeping = dataclasses.replace(ignoring, ignore_dc=False)
    images = raw_boxes(rng, 3, 48).to(device)
    raised = images + 30.0 * (radius_grid(48) < 1.1 * 24).to(device)
    torch.testing.assert_close(ignoring(raised), ignoring(images), atol=2e-3, rtol=1e-3)
    change = (keeping(raised) - keeping(images)).abs().mean((0, 1))
    assert float(change[0]) > 1
    assert float(change[0]) > 3 * float(change[-1])


def test_a_ramp_of_the_background_is_taken_away(rng, device):
    level = Preprocessor(PolarGrid(32, 14), 48, remove_ramp=True)
    images = raw_boxes(rng, 3, 48).to(device)
    axis = torch.arange(48, device=device) - 20.0
    sloped = images + 0.05 * axis[:, None] - 0.02 * axis + 3.0
    torch.testing.assert_close(level(sloped), level(images), atol=2e-4, rtol=1e-3)
    # a line through the background, and nothing else
    flat, plain = level.normalise(images), Preprocessor(PolarGrid(32, 14), 48).normalise(images)
    outside = radius_grid(48) > 0.9 * 24
    scale = (flat[:, outside] * plain[:, outside]).mean(1) / flat[:, outside].square().mean(1)
    x = axis.expand(48, 48)
    plane = torch.stack((x, x.T, torch.ones_like(x)))
    left = (plain - scale[:, None, None] * flat).flatten(1)
    fitted = torch.linalg.lstsq(plane.flatten(1).T, left.T).solution
    torch.testing.assert_close(plane.flatten(1).T @ fitted, left.T, atol=1e-4, rtol=1e-3)
    assert float(flat[:, outside].std(1).sub(1).abs().max()) < 1e-4


@pytest.mark.parametrize("window", [True, False])
def test_ignoring_the_dc_term_takes_the_mean_away(window, rng, device):
    grid = PolarGrid(48, 20)
    ignoring = Preprocessor(grid, 48, window=window)
    keeping = dataclasses.replace(ignoring, ignore_dc=False)
    images = raw_boxes(rng, 3, 48).to(device)
    weight = ignoring._window.double().numpy()
    flat = ignoring.normalise(images).double().cpu().numpy()
    mean = np.array([np.average(image, weights=weight) for image in flat])
    taken = torch.from_numpy(mean[:, None, None] * weight).float().to(device)
    torch.testing.assert_close(
        keeping(images) - ignoring(images), grid.sample(taken), atol=1e-4, rtol=1e-3
    )


def test_white_noise_has_the_same_power_on_every_ring(rng, device):
    preprocessor = Preprocessor(PolarGrid(32, 13), 48, window=False)
    images = torch.from_numpy(rng.standard_normal((300, 48, 48))).float().to(device)
    power = preprocessor(images).abs().square().mean((0, 1))
    # cropping keeps the mean of the image: the noise of a pixel falls by (32 / 48)^2
    expected = torch.full_like(power, (32 / 48) ** 2)
    torch.testing.assert_close(power, expected, rtol=0.08, atol=0)


@pytest.mark.parametrize("name", ["full", "flip", "none"])
def test_transfer_functions(name):
    ctf = microscope(3)
    fx, fy = torch.meshgrid(torch.linspace(-0.1, 0.1, 9), torch.linspace(0, 0.1, 7), indexing="ij")
    found = TRANSFER[name](ctf, torch.hypot(fx, fy), torch.atan2(fy, fx))
    full = ctf_at(ctf, fx, fy)
    assert found.shape == (3, 9, 7)
    if name == "full":
        torch.testing.assert_close(found, full)
    elif name == "flip":
        assert bool((found.abs() == 1).all())
        assert bool((found * full >= 0).all())
    else:
        assert bool((found == 1).all())


def batch_of(grid: PolarGrid, count: int, device: torch.device) -> ParticleBatch:
    generator = torch.Generator().manual_seed(3)
    rings = torch.randn((count, grid.num_angles, grid.num_rings, 2), generator=generator)
    index = torch.arange(count)
    return ParticleBatch(
        index=index,
        rings=torch.view_as_complex(rings),
        ctf=microscope(count),
        optics=index % 2,
        half=index % 2,
        scale=torch.linspace(0.8, 1.2, count),
    ).to(device)


def test_weighted_images_by_definition(device):
    grid = PolarGrid(32, 12)
    batch = batch_of(grid, 3, device)
    noise = torch.rand((2, 12), generator=torch.Generator().manual_seed(4)) + 0.5
    found = weigh(batch, grid, pixel_size=PIXEL, noise=noise.to(device))
    fx, fy = (f / PIXEL for f in frequencies(grid))
    for i in range(3):
        ctf = transfer(batch.ctf.to("cpu")[i : i + 1], fx, fy)
        sigma2 = noise[i % 2].double().numpy()
        rings = batch.rings[i].cpu().numpy()
        np.testing.assert_allclose(found.image[i].cpu().numpy(), ctf * rings / sigma2, atol=1e-2)
        np.testing.assert_allclose(
            found.transfer[i].cpu().numpy(), (ctf**2).mean(0) / sigma2, atol=5e-3
        )
        power = chi2(rings, np.zeros_like(rings), sigma2)
        assert float(found.power[i].sum()) == pytest.approx(power, rel=1e-3)
    assert found.scale is batch.scale
    assert len(found) == 3


def test_cross_term_and_norm_term_make_chi_squared(device):
    # |X - a CTF A|^2 / s^2 = power - 2 a <image, A> + a^2 <transfer, |A|^2>, without astigmatism
    grid = PolarGrid(32, 12)
    batch = batch_of(grid, 3, device)
    round_ctf = dataclasses.replace(batch.ctf, defocus_v=batch.ctf.defocus_u)
    batch = dataclasses.replace(batch, ctf=round_ctf)
    noise = torch.full((2, 12), 0.7, device=device)
    images = weigh(batch, grid, pixel_size=PIXEL, noise=noise)
    model = grid.sample(pictures(32, 3).to(device))
    cross = grid.inner(images.image, model)
    norm = (images.transfer * model.abs().square().mean(1)) @ grid.ring_weights.to(device)
    alpha = batch.scale
    found = images.power.sum(1) - 2.0 * alpha * cross + alpha**2 * norm
    for i in range(3):
        ctf = transfer(batch.ctf.to("cpu")[i : i + 1], *(f / PIXEL for f in frequencies(grid)))
        full = float(alpha[i]) * ctf * model[i].cpu().numpy()
        expected = chi2(batch.rings[i].cpu().numpy(), full, np.full(12, 0.7))
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("window", [True, False])
def test_cross_term_of_noise_varies_by_the_norm_of_the_reference(window, rng, device):
    # log likelihoods are those of independent numbers, under a window too
    grid, count = PolarGrid(32, 15), 3000
    preprocessor = Preprocessor(grid, 32, window=window, ignore_dc=False)
    noise = torch.from_numpy(rng.standard_normal((count, 32, 32))).float()
    rings = preprocessor(noise.to(device))
    power = rings.abs().square().mean((0, 1))
    batch = dataclasses.replace(batch_of(grid, count, device), rings=rings)
    images = weigh(
        batch,
        grid,
        pixel_size=PIXEL,
        noise=power.expand(2, -1),
        transfer=no_ctf,
        independent=preprocessor.independent,
    )
    small = pictures(32, 3) * (radius_grid(32) < 11)  # inside the flat part of the window
    model = grid.sample(small.to(device))
    norm = (images.transfer[0] * model.abs().square().mean(1)) @ grid.ring_weights.to(device)
    cross = torch.stack([grid.inner(images.image, m) for m in model])
    assert preprocessor.independent == pytest.approx(0.64 if window else 1.0, abs=0.02)
    torch.testing.assert_close(cross.var(1), norm, rtol=0.12, atol=0.0)


@pytest.mark.parametrize("transfer_of", [phase_flip, no_ctf])
def test_other_transfer_functions_leave_amplitudes(transfer_of, device):
    grid = PolarGrid(32, 12)
    batch = batch_of(grid, 3, device)
    noise = torch.full((2, 12), 2.0, device=device)
    images = weigh(batch, grid, pixel_size=PIXEL, noise=noise, transfer=transfer_of)
    torch.testing.assert_close(images.image.abs(), batch.rings.abs() / 2.0)
    torch.testing.assert_close(images.transfer, torch.full_like(images.transfer, 0.5))


@pytest.mark.parametrize(
    ("raw", "pixel", "limit"), [(128, 2.0, 6.0), (100, 1.1, 6.0), (64, 3.0, 4.0), (300, 0.8, 9.0)]
)
def test_working_box_holds_the_resolution(raw, pixel, limit):
    box = working_box(raw, pixel, limit)
    assert box <= raw
    new_pixel = pixel * raw / box
    assert new_pixel >= pixel
    assert 2.0 * new_pixel <= max(limit, 2.0 * pixel) + 1e-6
    # and hardly more than it
    assert box == raw or box <= 1.2 * math.ceil(2.0 * raw * pixel / limit) + 2


def test_the_oracle_sums_the_plane():
    ones = np.ones((8, 5))
    assert plane_sum(ones) == pytest.approx(2 * math.pi * 15)
