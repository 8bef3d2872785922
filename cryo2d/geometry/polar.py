"""Polar Fourier samples of images, and their circular harmonics.

A real image ``I`` with centre ``c = box // 2`` has the Fourier transform
``F(k) = 1/box * sum_x I(x) exp(-2 pi i k (x - c))``. It is sampled on rings of radius
``(j + 1) / box`` cycles per pixel at angles ``pi a / num_angles`` on the half circle; the other
half is its complex conjugate. On a ring, ``F(s, phi) = sum_m c_m(s) exp(i m phi)`` with
``c_{-m} = (-1)^m conj(c_m)``: an in-plane rotation is a phase per angular order and needs no
interpolation.

The samples are interpolated from the FFT of the zero-padded image: a sparse matrix, whose
transpose is the adjoint (O'Sullivan 1985, with a cubic kernel).
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_KEYS = -0.5  # free parameter of the cubic convolution kernel: third order (Keys 1981)


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

    def up_to(self, num_rings: int) -> "PolarGrid":
        """The innermost rings, at the same angles."""
        return replace(self, num_rings=num_rings)

    def thinned(self, num_rings: int) -> "PolarGrid":
        """The innermost rings, at every second, fourth .. of the angles if that resolves them."""
        count = self.num_angles
        while count % 4 == 0 and count // 2 >= math.pi * num_rings:
            count //= 2
        return replace(self, num_rings=num_rings, num_angles=count)

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

    def sample(self, images: Tensor) -> Tensor:
        """Polar Fourier samples of images.

        Args:
            images: ``[n y x]`` float32, box by box.

        Returns:
            ``[n a s]`` complex64.
        """
        start = self.padded // 2 - self.box // 2
        after = self.padded - self.box - start
        padded = torch.nn.functional.pad(
            images * _correction(self.box, self.padded).to(images), (start, after, start, after)
        )
        plane = torch.view_as_real(torch.fft.rfft2(padded).flatten(1))
        flat = plane.permute(2, 1, 0).contiguous()
        weights = _interpolation(self, images.device)
        rings = torch.complex(weights.real @ flat[0], weights.imaginary @ flat[1])
        return rings.T.reshape(-1, self.num_angles, self.num_rings)

    def synthesize(self, rings: Tensor) -> Tensor:
        """Images from polar Fourier samples: the quadrature of the inverse Fourier transform.

        This is the adjoint of :meth:`sample` under the inner product of :meth:`inner`, and for
        images that fit into the box and the outermost ring nearly its inverse.

        Args:
            rings: ``[n a s]`` complex64.

        Returns:
            ``[n y x]`` float32.
        """
        count, start = self.padded, self.padded // 2 - self.box // 2
        flat = torch.view_as_real(rings.flatten(1)).permute(2, 1, 0).contiguous()
        weights = _interpolation(self, rings.device)
        plane = torch.complex(weights.real_adjoint @ flat[0], weights.imaginary_adjoint @ flat[1])
        half = plane.T.reshape(-1, count, count // 2 + 1)
        inside = slice(start, start + self.box)
        # columns first: rows outside the box need no transform
        rows = torch.fft.ifft(half, dim=-2, norm="forward")[:, inside]
        padded = torch.fft.irfft(rows, n=count, norm="forward")
        return padded[..., inside] * _correction(self.box, self.padded).to(padded)

    def inner(self, first: Tensor, second: Tensor) -> Tensor:
        """Inner product over the whole Fourier plane ``[...]`` of samples ``[... a s]``."""
        product = (first.conj() * second).real.mean(-2)
        return product @ self.ring_weights.to(product)

    def inner_of_harmonics(
        self, first: Tensor, second: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The same of circular harmonics ``[... m s]``, whose rings may be weighted ``[... s]``."""
        area = self.ring_weights.to(first.device)
        area = area if weight is None else area * weight
        orders = self.harmonic_weights().to(first.device)[:, None]
        return ((orders * (first.conj() * second).real).sum(-2) * area).sum(-1)

    def nearest(self, psi: Tensor) -> Tensor:
        """Rotations (radian) by whole samples of the circle next to the given ones."""
        step = math.pi / self.num_angles
        return (psi / step).round() * step

    def turned(self, rings: Tensor, row: Tensor, psi: Tensor) -> Tensor:
        """Some images, each rotated by whole samples of the circle: nothing is interpolated.

        Args:
            rings: polar samples ``[n a s]``.
            row: image of each rotation ``[p]``.
            psi: rotations as :meth:`nearest` gives them ``[p]`` (radian).

        Returns:
            ``[p a s]``.
        """
        count = self.num_angles
        steps = (psi * (count / math.pi)).round().long()
        place = (torch.arange(count, device=psi.device) - steps[:, None]) % (2 * count)
        sample = row[:, None] * count + place % count
        found = rings.flatten(0, 1).index_select(0, sample.flatten()).unflatten(0, place.shape)
        # the other half of the circle is the complex conjugate
        torch.view_as_real(found)[..., 1] *= torch.where(place < count, 1.0, -1.0)[..., None]
        return found

    def harmonics(
        self, rings: Tensor, turn: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """Circular harmonics c_m, m = 0 .. num_angles - 1: ``[... a s]`` -> ``[... m s]``.

        Args:
            rings: polar samples.
            turn: factor of every order ``[... m 1]``, or None.
            out: where to put them, or None.
        """
        # real and imaginary part have the even and the odd orders: their sum, a real function on
        # the full circle, has both
        count, shape = self.num_angles, rings.shape
        circle = rings.real.new_empty((*shape[:-2], 2 * count, shape[-1]))
        torch.add(rings.real, rings.imag, out=circle[..., :count, :])
        torch.sub(rings.real, rings.imag, out=circle[..., count:, :])
        orders = torch.fft.rfft(circle, dim=-2, norm="forward")[..., :count, :]
        parity = self._parity.to(rings.device)
        return torch.mul(orders, parity if turn is None else parity * turn, out=out)

    def from_harmonics(self, harmonics: Tensor) -> Tensor:
        """Polar samples from circular harmonics, the inverse of :meth:`harmonics`."""
        count = self.num_angles
        orders = harmonics * (0.5 * self._parity.conj()).to(harmonics.device)
        circle = torch.fft.irfft(orders, n=2 * count, dim=-2, norm="forward")
        first, second = circle[..., :count, :], circle[..., count:, :]
        return torch.complex(first + second, first - second)

    @cached_property
    def _parity(self) -> Tensor:
        """1 for even angular orders and i for odd ones ``[m 1]``."""
        return torch.tensor([1.0, 1.0j]).repeat(self.num_angles // 2)[:, None]

    def harmonic_weights(self) -> Tensor:
        """Multiplicity of each angular order ``[m]``: 1 for m = 0, else 2."""
        weights = torch.full((self.num_angles,), 2.0)
        weights[0] = 1.0
        return weights


@lru_cache(maxsize=16)
def _correction(box: int, padded: int) -> Tensor:
    """Real-space factor that undoes the interpolation kernel's envelope ``[y x]``."""
    taps = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    kernel = _cubic_kernel(taps)
    offset = (torch.arange(box, dtype=torch.float64) - box // 2) / padded
    waves = torch.cos(2 * math.pi * offset[:, None] * taps)
    envelope = (waves * kernel).sum(1) * (taps[1] - taps[0])
    return (1.0 / (envelope[:, None] * envelope)).float()


class _Interpolation(NamedTuple):
    """Sparse weights between the half plane of the padded FFT and the samples ``[a*s y*x]``.

    One matrix for the real and one for the imaginary part: a tap in the other half plane reads the
    complex conjugate of its mirror image. The adjoints are their transposes, with the quadrature
    weight of every sample and the multiplicity of every column in an inverse transform.
    """

    real: Tensor
    imaginary: Tensor
    real_adjoint: Tensor
    imaginary_adjoint: Tensor


@lru_cache(maxsize=64)
def _interpolation(grid: PolarGrid, device: torch.device) -> _Interpolation:
    """Weights of a grid; they also bring the centre of the padded box to its corner."""
    count, width = grid.padded, grid.padded // 2 + 1
    tap = torch.arange(-1, 3)
    columns, weights = [], []
    for frequency in grid.frequencies:
        position = (frequency.double() * count).flatten()
        first = position.floor()
        columns.append(first.long()[:, None] + tap)
        weights.append(_cubic_kernel(position[:, None] - (first[:, None] + tap)))
    x, y = columns[0][:, None, :], columns[1][:, :, None]  # [a*s y-tap x-tap]
    # a shift by half the padded box is a checkerboard of signs
    sign = 1.0 - 2.0 * ((x + y) % 2)
    mirrored = (x % count >= width).expand(-1, 4, 4)
    x, y = torch.where(mirrored, -x, x) % count, torch.where(mirrored, -y, y) % count
    weight = (sign * weights[1][:, :, None] * weights[0][:, None, :]).float().flatten() / grid.box
    row = torch.arange(len(x)).repeat_interleave(16)
    index = torch.stack((row, (y * width + x).flatten()))
    size = (len(x), count * width)
    imaginary = torch.where(mirrored.flatten(), -weight, weight)
    matrices = [_csr(index, values, size) for values in (weight, imaginary)]
    area = (grid.ring_weights / grid.num_angles).repeat(grid.num_angles)[row]
    # an inverse transform counts columns 1 .. count/2 - 1 twice, once for each half plane
    once = ((x == 0) | (x == count // 2)).expand(-1, 4, 4).flatten()
    area *= torch.where(once, 1.0, 0.5)
    adjoints = [_csr(index.flip(0), area * values, size[::-1]) for values in (weight, imaginary)]
    return _Interpolation(*(matrix.to(device) for matrix in (*matrices, *adjoints)))


def _csr(index: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Sparse matrix in compressed rows, which needs no conversion at every product."""
    entries = torch.sparse_coo_tensor(index, values, size, check_invariants=False).coalesce()
    rows, columns = entries.indices()
    starts = torch.searchsorted(rows, torch.arange(size[0] + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            starts.int(), columns.int(), entries.values(), size, check_invariants=False
        )
