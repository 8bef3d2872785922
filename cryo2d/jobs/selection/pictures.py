"""Pictures for the page: all averages on one sheet, the particles of a class on another."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import affine_transform

from cryo2d.geometry.fourier import fourier_resize
from cryo2d.physics.mask import radius_grid
from cryo2d.physics.preprocess import TRANSFER
from cryo2d.training.drawing.montage import grey_levels
from cryo2d.training.drawing.style import image_png
from cryo2d.types import CtfParams

TILE, MANY_TILE, MANY = 192, 128, 120
"""Edge of an average on the sheet (pixel), and of one among many classes."""

PARTICLE = 128
"""Edge of a particle on its sheet (pixel)."""

EDGE = 1.2
"""End of the soft edge of the mask as a part of its radius."""

LOW_PASS = 20.0
"""Single particles show little beyond this resolution (Angstrom)."""

WIENER = 0.1
SPREAD = 3.0


@dataclass(frozen=True)
class Sheet:
    """Tiles of one size, row by row.

    Attributes:
        png: the picture.
        tile: edge of a tile (pixel).
        columns: tiles in a row.
        box: pixels of the images along the edge of a tile.
    """

    png: bytes
    tile: int
    columns: int
    box: int


def average_sheet(averages: np.ndarray, radius: float | None = None) -> Sheet:
    """All averages ``[k y x]`` on one sheet, each on a grey scale of its own.

    Args:
        averages: protein white.
        radius: of the mask in which the contrast is measured (pixel); what lies beyond its soft
            edge is plain solvent and is left out, so that the particles are shown large.
    """
    count, size = averages.shape[:2]
    tile = TILE if count <= MANY else MANY_TILE
    columns = int(np.ceil(np.sqrt(count)))
    half = size // 2 if radius is None else min(size // 2, int(np.ceil(EDGE * radius)))
    inside = slice(size // 2 - half, size // 2 + half)
    levels = grey_levels(averages, radius)[:, inside, inside]
    return Sheet(sheet_png(levels, tile, columns), tile, columns, 2 * half)


def sheet_png(levels: np.ndarray, tile: int, columns: int) -> bytes:
    """Images ``[n y x]``, black at 0 and white at 1, as tiles of one grey picture."""
    rows = -(-len(levels) // columns)
    canvas = np.zeros((rows * tile, columns * tile), np.uint8)
    for i, image in enumerate(levels):
        top, left = i // columns * tile, i % columns * tile
        resized = Image.fromarray(image).resize((tile, tile), Image.Resampling.BICUBIC)
        grey = np.clip(np.asarray(resized) * 255.0, 0, 255)
        canvas[top : top + tile, left : left + tile] = grey.astype(np.uint8)
    return image_png(canvas)


def aligned(images: np.ndarray, psi: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Particles taken into the frame of their class, y = R(psi) (x + t); zero beyond the box.

    Args:
        images: ``[n y x]``.
        psi: ``[n]`` (radian).
        shift: x and y ``[n 2]`` (pixel).
    """
    centre = images.shape[-1] // 2
    moved = np.empty_like(images)
    for i, image in enumerate(images):
        cosine, sine = np.cos(psi[i]), np.sin(psi[i])
        # of (row, column): where a pixel of the class lies in the particle, x = R(-psi) y - t
        back = np.array([[cosine, -sine], [sine, cosine]])
        offset = centre - back @ (centre, centre) - shift[i, ::-1]
        affine_transform(image, back, offset, output=moved[i], order=3, mode="constant")
    return moved


def filtered(
    images: np.ndarray, ctf: CtfParams | None, pixel_size: float, correction: str
) -> np.ndarray:
    """Particles corrected for the CTF and low-passed, as the eye wants them ``[n y x]``.

    F = X CTF / (CTF^2 + w) exp(-(d s)^2 log(2)), d the resolution at half height.

    Args:
        images: ``[n y x]``.
        ctf: of the particles, or None for no correction.
        pixel_size: (Angstrom).
        correction: the transfer function of the run, a key of ``TRANSFER``.
    """
    box = images.shape[-1]
    fy = torch.fft.fftfreq(box, pixel_size)[:, None].expand(box, box // 2 + 1)
    fx = torch.fft.rfftfreq(box, pixel_size).expand(box, -1)
    low_pass = torch.exp(-(LOW_PASS**2) * (fx * fx + fy * fy) * np.log(2.0))
    spectrum = torch.fft.rfft2(torch.from_numpy(images)) * low_pass
    if ctf is not None:
        transfer = TRANSFER[correction](ctf, torch.hypot(fx, fy), torch.atan2(fy, fx))
        spectrum = spectrum * transfer / (transfer.square() + WIENER)
    return torch.fft.irfft2(spectrum, s=(box, box)).numpy()


def normalised(images: np.ndarray, box: int, sign: float = 1.0) -> np.ndarray:
    """Raw boxes with background mean 0 and deviation 1, protein white, not larger than ``box``."""
    pixels = torch.from_numpy(images)
    border = pixels[:, radius_grid(pixels.shape[-1]) > 0.45 * pixels.shape[-1]]
    mean, deviation = border.mean(1), border.std(1).clamp(min=1e-20)
    flat = sign * (pixels - mean[:, None, None]) / deviation[:, None, None]
    return fourier_resize(flat, min(box, flat.shape[-1])).numpy()


def member_levels(images: np.ndarray) -> np.ndarray:
    """Particles on one grey scale for all of them, black at 0 and white at 1 ``[n y x]``."""
    size = images.shape[-1]
    inside = (radius_grid(size) < 0.45 * size).numpy()
    pixels = images[:, inside]
    middle, spread = np.median(pixels), max(float(pixels.std()), 1e-20)
    return (0.5 + 0.5 * (images - middle) / (SPREAD * spread)).astype(np.float32)
