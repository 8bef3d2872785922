import math

import numpy as np
import pytest
import torch
from torch_ctf import calculate_ctf_2d

from cryo2d.physics.ctf import ctf_at, electron_wavelength
from cryo2d.types import CtfParams

BOX, PIXEL_SIZE = 64, 1.7


def params(**changes):
    values = {
        "defocus_u": 17000.0,
        "defocus_v": 16200.0,
        "defocus_angle": 0.6,
        "voltage": 300.0,
        "spherical_aberration": 2.7e7,
        "amplitude_contrast": 0.1,
        "phase_shift": 0.0,
        "b_factor": 0.0,
    }
    return CtfParams(**{key: torch.tensor([value]) for key, value in (values | changes).items()})


def frequencies():
    axis = torch.fft.fftfreq(BOX, PIXEL_SIZE)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    return fx, fy


CASES = [
    {},
    {"defocus_angle": -1.2, "defocus_u": 21000.0, "defocus_v": 15000.0},
    {"phase_shift": 0.5 * math.pi, "defocus_u": 6000.0, "defocus_v": 5600.0},
    {"voltage": 200.0, "amplitude_contrast": 0.07, "spherical_aberration": 1.4e7},
    {"defocus_u": -3000.0, "defocus_v": -3600.0},
]


@pytest.mark.parametrize("changes", CASES)
def test_agrees_with_torch_ctf(changes):
    ours = params(**changes)
    mean = 0.5 * (ours.defocus_u + ours.defocus_v)
    half = 0.5 * (ours.defocus_u - ours.defocus_v)
    theirs = calculate_ctf_2d(
        defocus=mean * 1e-4,
        astigmatism=half * 1e-4,
        # its documentation puts angle 0 along y, its code along x as ours
        astigmatism_angle=torch.rad2deg(ours.defocus_angle),
        voltage=ours.voltage,
        spherical_aberration=ours.spherical_aberration * 1e-7,
        amplitude_contrast=ours.amplitude_contrast,
        phase_shift=torch.rad2deg(ours.phase_shift),
        pixel_size=PIXEL_SIZE,
        image_shape=(BOX, BOX),
        rfft=False,
        fftshift=False,
    )
    torch.testing.assert_close(ctf_at(ours, *frequencies()), theirs, atol=5e-4, rtol=0)


@pytest.mark.parametrize("changes", CASES)
def test_agrees_with_the_formula_of_one_frequency_in_double_precision(changes):
    ours = params(**changes, b_factor=35.0)
    value = {name: float(getattr(ours, name)[0]) for name in vars(ours)}
    volt = value["voltage"] * 1e3
    planck, mass, charge, light = 6.62607015e-34, 9.1093837015e-31, 1.602176634e-19, 299792458.0
    energy = charge * volt
    momentum = math.sqrt(2 * mass * energy * (1 + energy / (2 * mass * light**2)))
    wavelength = planck / momentum * 1e10
    for fx, fy in [(0.05, 0.0), (0.0, 0.05), (0.03, 0.07), (-0.1, 0.11), (0.2, -0.15)]:
        s = math.hypot(fx, fy)
        difference = value["defocus_u"] - value["defocus_v"]
        turn = 2 * (math.atan2(fy, fx) - value["defocus_angle"])
        defocus = 0.5 * (value["defocus_u"] + value["defocus_v"] + difference * math.cos(turn))
        phase = math.pi * wavelength * defocus * s**2
        phase -= 0.5 * math.pi * value["spherical_aberration"] * wavelength**3 * s**4
        phase += value["phase_shift"] + math.asin(value["amplitude_contrast"])
        expected = math.sin(phase) * math.exp(-value["b_factor"] * s**2 / 4)
        found = ctf_at(ours, torch.tensor(fx), torch.tensor(fy))
        assert found.shape == (1,)
        assert float(found) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("kilovolt", "angstrom"), [(100, 0.03701), (200, 0.02508), (300, 0.01969)])
def test_wavelength(kilovolt, angstrom):
    found = float(electron_wavelength(torch.tensor(float(kilovolt), dtype=torch.float64)))
    assert found == pytest.approx(angstrom, abs=1e-5)


def test_zero_frequency_is_plus_the_amplitude_contrast():
    zero = torch.zeros(())
    found = ctf_at(params(amplitude_contrast=0.1), zero, zero)
    torch.testing.assert_close(found, torch.tensor([0.1]))


def test_underfocus_is_positive_up_to_the_first_zero():
    first_zero = math.sqrt((math.pi - math.asin(0.1)) / (math.pi * 0.0197 * 17000.0))
    fx = torch.linspace(0.0, 0.97 * first_zero, 20)
    assert (ctf_at(params(defocus_v=17000.0), fx, torch.zeros_like(fx)) > 0).all()


def test_defocus_angle_points_along_the_larger_defocus():
    # a purely quadratic phase: the CTF along the axis of U is that of defocus U alone
    angle = 0.7
    s = torch.linspace(0.0, 0.25, 40)
    both = params(defocus_u=18000.0, defocus_v=12000.0, defocus_angle=angle)
    for turn, defocus in ((0.0, 18000.0), (0.5 * math.pi, 12000.0)):
        direction = angle + turn
        found = ctf_at(both, s * math.cos(direction), s * math.sin(direction))
        alone = ctf_at(params(defocus_u=defocus, defocus_v=defocus), s, torch.zeros_like(s))
        torch.testing.assert_close(found, alone, atol=2e-3, rtol=0)


def test_turning_the_defocus_angle_turns_the_ctf():
    fx, fy = frequencies()
    turned = ctf_at(params(defocus_angle=0.3 + 0.5 * math.pi), fx, fy)
    torch.testing.assert_close(
        turned, ctf_at(params(defocus_angle=0.3), fy, -fx), atol=2e-3, rtol=0
    )


def test_envelope_is_a_factor():
    fx, fy = frequencies()
    expected = ctf_at(params(), fx, fy) * torch.exp(-0.25 * 80.0 * (fx**2 + fy**2))
    torch.testing.assert_close(ctf_at(params(b_factor=80.0), fx, fy), expected)


def test_each_particle_has_its_own_parameters_and_any_grid_shape_is_kept():
    many = CtfParams(**{k: torch.cat([v, v, v]) for k, v in vars(params()).items()})
    defocus = torch.tensor([9000.0, 12000.0, 15000.0])
    many = CtfParams(**(vars(many) | {"defocus_u": defocus, "defocus_v": defocus}))
    fx, fy = torch.from_numpy(np.random.default_rng(0).uniform(-0.1, 0.1, (2, 2, 3, 5))).float()
    together = ctf_at(many, fx, fy)
    assert together.shape == (3, 2, 3, 5)
    for row in range(3):
        torch.testing.assert_close(together[row], ctf_at(many[row : row + 1], fx, fy)[0])
