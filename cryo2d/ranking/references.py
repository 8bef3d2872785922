"""Class averages beside the projections of a volume: likeness, and how sharp they are."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from cryo2d.errors import InputError, Problem
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.register import Registrar, Registration
from cryo2d.geometry.shells import resolution_at, ring_correlation
from cryo2d.io.averages import ClassAverages
from cryo2d.io.mrc import read_header, read_images

Array = NDArray[Any]

DIRECTIONS = 300  # of a half sphere, 8 degrees apart; the other half are mirror images
FINEST = 12.0  # wavelength to which averages and projections are correlated (Angstrom)
SEARCH_RINGS = 16
SHIFT = 0.08  # longest, as a part of the box
PADDING = 2


@dataclass(frozen=True)
class Volume:
    """A density map.

    Attributes:
        density: ``[z y x]``, protein white.
        pixel_size: (Angstrom).
    """

    density: Tensor
    pixel_size: float

    @classmethod
    def read(cls, path: str | Path) -> "Volume":
        """Read an .mrc file.

        Raises:
            InputError: if it holds no cube, or none with a pixel size.
        """
        density, pixel_size = read_images(path), float(read_header(path).pixel_size)
        if len(set(density.shape)) != 1 or not np.ptp(density) > 0:
            found = " x ".join(map(str, density.shape[::-1])) + " pixels"
            problem = Problem(str(path), found, "a cube with density in it", "give a map")
            raise InputError([problem])
        if not pixel_size > 0:
            action = "write it into the header"
            raise InputError([Problem(str(path), "no pixel size", "Angstrom per pixel", action)])
        return cls(torch.from_numpy(density), pixel_size)

    def slices(self, axes: Tensor, grid: PolarGrid, pixel_size: float) -> Tensor:
        """Polar samples ``[n a s]`` of projections: central slices (Bracewell 1956).

        Args:
            axes: x and y axis of each projection in the volume ``[n 2 3]`` (x, y, z).
            grid: of the projections.
            pixel_size: of the projections (Angstrom).
        """
        size = len(self.density)
        padded = PADDING * size
        # interpolation along an axis multiplies the density by this
        envelope = torch.sinc((torch.arange(size) - size // 2) / padded) ** 2
        density = self.density - self.density.mean()
        for axis in range(3):
            density = density / envelope.reshape([-1 if i == axis else 1 for i in range(3)])
        room = torch.zeros(padded, padded, padded)
        start = padded // 2 - size // 2
        inside = slice(start, start + size)
        room[inside, inside, inside] = density
        cube = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(room)))
        fx, fy = (f[..., None] * (self.pixel_size / pixel_size) for f in grid.frequencies)
        points = fx * axes[:, None, None, 0] + fy * axes[:, None, None, 1]  # [n a s 3]
        place = (points * padded + padded // 2) * (2.0 / (padded - 1)) - 1.0
        parts = torch.view_as_real(cube).permute(3, 0, 1, 2)[None]
        found = grid_sample(parts, place[None], align_corners=True)[0]
        return torch.complex(found[0], found[1])


def quasi_uniform_axes(number: int) -> Tensor:
    """Axes ``[n 2 3]`` of projections whose directions lie evenly on a half sphere (Fibonacci)."""
    step = torch.arange(number) + 0.5
    z, turn = 1.0 - step / number, step * math.pi * (1.0 + math.sqrt(5.0))
    flat = (1.0 - z * z).sqrt()
    cosine, sine = turn.cos(), turn.sin()
    first = torch.stack((z * cosine, z * sine, -flat), dim=1)
    second = torch.stack((-sine, cosine, torch.zeros(number)), dim=1)
    return torch.stack((first, second), dim=1)


def compared(classes: ClassAverages, path: str | Path) -> dict[str, Array]:
    """Columns of what the averages have in common with the best projection of a volume.

    ``reference_correlation``: of both to 12 Angstrom with the mean falloff halved, at the best
    direction, rotation, shift and mirror; ``reference_resolution``: where their FRC falls below 0.5
    (Angstrom); ``reference_sharpness``: how much of the projection's finer half of rings is in the
    average, against the coarser half; 1 for an average as sharp as the volume.

    Args:
        classes: the averages ``[k]``.
        path: of the volume.

    Raises:
        InputError: if it is none.
    """
    volume = Volume.read(path)
    box, pixel_size = classes.images.shape[-1], classes.pixel_size
    rings = int(max(4, min(box // 2 - 1, box * pixel_size / FINEST)))
    grid = PolarGrid(box, rings)
    images = torch.from_numpy(np.array(classes.images, np.float32))
    axes = quasi_uniform_axes(DIRECTIONS)
    averages = grid.harmonics(grid.sample(images))
    projections = grid.harmonics(volume.slices(axes, grid, pixel_size))
    amplitude = (projections.abs() ** 2).mean((0, 1)).sqrt()
    factor = amplitude.clamp(min=1e-3 * float(amplitude.max()) + 1e-20).rsqrt()
    direction, pose = best_views(grid, projections * factor, averages * factor)
    moved = Registrar(grid, 0.0).moved(averages, pose)
    shown = projections[direction]
    frc = ring_correlation(grid, shown, moved)
    frequency = grid.radii / (box * pixel_size)
    return {
        "reference_correlation": pose.correlation.double().numpy(),
        "reference_resolution": resolution_at(frc, frequency, 0.5).double().numpy(),
        "reference_sharpness": sharpness(grid, shown, moved).double().numpy(),
    }


def best_views(
    grid: PolarGrid, projections: Tensor, averages: Tensor
) -> tuple[Tensor, Registration]:
    """The projection that is most like each average ``[k]``, and the pose of the average on it.

    Args:
        grid: of both.
        projections: circular harmonics ``[n m s]``.
        averages: the same ``[k m s]``.
    """
    step = max(1.0, grid.box / 64)
    reach = max(step, SHIFT * grid.box)
    small = PolarGrid(grid.box, min(grid.num_rings, SEARCH_RINGS))
    coarse, fine = (Registrar(one, reach, step=step) for one in (small, grid))
    first, second = (
        coarse.normalised(h[:, : small.num_angles, : small.num_rings])
        for h in (projections, averages)
    )
    found = coarse.all_pairs(first, second)
    best, own = found.correlation.argmax(0), torch.arange(len(averages))
    whole = fine.normalised(projections[best]), fine.normalised(averages)
    return best, fine.refined(*whole, found[best, own])


def sharpness(grid: PolarGrid, shown: Tensor, moved: Tensor) -> Tensor:
    """Share of projections ``[k m s]`` that is in averages, the finer half of rings over the other.

    sum Re(conj(P) A) / sum |P|^2 over either half: noise of the average does not count.
    """
    weight = grid.harmonic_weights()[:, None] * grid.ring_weights
    cross = ((shown.conj() * moved).real * weight).sum(1)
    power = ((shown.abs() ** 2) * weight).sum(1)
    half = grid.num_rings // 2
    low, high = (
        cross[:, band].sum(1) / power[:, band].sum(1).clamp(min=1e-30)
        for band in (slice(0, half), slice(half, None))
    )
    return torch.where(low > 0, high / low.clamp(min=1e-30), 0.0).clamp(0.0, 10.0)
