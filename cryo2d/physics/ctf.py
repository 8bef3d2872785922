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
    view = (-1,) + (1,) * fx.dim()
    power = fx * fx + fy * fy
    azimuth2 = 2.0 * torch.atan2(fy, fx)
    wavelength = electron_wavelength(params.voltage.double()).float()
    mean = 0.5 * (params.defocus_u + params.defocus_v)
    half = 0.5 * (params.defocus_u - params.defocus_v)
    # cos 2(phi - angle) expanded: the trigonometry of the grid is done once, not once per particle
    along = half * torch.cos(2.0 * params.defocus_angle)
    across = half * torch.sin(2.0 * params.defocus_angle)
    defocus = (
        mean.view(view)
        + along.view(view) * torch.cos(azimuth2)
        + across.view(view) * torch.sin(azimuth2)
    )
    quartic = 0.5 * math.pi * params.spherical_aberration * wavelength**3
    offset = params.phase_shift + torch.asin(params.amplitude_contrast)
    phase = (
        (math.pi * wavelength).view(view) * defocus * power
        - quartic.view(view) * power * power
        + offset.view(view)
    )
    envelope = torch.exp(-0.25 * params.b_factor.view(view) * power)
    return torch.sin(phase) * envelope
