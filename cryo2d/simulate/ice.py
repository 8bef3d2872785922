"""What surrounds the molecules: noise of ice and detector, uneven background, normalisation."""

import torch
from torch import Generator, Tensor

# Of the noise power: uncorrelated electrons, inelastic haze at long wavelengths, and vitreous ice,
# which the lens images like the protein. Frequencies in 1/Angstrom.
_HAZE_POWER, _HAZE_FREQUENCY = 4.0, 0.008
_ICE_POWER, _ICE_FREQUENCY, _ICE_WIDTH = 0.8, 0.27, 0.20
_DETECTOR_FREQUENCY = 0.9

# Particles are normalised on the corners outside this share of half the box.
_BACKGROUND_RADIUS = 0.92


def noise_power(fx: Tensor, fy: Tensor, ctf: Tensor, pixel_size: float, haze: Tensor) -> Tensor:
    """Power of the noise at each frequency, mean 1 over the frequencies given.

    P(s) = [1 + h H / (1 + (s / s_h)^2) + I CTF(s)^2 exp(-(s - s_i)^2 / (2 w^2))] M(s)^2
    with H = 4, s_h = 1/125 A (inelastic haze, h the optics group's strength), I = 0.8,
    s_i = 1/3.7 A, w = 0.2/A (the ring of vitreous ice with its long tail, so Thon rings show) and
    M(s) = exp(-(s d / 0.9)^2), d the pixel size (the detector's transfer of the signal's noise).

    Args:
        fx: frequency along columns (1/Angstrom), ``[y x]``, all frequencies, not half of them.
        fy: frequency along rows.
        ctf: at these frequencies, ``[n y x]``.
        pixel_size: Angstrom.
        haze: strength of the haze, ``[n]``.

    Returns:
        ``[n y x]``.
    """
    s = torch.hypot(fx, fy)
    hazy = _HAZE_POWER / (1.0 + (s / _HAZE_FREQUENCY).square())
    ice = _ICE_POWER * torch.exp(-0.5 * ((s - _ICE_FREQUENCY) / _ICE_WIDTH).square())
    detector = torch.exp(-2.0 * (s * pixel_size / _DETECTOR_FREQUENCY).square())
    power = (1.0 + haze[:, None, None] * hazy + ctf.square() * ice) * detector
    return power / power.mean(dim=(1, 2), keepdim=True)


def ramp(number: int, box: int, strength: float, generator: Generator) -> Tensor:
    """Linear background in a random direction, ``[n y x]``; its standard deviation ~ strength."""
    slope = strength * torch.randn(number, 2, 1, generator=generator)
    axis = (torch.arange(box) - box // 2) * (12.0**0.5 / box)
    return (slope[:, 0] * axis)[:, None, :] + (slope[:, 1] * axis)[:, :, None]


def normalise(images: Tensor) -> Tensor:
    """Images whose background, outside a circle, has mean 0 and standard deviation 1."""
    axis = torch.arange(images.shape[-1]) - images.shape[-1] // 2
    radius = torch.hypot(*torch.meshgrid(axis.float(), axis.float(), indexing="ij"))
    background = images[:, radius > _BACKGROUND_RADIUS * 0.5 * images.shape[-1]]
    mean, deviation = background.mean(1), background.std(1)
    return (images - mean[:, None, None]) / deviation[:, None, None]
