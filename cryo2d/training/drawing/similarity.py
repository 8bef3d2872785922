"""Order in which similar class averages stand side by side."""

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.fft import fft2
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import pdist

ANGLES = 64
"""Samples on the half circle of the polar power spectrum."""

MOST_RINGS = 48
"""Rings of the padded spectrum looked at; finer detail does not decide what looks alike."""

ORDERS = 13
"""Angular orders kept, 0 included (even ones of the full circle: the spectrum is symmetric)."""


def descriptors(averages: np.ndarray, radius: float | None = None) -> np.ndarray:
    """A vector per average that no rotation, mirror or small shift changes.

    The amplitude spectrum |FFT| forgets the shift; on polar rings a rotation is a cyclic shift of
    the angle and a mirror reverses it, and both leave the magnitude of the angular Fourier
    coefficients d[s, m] = |FFT_angle |FFT A|(s, angle)| as it is.

    Args:
        averages: ``[k y x]``.
        radius: only pixels within it are looked at (pixel), with a soft edge; None for the box.

    Returns:
        ``[k d]`` float64, each of unit length, zero for an average without contrast.
    """
    size = averages.shape[-1]
    y, x = np.indices(averages.shape[-2:]) - size // 2
    limit = size / 2 - 1 if radius is None else min(radius, size / 2 - 1)
    edge = max(2.0, 0.1 * limit)
    mask = np.clip((limit + 0.5 * edge - np.hypot(y, x)) / edge, 0.0, 1.0)
    mean = (averages * mask).sum((1, 2), keepdims=True) / mask.sum()
    masked = ((averages - mean) * mask).astype(np.float32)
    rings = np.arange(2, min(max(4, size // 2), MOST_RINGS), dtype=float)
    angle = np.pi * np.arange(ANGLES) / ANGLES
    points = size + rings[:, None] * np.stack([np.sin(angle), np.cos(angle)])[:, None]
    # twice the box: at the few low rings that matter the amplitude has to be sampled finely
    spectra = (np.fft.fftshift(np.abs(fft2(image, s=(2 * size, 2 * size)))) for image in masked)
    polar = np.stack([map_coordinates(one, points, order=1) for one in spectra])
    polar = polar.astype(np.float64)
    # the square root keeps the strong low rings from drowning the rest
    orders = np.abs(np.fft.rfft(np.sqrt(polar), axis=-1))[..., :ORDERS]
    orders[..., 1:] *= 2.0
    weighted = (orders * np.sqrt(rings)[:, None]).reshape(len(averages), -1)
    length = np.linalg.norm(weighted, axis=1, keepdims=True)
    return weighted / np.where(length > 0, length, np.inf)


def similarity_order(
    averages: np.ndarray, counts: np.ndarray, radius: float | None = None
) -> np.ndarray:
    """Class numbers so that neighbours look alike; empty classes come last.

    Average linkage on the descriptors, leaves in the order of least total distance between
    neighbours (Bar-Joseph et al. 2001); the end with the larger classes comes first.

    Args:
        averages: ``[k y x]``.
        counts: particles of each class ``[k]``.
        radius: mask radius (pixel).

    Returns:
        A permutation of the class numbers ``[k]``.
    """
    used = np.flatnonzero(counts > 0)
    empty = np.flatnonzero(counts == 0)
    if len(used) > 2:
        described = descriptors(averages[used], radius)
        described = described - described.mean(0)
        distance = pdist(described)
        order = leaves_list(optimal_leaf_ordering(linkage(distance, "average"), distance))
        used = used[order]
    half = len(used) // 2
    if counts[used[:half]].sum() < counts[used[len(used) - half :]].sum():
        used = used[::-1]
    return np.concatenate([used, empty])
