"""Slow and obvious versions of what the package computes, and pictures that are known exactly.

Everything is double precision and by definition: sums over pixels instead of fast transforms,
loops over classes, rotations and shifts instead of matrix products.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotation_phase, shift_phase
from cryo2d.physics.ctf import ctf_at
from cryo2d.types import CtfParams

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

# x, y, standard deviation and height, in parts of the box: no symmetry, no mirror symmetry
PICTURES = (
    ((-0.16, -0.10, 0.050, 1.0), (0.15, -0.06, 0.040, 0.8), (0.02, 0.17, 0.060, 0.7)),
    ((0.00, -0.18, 0.045, 1.0), (0.00, 0.02, 0.045, 0.9), (0.13, 0.13, 0.055, 0.8)),
    ((-0.12, 0.12, 0.060, 0.9), (0.12, 0.12, 0.040, 1.0), (0.12, -0.14, 0.040, 0.6)),
    ((0.00, 0.00, 0.090, 0.7), (0.19, 0.02, 0.035, 1.0), (-0.05, -0.18, 0.040, 0.9)),
)


def turn(psi: float) -> Array:
    """R(psi) on (column, row)."""
    return np.array([[math.cos(psi), -math.sin(psi)], [math.sin(psi), math.cos(psi)]])


def picture(
    box: int, which: int = 0, psi: float = 0.0, shift: Sequence[float] = (0.0, 0.0)
) -> Array:
    """A class average as the particle with pose ``psi`` and ``shift`` (pixel) shows it ``[y x]``.

    The pose takes the particle into the class, y = R(psi) (x + t): a blob at y in the class lies at
    x = R(-psi) y - t in the particle.
    """
    row, column = np.indices((box, box)) - box // 2
    image = np.zeros((box, box))
    for x, y, width, height in PICTURES[which]:
        cx, cy = turn(-psi) @ (box * np.array([x, y])) - np.asarray(shift)
        square = (column - cx) ** 2 + (row - cy) ** 2
        image += height * np.exp(-square / (2.0 * (width * box) ** 2))
    return image


def pictures(box: int, count: int = len(PICTURES)) -> torch.Tensor:
    """The first class averages ``[k y x]`` float32."""
    return torch.from_numpy(np.stack([picture(box, k) for k in range(count)])).float()


def fourier(image: Array, fx: Array, fy: Array) -> Complex:
    """F(f) = 1/box sum_x I(x) exp(-2 pi i f.(x - centre)), pixel by pixel; f in 1/pixel."""
    box = len(image)
    out = np.zeros(fx.shape, dtype=complex)
    for row in range(box):
        for column in range(box):
            phase = fx * (column - box // 2) + fy * (row - box // 2)
            out += image[row, column] * np.exp(-2j * math.pi * phase)
    return out / box


def frequencies(grid: PolarGrid) -> tuple[Array, Array]:
    """x and y frequency of the polar samples ``[a s]`` (1/pixel)."""
    angle = np.arange(grid.num_angles) * math.pi / grid.num_angles
    radius = np.arange(1, grid.num_rings + 1) / grid.box
    return np.outer(np.cos(angle), radius), np.outer(np.sin(angle), radius)


def polar(image: Array, grid: PolarGrid) -> Complex:
    """Polar Fourier samples ``[a s]`` of an image."""
    return fourier(np.asarray(image, dtype=float), *frequencies(grid))


def seen(average: Array, psi: float, shift: Sequence[float], grid: PolarGrid) -> Complex:
    """Samples ``[a s]`` of a class average in the frame of a particle.

    I(x) = A(R(psi) (x + t)) has the transform exp(2 pi i f.t) F_A(R(psi) f).
    """
    fx, fy = frequencies(grid)
    rotated = np.einsum("ij,jas->ias", turn(psi), np.stack([fx, fy]))
    phase = np.exp(2j * math.pi * (fx * shift[0] + fy * shift[1]))
    return phase * fourier(np.asarray(average, dtype=float), *rotated)


def form(
    grid: PolarGrid, harmonics: torch.Tensor, psi: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Samples ``[n a s]`` of classes in the frames of particles, by any harmonics ``[n m s]``.

    What ``cryo2d.physics.image.adjoint`` is the adjoint of: a rotation by ``-psi`` ``[n]``, then a
    shift by ``-shift`` ``[n 2]``.
    """
    turned = harmonics * rotation_phase(-psi, harmonics.shape[-2])
    return grid.from_harmonics(turned) * shift_phase(grid, -shift)


def taken(
    particle: Array,
    ctf: CtfParams | None,
    pixel_size: float,
    psi: float,
    shift: Sequence[float],
    grid: PolarGrid,
) -> Complex:
    """Samples ``[a s]`` of CTF times a particle, taken into the frame of its class.

    Value at f of the class: exp(-2 pi i q.t) CTF(q) F(q) at the particle's frequency q = R(-psi) f.
    """
    fx, fy = np.einsum("ij,jas->ias", turn(-psi), np.stack(frequencies(grid)))
    out = fourier(np.asarray(particle, dtype=float), fx, fy)
    out *= np.exp(-2j * math.pi * (fx * shift[0] + fy * shift[1]))
    return out if ctf is None else out * transfer(ctf, fx / pixel_size, fy / pixel_size)


def transfer(ctf: CtfParams, fx: Array, fy: Array) -> Array:
    """CTF of one particle at frequencies in 1/Angstrom."""
    return ctf_at(ctf, torch.from_numpy(fx), torch.from_numpy(fy))[0].double().numpy()


def plane_sum(values: Array | Complex) -> float | complex:
    """Sum over the Fourier plane of values ``[a s]``: every sample stands for its arc of a ring."""
    num_angles, num_rings = values.shape
    arc = 2.0 * math.pi * np.arange(1, num_rings + 1) / num_angles
    return (values * arc).sum()


def chi2(samples: Complex, model: Complex, noise: Array) -> float:
    """sum |X - model|^2 / sigma^2 over the plane; ``noise`` ``[s]``, infinite outside a band."""
    return float(plane_sum(np.abs(samples - model) ** 2 / noise))


def search(
    samples: Complex,
    ctf: Array,
    alpha: float,
    averages: Sequence[Array],
    grid: PolarGrid,
    noise: Array,
    psis: Sequence[float],
    shifts: Sequence[Sequence[float]],
) -> Array:
    """chi-squared of every class, rotation and shift ``[k r t]``."""
    out = np.zeros((len(averages), len(psis), len(shifts)))
    fx, fy = frequencies(grid)
    for k, average in enumerate(averages):
        for r, psi in enumerate(psis):
            still = seen(average, psi, (0.0, 0.0), grid)
            for t, (x, y) in enumerate(shifts):
                model = alpha * ctf * still * np.exp(2j * math.pi * (fx * x + fy * y))
                out[k, r, t] = chi2(samples, model, noise)
    return out


def posterior(errors: Array, uncertainty: float = 1.0, prior: Array | None = None) -> Array:
    """p_k ~ prior_k exp(-chi2_k / (2 f^2)) for one particle ``[k]``."""
    weight = np.exp(-(errors - errors.min()) / (2.0 * uncertainty**2))
    weight = weight if prior is None else weight * prior
    return weight / weight.sum()


def frc(first: Complex, second: Complex) -> Array:
    """Fourier ring correlation of samples ``[a s]``, ring by ring."""
    out = np.zeros(first.shape[1])
    for ring in range(first.shape[1]):
        one, two = first[:, ring], second[:, ring]
        power = (np.abs(one) ** 2).sum() * (np.abs(two) ** 2).sum()
        out[ring] = (one.conj() * two).real.sum() / math.sqrt(power) if power > 0 else 0.0
    return out


def wiener(num: Complex, den: Array, ssnr: Array) -> Complex:
    """Minimum of sum den |A - num/den|^2 + |A|^2 / tau, tau = ssnr / den: num / (den + 1/tau)."""
    return num / (den + den / ssnr)


def microscope(count: int, astigmatism: float = 600.0) -> CtfParams:
    """CTF parameters of some particles, all different."""
    part = torch.linspace(0.0, 1.0, count)
    return CtfParams(
        defocus_u=9000.0 + 9000.0 * part + 0.5 * astigmatism,
        defocus_v=9000.0 + 9000.0 * part - 0.5 * astigmatism,
        defocus_angle=-1.0 + 2.0 * part,
        voltage=torch.full((count,), 300.0),
        spherical_aberration=torch.full((count,), 2.7e7),
        amplitude_contrast=torch.full((count,), 0.1),
        phase_shift=torch.zeros(count),
        b_factor=torch.full((count,), 30.0),
    )


def rebuilt(images: Array, ctf: CtfParams, pixel_size: float, psi: Array, shift: Array) -> Array:
    """Average ``[y x]`` of particles ``[n y x]`` by their poses, pixel by pixel.

    The class shows at y what a particle has at x = R(-psi) y - t. CTF times particle, so taken into
    the class and added up, over the sum of the squared CTFs, turned alike.
    """
    box = images.shape[-1]
    axis = np.fft.fftfreq(box, pixel_size)
    fx, fy = np.meshgrid(axis, axis)
    row, column = np.indices((box, box)) - box // 2
    total, weight = np.zeros((box, box)), np.zeros((box, box))
    for i, image in enumerate(images):
        spectrum = transfer(ctf[i : i + 1], fx, fy)
        filtered = np.fft.ifft2(np.fft.fft2(image) * spectrum).real
        back = turn(-psi[i])
        x, y = np.einsum("ij,jyx->iyx", back, np.stack([column, row])) - shift[i][:, None, None]
        places = np.stack([y, x]) + box // 2
        total += map_coordinates(filtered, places, order=3, mode="nearest")
        weight += transfer(ctf[i : i + 1], *np.einsum("ij,jyx->iyx", back, np.stack([fx, fy]))) ** 2
    weight += 1e-2 * weight.max()
    return np.fft.ifft2(np.fft.fft2(total) / weight).real
