"""From raw particle boxes to weighted polar samples."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from cryo2d.geometry.fourier import fourier_resize, smooth_size
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.ctf import ctf_on
from cryo2d.physics.mask import circular_mask, radius_grid
from cryo2d.types import CtfParams, ParticleBatch

PIECE_PIXELS = 1 << 19
"""On a CPU so many pixels go through all steps together: they stay in its caches."""

LANES = 8
"""And a multiple of so many images, which fills the vectors of its arithmetic."""


@dataclass(frozen=True)
class Preprocessor:
    """Raw boxes to polar Fourier samples; done once for each particle.

    The background outside ``background_radius`` gets mean 0 and standard deviation 1 (RELION's
    normalisation), a soft window takes the corners away, the image is Fourier-cropped to the
    working box and sampled on rings. With ``remove_ramp`` the plane through the background goes
    first: a slope of the ice is no noise that is independent from one frequency to the next, and
    the likelihood of an average that has one would count it many times.

    Rings begin at 1/box, so that the DC term itself is no sample; but the window spreads a constant
    over the first rings. With ``ignore_dc`` the mean under the window, ``sum w x / sum w``, goes
    before: F(0) = 0, and a constant added inside the window changes nothing.

    Args:
        grid: polar grid of the working box.
        raw_box: size of the raw images (pixel).
        background_radius: pixels beyond this part of the half box are background.
        window: whether to apply the window.
        window_inner: end of the flat part of the window, as a part of the half box.
        window_outer: end of the soft edge, as a part of the half box.
        invert: whether protein is dark in the raw images.
        ignore_dc: whether the mean under the window is taken away.
        remove_ramp: whether a plane is taken away, and not the mean of the background alone.
    """

    grid: PolarGrid
    raw_box: int
    background_radius: float = 0.9
    window: bool = True
    window_inner: float = 0.85
    window_outer: float = 0.99
    invert: bool = False
    ignore_dc: bool = True
    remove_ramp: bool = False

    @cached_property
    def _background(self) -> Tensor:
        """Weights of the mean over the background ``[y x]``."""
        outside = radius_grid(self.raw_box) > self.background_radius * self.raw_box / 2
        return outside.float() / outside.sum()

    @cached_property
    def _slope(self) -> tuple[Tensor, Tensor]:
        """x and y, and the weights of the background's least-squares slopes ``[2 y x]`` each."""
        axis = torch.arange(self.raw_box, dtype=torch.float64) - self.raw_box // 2
        axes = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
        outside = self._background > 0
        centred = axes - axes[:, outside].mean(1)[:, None, None]
        inside = torch.where(outside, centred, 0.0).flatten(1)
        fit = torch.linalg.solve(inside @ inside.T, inside).view_as(axes)
        return centred.float(), fit.float()

    @cached_property
    def _window(self) -> Tensor:
        if not self.window:
            return torch.ones((self.raw_box, self.raw_box))
        half = self.raw_box / 2
        return circular_mask(self.raw_box, self.window_inner * half, self.window_outer * half)

    @property
    def independent(self) -> float:
        """Share of the Fourier samples that are independent.

        The window scales the noise power of every sample by the mean of its square, and leaves
        that part of the pixels: as many numbers are known.
        """
        return float(self._window.square().mean())

    def normalise(self, images: Tensor) -> Tensor:
        """Images with background flat, its mean 0 and standard deviation 1, protein white."""
        weight = self._background.to(images.device)
        unbiased = 1.0 / (1.0 - 1.0 / (weight > 0).sum())
        centred = images - _mean(images, weight)
        if self.remove_ramp:
            axes, fit = (part.to(images.device).flatten(1) for part in self._slope)
            centred = centred - ((centred.flatten(1) @ fit.T) @ axes).view_as(centred)
        deviation = (unbiased * _mean(centred.square(), weight)).sqrt()
        return centred * ((-1.0 if self.invert else 1.0) / deviation.clamp(min=1e-20))

    def __call__(self, images: Tensor) -> Tensor:
        """Polar samples ``[n a s]`` of raw boxes ``[n y x]``."""
        if images.is_cuda:
            return self._samples(images)
        side = max(self.raw_box, self.grid.padded)
        size = LANES * max(1, PIECE_PIXELS // (LANES * side**2))
        # pieces of one size: what an image becomes does not depend on its company
        *whole, last = images.split(size)
        whole.append(torch.cat((last, last.new_zeros((size - len(last), *last.shape[1:])))))
        return torch.cat([self._samples(piece) for piece in whole])[: len(images)]

    def _samples(self, images: Tensor) -> Tensor:
        window = self._window.to(images.device)
        flat = self.normalise(images)
        if self.ignore_dc:
            flat = flat - _mean(flat, window / window.sum())
        return self.grid.sample(fourier_resize(flat * window, self.grid.box))


def _mean(images: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of each image: ``[n y x]``, ``[y x]`` -> ``[n 1 1]``."""
    return (images.flatten(1) @ weight.flatten())[:, None, None]


Transfer = Callable[[CtfParams, Tensor, Tensor], Tensor]  # as ctf_on


def phase_flip(params: CtfParams, frequency: Tensor, azimuth: Tensor) -> Tensor:
    """Only the sign of the CTF: particles are phase-flipped, amplitudes left as they are."""
    return torch.where(ctf_on(params, frequency, azimuth) < 0, -1.0, 1.0)


def no_ctf(params: CtfParams, frequency: Tensor, azimuth: Tensor) -> Tensor:
    """No correction: negative stain, or particles corrected beforehand."""
    shape = torch.broadcast_shapes(frequency.shape, azimuth.shape)
    return torch.ones((len(params), *shape), device=frequency.device)


TRANSFER: dict[str, Transfer] = {"full": ctf_on, "flip": phase_flip, "none": no_ctf}


@dataclass(frozen=True)
class WeightedImages:
    """Particles as the E-step reads them.

    Attributes:
        index: row of the particle table ``[n]``.
        image: CTF X / sigma^2, polar samples ``[n a s]``.
        transfer: ring means of CTF^2 / sigma^2 ``[n s]``.
        scale: contrast scale alpha ``[n]``.
        half: half-set ``[n]``.
        optics: optics group ``[n]``.
        power: |X|^2 / sigma^2 summed over the independent samples of each ring ``[n s]``.
        precision: 1 / sigma^2, times the share of the samples that are independent ``[n s]``.
    """

    index: Tensor
    image: Tensor
    transfer: Tensor
    scale: Tensor
    half: Tensor
    optics: Tensor
    power: Tensor
    precision: Tensor

    def __getitem__(self, rows: Tensor) -> "WeightedImages":
        """Some of the particles."""
        return WeightedImages(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.half)


def weigh(
    batch: ParticleBatch,
    grid: PolarGrid,
    *,
    pixel_size: float,
    noise: Tensor,
    transfer: Transfer = ctf_on,
    independent: float = 1.0,
) -> WeightedImages:
    """Put CTF and noise onto the images, so that references need neither.

    Sums over the samples are log likelihoods if the samples are independent. Under a window they
    are not, and ``independent`` takes the surplus away: for noise alone the cross term of a pose
    has then the variance of its norm, as it must.

    Args:
        batch: particles.
        grid: polar grid of ``batch.rings``.
        pixel_size: of the working box (Angstrom).
        noise: noise power ``[g s]``.
        transfer: the transfer function to use.
        independent: share of the samples that are independent.
    """
    device = batch.rings.device
    frequency = (grid.radii / (grid.box * pixel_size)).to(device)
    ctf = transfer(batch.ctf, frequency, grid.angles.to(device)[:, None])
    precision = independent / noise[batch.optics]
    samples = torch.view_as_real(batch.rings)
    return WeightedImages(
        index=batch.index,
        image=torch.view_as_complex(samples * (ctf * precision[:, None])[..., None]),
        transfer=(ctf * ctf).mean(1) * precision,
        scale=batch.scale,
        half=batch.half,
        optics=batch.optics,
        power=samples.square().mean(1).sum(-1) * precision * grid.ring_weights.to(device),
        precision=precision,
    )


def working_box(raw_box: int, pixel_size: float, max_resolution: float) -> int:
    """Smallest even, FFT-friendly box that still holds ``max_resolution`` (Angstrom)."""
    needed = math.ceil(2.0 * raw_box * pixel_size / max_resolution - 1e-6)
    return min(raw_box, smooth_size(max(needed, 16)))
