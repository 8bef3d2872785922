"""Polar Fourier samples of images, and their circular harmonics.

A real image ``I`` with centre ``c = box // 2`` has the Fourier transform
``F(k) = 1/box * sum_x I(x) exp(-2 pi i k (x - c))``. It is sampled on rings of radius
``(j + 1) / box`` cycles per pixel at angles ``pi a / num_angles`` on the half circle; the other half
is its complex conjugate. On a ring, ``F(s, phi) = sum_m c_m(s) exp(i m phi)`` with
``c_{-m} = (-1)^m conj(c_m)``: an in-plane rotation is a phase per angular order and needs no
interpolation.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_KEYS = -0.75  # free parameter of torch's bicubic kernel (Keys 1981)
_MARGIN = 3  # rows and columns that the 4-tap kernel needs beyond the outermost ring


def _cubic_kernel(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel at absolute distances below 2 samples."""
    d = distance.abs()
    near = (_KEYS + 2) * d**3 - (_KEYS + 3) * d**2 + 1
    far = _KEYS * d**3 - 5 * _KEYS * d**2 + 8 * _KEYS * d - 4 * _KEYS
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def even_size(value: float, multiple: int = 8) -> int:
    """Smallest multiple that is not below a value."""
    return multiple * math.ceil(value / multiple - 1e-9)


@dataclass(frozen=True)
class PolarGrid:
    """Rings of polar Fourier samples of square images.

    Args:
        box: image size in pixels.
        num_rings: rings 1 .. num_rings, in units of 1/box cycles per pixel; at most ``box // 2``.
        num_angles: samples on the half circle, even; default resolves the whole box.
        padding: zero-padding factor of the images before they are sampled (1 or more).
    """

    box: int
    num_rings: int
    num_angles: int = 0
    padding: float = 2.0

    def __post_init__(self) -> None:
        assert 1 <= self.num_rings <= self.box // 2
        if self.num_angles == 0:
            object.__setattr__(self, "num_angles", even_size(math.pi * self.num_rings))
        assert self.num_angles % 2 == 0

    @cached_property
    def padded(self) -> int:
        """Size of the zero-padded box."""
        return even_size(self.box * self.padding, 4)

    @cached_property
    def angles(self) -> Tensor:
        """Azimuth of the samples ``[a]`` (radian)."""
        return torch.arange(self.num_angles) * (math.pi / self.num_angles)

    @cached_property
    def radii(self) -> Tensor:
        """Ring radii ``[s]`` (cycles per box)."""
        return torch.arange(1, self.num_rings + 1, dtype=torch.float32)

    @cached_property
    def frequencies(self) -> tuple[Tensor, Tensor]:
        """x and y frequency of every sample, ``[a s]`` each (cycles per pixel)."""
        radius = self.radii / self.box
        return torch.cos(self.angles)[:, None] * radius, torch.sin(self.angles)[:, None] * radius

    @cached_property
    def ring_weights(self) -> Tensor:
        """Area of each ring ``[s]``: sum_s weight * mean over angles ~ sum over the whole plane."""
        return 2.0 * math.pi * self.radii

    @cached_property
    def _lookup(self) -> Tensor:
        """Positions of the samples in the cropped half plane for grid_sample ``[a s 2]``."""
        scale = self.padded / self.box
        fx, fy = (f * self.box * scale for f in self.frequencies)
        reach = math.ceil(self.num_rings * scale) + _MARGIN
        x = fx / reach
        y = 2.0 * (fy + _MARGIN) / (reach + _MARGIN) - 1.0
        return torch.stack((x, y), dim=-1)

    @cached_property
    def _correction(self) -> Tensor:
        """Real-space factor that undoes the interpolation kernel's envelope ``[y x]``."""
        taps = torch.linspace(-2, 2, 4001, dtype=torch.float64)
        kernel = _cubic_kernel(taps)
        offset = (torch.arange(self.box, dtype=torch.float64) - self.box // 2) / self.padded
        waves = torch.cos(2 * math.pi * offset[:, None] * taps)
        envelope = (waves * kernel).sum(1) * (taps[1] - taps[0])
        return (1.0 / (envelope[:, None] * envelope)).float()

    def _padded_image(self, images: Tensor) -> Tensor:
        """Zero-padded image with its centre on pixel (0, 0), the first step of sampling."""
        box, padded = self.box, self.padded
        start = padded // 2 - box // 2
        after = padded - box - start
        corrected = images * self._correction.to(images)
        return torch.fft.ifftshift(
            torch.nn.functional.pad(corrected, (start, after, start, after)), dim=(-2, -1)
        )

    def sample(self, images: Tensor) -> Tensor:
        """Polar Fourier samples of images.

        Args:
            images: ``[n y x]`` float32, box by box.

        Returns:
            ``[n a s]`` complex64.
        """
        half = torch.fft.rfft2(self._padded_image(images), dim=(-1, -2)) / self.box
        reach = math.ceil(self.num_rings * self.padded / self.box) + _MARGIN
        column = torch.arange(-reach, reach + 1, device=images.device) % self.padded
        plane = half[..., column]
        # F(kx, -ky) = conj F(-kx, ky): the few rows that the kernel touches below zero and, by
        # periodicity, beyond Nyquist
        mirror = plane.flip(2).conj()
        nyquist = self.padded // 2
        below = mirror[:, 1 : _MARGIN + 1].flip(1)
        beyond = mirror[:, max(self.padded - reach, 0) : nyquist].flip(1)
        rows = torch.cat((below, plane[:, : min(reach, nyquist) + 1], beyond), dim=1)
        channels = torch.view_as_real(rows).permute(0, 3, 1, 2)
        lookup = self._lookup.to(images.device).expand(len(images), -1, -1, -1)
        out = torch.nn.functional.grid_sample(
            channels, lookup, mode="bicubic", padding_mode="zeros", align_corners=True
        )
        return torch.view_as_complex(out.permute(0, 2, 3, 1).contiguous())

    def synthesize(self, rings: Tensor) -> Tensor:
        """Images from polar Fourier samples: the quadrature of the inverse Fourier transform.

        This is the adjoint of :meth:`sample` under the inner product of :meth:`inner`, and for
        images that fit into the box and the outermost ring nearly its inverse.

        Args:
            rings: ``[n a s]`` complex64.

        Returns:
            ``[n y x]`` float32.
        """
        weighted = rings * (self.ring_weights.to(rings.device) / self.num_angles)
        blank = torch.zeros((len(rings), self.box, self.box), device=rings.device)
        pull = torch.func.vjp(self.sample, blank)[1]
        return pull(weighted)[0]

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Inner product over the whole Fourier plane ``[...]`` of samples ``[... a s]``."""
        product = (first.conj() * second).real.mean(-2)
        return product @ self.ring_weights.to(product)

    def harmonics(self, rings: Tensor) -> Tensor:
        """Circular harmonics c_m, m = 0 .. num_angles - 1: ``[... a s]`` -> ``[... m s]``."""
        half = self.num_angles // 2
        even = torch.fft.rfft(rings.real, dim=-2)[..., :half, :]
        turn = torch.exp(-1j * self.angles.to(rings.device))[:, None]
        odd = 1j * torch.fft.fft(rings.imag * turn, dim=-2)[..., :half, :]
        both = torch.stack((even, odd), dim=-2) / self.num_angles
        return both.flatten(-3, -2)

    def from_harmonics(self, harmonics: Tensor) -> Tensor:
        """Polar samples from circular harmonics, the inverse of :meth:`harmonics`."""
        count = self.num_angles
        even, odd = harmonics[..., 0::2, :], harmonics[..., 1::2, :]
        real = torch.fft.irfft(even, n=count, dim=-2) * count
        turn = torch.exp(1j * self.angles.to(harmonics.device))[:, None]
        imaginary = 2.0 * (turn * torch.fft.ifft(odd, n=count, dim=-2)).imag * count
        return torch.complex(real, imaginary)

    def harmonic_weights(self) -> Tensor:
        """Multiplicity of each angular order ``[m]``: 1 for m = 0, else 2."""
        weights = torch.full((self.num_angles,), 2.0)
        weights[0] = 1.0
        return weights
