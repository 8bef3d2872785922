"""Images in other boxes and at other places, through their Fourier transforms."""

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


def fourier_resize(images: Tensor, box: int) -> Tensor:
    """Images resampled to another box: high frequencies are dropped, or are 0 in a larger one.

    The centre stays on pixel ``box // 2`` and the mean of the image is kept. The Nyquist row and
    column of an even box are dropped: their sign is not determined.

    Args:
        images: ``[n y x]`` float32.
        box: new size.

    Returns:
        ``[n box box]``.
    """
    old = images.shape[-1]
    if box == old:
        return images
    keep = (min(box, old) - 1) // 2
    # rows first: what is dropped along x needs no transform along y
    spectrum = torch.fft.fft(torch.fft.rfft(images)[..., : keep + 1], dim=-2)
    small = spectrum.new_zeros((*images.shape[:-2], box, box // 2 + 1))
    small[..., : keep + 1, : keep + 1] = spectrum[..., : keep + 1, :]
    small[..., -keep:, : keep + 1] = spectrum[..., -keep:, :]
    offset = old // 2 / old - box // 2 / box
    if offset:
        # the centre of an odd box is not half of it
        fy = torch.fft.fftfreq(box, 1 / box, device=images.device)[:, None]
        turn = 2.0 * torch.pi * offset * (fy + torch.arange(box // 2 + 1, device=images.device))
        small *= torch.complex(turn.cos(), turn.sin())
    return torch.fft.irfft2(small, s=(box, box)) * (box / old) ** 2


def fourier_shift(images: Tensor, shift: Tensor) -> Tensor:
    """Images ``[... n y x]`` moved by ``shift`` ``[n 2]`` (pixel, right and down), periodically."""
    box = images.shape[-1]
    fy = torch.fft.fftfreq(box, device=images.device)[:, None]
    fx = torch.fft.rfftfreq(box, device=images.device)
    along_x = -2.0 * torch.pi * shift[:, 0, None, None] * fx
    along_y = -2.0 * torch.pi * shift[:, 1, None, None] * fy
    phase_x, phase_y = (torch.complex(turn.cos(), turn.sin()) for turn in (along_x, along_y))
    return torch.fft.irfft2(torch.fft.rfft2(images) * phase_y * phase_x, s=(box, box))


def on_half_plane(radial: Tensor, box: int) -> Tensor:
    """Radial functions on the half plane of a real transform, interpolated ``[... y x/2+1]``.

    Args:
        radial: values at 0, 1, 2 .. cycles per box ``[... s]``; the last one goes on for ever.
        box: size of the images.
    """
    fy = torch.fft.fftfreq(box, 1.0 / box, device=radial.device)[:, None]
    fx = torch.fft.rfftfreq(box, 1.0 / box, device=radial.device)
    last = radial.shape[-1] - 1
    radius = torch.sqrt(fy**2 + fx**2).clamp(max=last)
    below = radius.long().clamp(max=last - 1)
    return torch.lerp(radial[..., below], radial[..., below + 1], radius - below)


def ring_filter(images: Tensor, weights: Tensor) -> Tensor:
    """Images ``[... y x]`` with a weight ``[... s]`` on each ring 1, 2 .. cycles per box."""
    box = images.shape[-1]
    radial = torch.cat((weights[..., :1], weights), dim=-1)
    return torch.fft.irfft2(torch.fft.rfft2(images) * on_half_plane(radial, box), s=(box, box))
