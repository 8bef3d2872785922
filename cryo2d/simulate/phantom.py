"""A molecule as a sum of Gaussians, and its exact projection."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Atoms times edges of one batch of the projection: it stays in a processor's cache, and on a GPU,
# which has none to speak of but much memory, it keeps every core busy.
_BATCH_ELEMENTS = {"cpu": 1_000_000, "cuda": 200_000_000}


@dataclass(frozen=True)
class Phantom:
    """Isotropic Gaussians in the molecule's frame, centre of mass at the origin.

    Attributes:
        name: what it is.
        symmetry: point group (Schoenflies, as RELION writes it: C1, C4, D2, D7, O).
        positions: centres, ``[atoms 3]`` (Angstrom).
        sigma: standard deviations, ``[atoms]`` (Angstrom).
        weight: integrals, ``[atoms]`` (one residue of protein is about 1).
    """

    name: str
    symmetry: str
    positions: NDArray[np.float32]
    sigma: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def from_beads(cls, name: str, symmetry: str, beads: NDArray[np.float64]) -> "Phantom":
        """Centre the beads, rows ``x y z sigma weight``, on their centre of mass."""
        weight = beads[:, 4]
        centre = (beads[:, :3] * weight[:, None]).sum(0) / weight.sum()
        return cls(
            name=name,
            symmetry=symmetry,
            positions=(beads[:, :3] - centre).astype(np.float32),
            sigma=beads[:, 3].astype(np.float32),
            weight=weight.astype(np.float32),
        )

    @property
    def mass(self) -> float:
        """Integral of the density, which is also the sum of every projection."""
        return float(self.weight.sum(dtype=np.float64))

    @property
    def diameter(self) -> float:
        """Twice the radius of the centred sphere that holds 99 % of the mass (Angstrom)."""
        radius = np.linalg.norm(self.positions, axis=1)
        order = np.argsort(radius)
        share = np.cumsum(self.weight[order], dtype=np.float64) / self.mass
        return 2.0 * float(radius[order][np.searchsorted(share, 0.99)])


def project(
    phantom: Phantom, rotations: Tensor, shift: Tensor | None, box: int, pixel_size: float
) -> Tensor:
    """Projection along z of the rotated phantom, integrated over each pixel.

    I(y, x) = sum_a w_a G(x - [R p_a]_x - t_x; sigma_a) G(y - [R p_a]_y - t_y; sigma_a): the
    Gaussians are separable, so an image is one matrix product over atoms. The factor G of a pixel
    is the integral over it (a difference of error functions): no aliasing of narrow Gaussians, and
    the sum of an image that holds the whole molecule is exactly the mass.

    Args:
        phantom: the molecule.
        rotations: molecule to image frame, x right, y down: ``[n 3 3]``.
        shift: of the image, (x, y) in pixels: ``[n 2]``; none if null.
        box: image size (pixel); the origin is pixel ``box // 2``.
        pixel_size: Angstrom.

    Returns:
        ``[n y x]`` float32 on the device of ``rotations``.
    """
    device = rotations.device
    rotations = rotations.to(torch.float32)
    positions, sigma, weight = (
        torch.as_tensor(values, device=device) / scale
        for values, scale in (
            (phantom.positions, pixel_size),
            (phantom.sigma, pixel_size * math.sqrt(0.5)),
            (phantom.weight, 4.0),  # each of the two differences of erf is twice an integral
        )
    )
    edges = torch.arange(box + 1, device=device, dtype=torch.float32) - box // 2 - 0.5
    if shift is None:
        shift = torch.zeros(len(rotations), 2, device=device)
    images = torch.empty(len(rotations), box, box, device=device)
    batch = max(1, _BATCH_ELEMENTS.get(device.type, 1_000_000) // (2 * (box + 1) * len(sigma)))
    for start in range(0, len(rotations), batch):
        rows = slice(start, start + batch)
        centre = rotations[rows, :2] @ positions.T + shift[rows, :, None].to(rotations)
        offset = edges[:, None] - centre[:, :, None]  # [n 2 edge atoms]
        factor = torch.erf_(offset.div_(sigma)).diff(dim=2)
        images[rows] = (factor[:, 1] * weight) @ factor[:, 0].transpose(1, 2)
    return images
