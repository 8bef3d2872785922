"""Small particle sets whose poses are known, as the E-step reads them."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from reference import frequencies, microscope, picture, pictures, transfer
from torch import Tensor

from cryo2d.data.cache import ParticleCache
from cryo2d.em.fine import Poses
from cryo2d.em.search import PoseSearch
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.ctf import ctf_at
from cryo2d.physics.mask import circular_mask
from cryo2d.physics.preprocess import WeightedImages, weigh
from cryo2d.physics.solvent import SolventMask
from cryo2d.types import CtfParams, ParticleBatch

PIXEL = 3.0


@dataclass(frozen=True)
class Synthetic:
    """Particles that show the pictures of the oracle.

    Attributes:
        grid: polar grid.
        images: windowed particles in real space ``[n y x]``.
        raw: the same without the window.
        sigma2: power of the noise on every ring.
        classes: picture that each particle shows ``[n]``.
        psi: its rotation image -> class ``[n]`` (radian).
        shift: its shift image -> class ``[n 2]`` (pixel).
        ctf: its CTF.
        scale: its contrast ``[n]``.
    """

    grid: PolarGrid
    images: Tensor
    raw: Tensor
    sigma2: float
    classes: Tensor
    psi: Tensor
    shift: Tensor
    ctf: CtfParams
    scale: Tensor

    @property
    def averages(self) -> Tensor:
        """The pictures ``[k y x]``."""
        return pictures(self.grid.box, int(self.classes.max()) + 1)

    @property
    def half(self) -> Tensor:
        """Half-sets, alternating among the particles of a class."""
        return (torch.arange(len(self.classes)) // (int(self.classes.max()) + 1)) % 2

    def noise(self, device: torch.device, groups: int = 1) -> Tensor:
        """True noise power ``[g s]``."""
        return torch.full((groups, self.grid.num_rings), self.sigma2, device=device)

    def batch(self, device: torch.device) -> ParticleBatch:
        """All particles, contrast scale 1."""
        count = len(self.images)
        return ParticleBatch(
            index=torch.arange(count, device=device),
            rings=self.grid.sample(self.images.to(device)),
            ctf=self.ctf.to(device),
            optics=torch.zeros(count, dtype=torch.int64, device=device),
            half=self.half.to(device),
            scale=torch.ones(count, device=device),
        )

    def weighted(self, device: torch.device, scaled: bool = False) -> WeightedImages:
        """All particles with the true noise, contrast scale 1 or the true one."""
        batch = self.batch(device)
        if scaled:
            batch = dataclasses.replace(batch, scale=self.scale.to(device))
        return weigh(batch, self.grid, pixel_size=PIXEL, noise=self.noise(device))

    def observed(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Polar samples ``[a s]`` of a particle, and of its CTF."""
        fx, fy = (f / PIXEL for f in frequencies(self.grid))
        samples = self.grid.sample(self.images[row : row + 1])[0].numpy()
        return samples, transfer(self.ctf[row : row + 1], fx, fy)

    def cache(self) -> ParticleCache:
        """All particles as a run keeps them."""
        batch = self.batch(torch.device("cpu"))
        rings = torch.view_as_real(batch.rings).half()
        return ParticleCache(rings, batch.ctf, batch.optics, batch.half)

    def poses(self, device: torch.device) -> Poses:
        """The true poses."""
        row = torch.arange(len(self.images), device=device)
        return Poses(row, self.classes.to(device), self.psi.to(device), self.shift.to(device))


class NoMask(SolventMask):
    """Averages stay as they are solved."""

    @property
    def circle(self) -> Tensor:
        """Everything ``[y x]``."""
        return torch.ones((self.box, self.box))

    def masks(self, averages: Tensor) -> Tensor:
        """Everything ``[k y x]``."""
        return torch.ones_like(averages)

    def flatten(self, averages: Tensor, masks: Tensor) -> Tensor:
        """The averages ``[k y x]``."""
        return averages * masks


def synthetic(
    count: int,
    *,
    box: int = 32,
    rings: int = 12,
    num_classes: int = 3,
    sigma: float = 0.3,
    reach: float = 2.0,
    astigmatism: float = 0.0,
    scale_spread: float = 0.0,
    seed: int = 0,
) -> Synthetic:
    """Particles with random poses, shifts up to ``reach`` in x and y, under white noise."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % num_classes
    psi, shift = rng.uniform(0, 2 * np.pi, count), rng.uniform(-reach, reach, (count, 2))
    scale = np.exp(scale_spread * rng.standard_normal(count))
    clean = np.stack(
        [picture(box, int(k), p, t) for k, p, t in zip(classes, psi, shift, strict=True)]
    )
    clean = torch.from_numpy(scale[:, None, None] * clean)
    ctf = microscope(count, astigmatism)
    axis = torch.fft.fftfreq(box, PIXEL)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    centred = torch.fft.ifftshift(clean, dim=(-2, -1))
    blurred = torch.fft.ifft2(torch.fft.fft2(centred) * ctf_at(ctf, fx, fy)).real
    images = torch.fft.fftshift(blurred, dim=(-2, -1))
    images = images + sigma * torch.from_numpy(rng.standard_normal(images.shape))
    # as in a run: without it the corners hold angular orders that the grid does not resolve
    window = circular_mask(box, 0.85 * box / 2, 0.99 * box / 2)
    return Synthetic(
        grid=PolarGrid(box, rings),
        images=images.float() * window,
        raw=images.float(),
        sigma2=sigma**2 * float(window.square().mean()) if sigma else 1.0,
        classes=torch.from_numpy(classes),
        psi=torch.from_numpy(psi).float(),
        shift=torch.from_numpy(shift).float(),
        ctf=ctf,
        scale=torch.from_numpy(scale).float(),
    )


def search_of(box: int, **settings: float) -> PoseSearch:
    """Pose grids for the pictures of the oracle."""
    return PoseSearch(**({"extent": 0.8 * box, "box": box, "max_shift": 3.0} | settings))


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """Absolute difference of two angles (radian)."""
    return torch.remainder(first - second + torch.pi, 2 * torch.pi).sub(torch.pi).abs()
