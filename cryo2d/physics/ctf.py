"""Contrast transfer function of the electron microscope."""

import math

import torch
from torch import Tensor

from cryo2d.types import CtfParams


def electron_wavelength(voltage: Tensor) -> Tensor:
    """Relativistic wavelength in Angstrom for an acceleration voltage in kilovolt.

    lambda = h / sqrt(2 m e V (1 + e V / (2 m c^2))), CODATA constants.
    """
    volt = voltage * 1e3
    return 12.2642597 / torch.sqrt(volt * (1.0 + volt * 0.978475598e-6))


def ctf_at(params: CtfParams, fx: Tensor, fy: Tensor) -> Tensor:
    """CTF of each particle at the given spatial frequencies.

    CTF = sin(pi lambda df(phi) s^2 - pi/2 Cs lambda^3 s^4 + phase + asin(Q)) exp(-B s^2 / 4)
    with df(phi) = (df_u + df_v + (df_u - df_v) cos 2(phi - angle)) / 2 (Rohou & Grigorieff 2015).
    The sign is RELION's with protein white: +Q at zero frequency.

    Args:
        params: parameters, ``[n]`` each.
        fx: frequency along columns (1/Angstrom), any shape.
        fy: frequency along rows (1/Angstrom), same shape.

    Returns:
        ``[n *fx.shape]`` float32.
    """
    return ctf_on(params, torch.hypot(fx, fy), torch.atan2(fy, fx))


def ctf_on(params: CtfParams, frequency: Tensor, azimuth: Tensor) -> Tensor:
    """CTF of each particle at spatial frequencies in polar coordinates, as :func:`ctf_at`.

    Args:
        params: parameters, ``[n]`` each.
        frequency: length (1/Angstrom).
        azimuth: angle from the x axis (radian); the two broadcast together.

    Returns:
        ``[n ...]`` float32.
    """
    view = (-1,) + (1,) * max(frequency.dim(), azimuth.dim())
    power = frequency * frequency
    wavelength = electron_wavelength(params.voltage.double()).float()
    mean = 0.5 * (params.defocus_u + params.defocus_v)
    half = 0.5 * (params.defocus_u - params.defocus_v)
    # cos 2(phi - angle) expanded, so that what depends on the azimuth is small until the last step
    along = half * torch.cos(2.0 * params.defocus_angle)
    across = half * torch.sin(2.0 * params.defocus_angle)
    defocus = (
        mean.view(view)
        + along.view(view) * torch.cos(2.0 * azimuth)
        + across.view(view) * torch.sin(2.0 * azimuth)
    )
    quartic = 0.5 * math.pi * params.spherical_aberration * wavelength**3
    offset = params.phase_shift + torch.asin(params.amplitude_contrast)
    radial = offset.view(view) - quartic.view(view) * power * power
    chirp = (math.pi * wavelength).view(view) * power
    envelope = torch.exp(-0.25 * params.b_factor.view(view) * power)
    return torch.addcmul(radial, defocus, chirp).sin_().mul_(envelope)
