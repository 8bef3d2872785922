"""Fourier cropping of images."""

import torch
from torch import Tensor


def smooth_size(value: int) -> int:
    """Smallest even size not below ``value`` with no prime factor above 7."""
    size = value + value % 2
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def fourier_crop(images: Tensor, box: int) -> Tensor:
    """Images resampled to a smaller box by dropping high frequencies.

    The centre stays on pixel ``box // 2`` and the mean of the image is kept. The Nyquist row and
    column of an even box are dropped: their sign is not determined.

    Args:
        images: ``[n y x]`` float32.
        box: new size, not above the old one.

    Returns:
        ``[n box box]``.
    """
    old = images.shape[-1]
    if box == old:
        return images
    assert box < old
    centred = torch.fft.ifftshift(images, dim=(-2, -1))
    keep = (box - 1) // 2
    spectrum = torch.fft.rfft2(centred)
    small = spectrum.new_zeros((*images.shape[:-2], box, box // 2 + 1))
    small[..., : keep + 1, : keep + 1] = spectrum[..., : keep + 1, : keep + 1]
    small[..., -keep:, : keep + 1] = spectrum[..., -keep:, : keep + 1]
    cropped = torch.fft.irfft2(small, s=(box, box)) * (box / old) ** 2
    return torch.fft.fftshift(cropped, dim=(-2, -1))


def fourier_shift(images: Tensor, shift: Tensor) -> Tensor:
    """Images ``[n y x]`` moved by ``shift`` ``[n 2]`` (pixel, x right, y down), periodically."""
    box = images.shape[-1]
    fy = torch.fft.fftfreq(box, device=images.device)[:, None]
    fx = torch.fft.rfftfreq(box, device=images.device)
    turn = -2.0 * torch.pi * (shift[:, 0, None, None] * fx + shift[:, 1, None, None] * fy)
    moved = torch.fft.rfft2(images) * torch.complex(turn.cos(), turn.sin())
    return torch.fft.irfft2(moved, s=(box, box))
