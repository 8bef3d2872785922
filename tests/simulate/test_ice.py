import math

import torch

from cryo2d.simulate.ice import noise_power, normalise, ramp

PIXEL_SIZE = 3.0


def frequencies(box):
    axis = torch.fft.fftfreq(box, PIXEL_SIZE)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    return fx, fy


def test_noise_power_is_the_documented_formula_with_mean_one():
    fx, fy = frequencies(48)
    ctf = torch.rand(3, 48, 48)
    haze = torch.tensor([0.5, 1.0, 2.0])
    found = noise_power(fx, fy, ctf, PIXEL_SIZE, haze)
    torch.testing.assert_close(found.mean((1, 2)), torch.ones(3))
    for n, y, x in [(0, 0, 0), (1, 3, 5), (2, 20, 40), (0, 24, 24)]:
        expected = []
        for v, u in ((y, x), (1, 1)):
            s = math.hypot(float(fx[v, u]), float(fy[v, u]))
            haze_term = float(haze[n]) * 4.0 / (1 + (s * 125.0) ** 2)
            ring = 0.8 * math.exp(-((s - 0.27) ** 2) / (2 * 0.2**2)) * float(ctf[n, v, u]) ** 2
            detector = math.exp(-((s * PIXEL_SIZE / 0.9) ** 2))
            expected.append((1 + haze_term + ring) * detector**2)
        ratio = float(found[n, y, x] / found[n, 1, 1])
        assert math.isclose(ratio, expected[0] / expected[1], rel_tol=1e-4)


def test_normalised_background_has_mean_zero_and_deviation_one():
    generator = torch.Generator().manual_seed(0)
    images = 7.0 + 3.0 * torch.randn(5, 64, 64, generator=generator)
    images[:, 24:40, 24:40] += 100.0
    found = normalise(images)
    axis = torch.arange(64.0) - 32
    corners = found[:, torch.hypot(axis[None], axis[:, None]) > 0.92 * 32]
    torch.testing.assert_close(corners.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(corners.std(1), torch.ones(5), atol=1e-5, rtol=0)
    assert float(found[:, 32, 32].min()) > 20.0


def test_ramp_is_linear_and_as_strong_as_asked():
    found = ramp(500, 32, 0.3, torch.Generator().manual_seed(1))
    for axis in (1, 2):
        torch.testing.assert_close(
            found.diff(n=2, dim=axis).abs().max(), torch.tensor(0.0), atol=1e-5, rtol=0
        )
    along = found[:, 16, :].std(1)
    assert math.isclose(float(along.square().mean().sqrt()), 0.3, rel_tol=0.1)
