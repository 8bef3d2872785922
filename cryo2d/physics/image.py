"""From a class average to a particle image, and the adjoint: the model of image formation.

    X = alpha CTF S(-t) R(-psi) A + noise

with A the circular harmonics of a class average. Rotation and shift are those of
:mod:`cryo2d.geometry.transform`, inverted, because A is taken into the particle's frame.
"""

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotate_vector, rotation_phase, shift_phase


def images_at_once(device: torch.device) -> int:
    """How many images to take through :func:`form` or :func:`adjoint` in one call.

    What fits into the caches of a CPU is twice as fast there as a whole batch; a GPU wants more.
    """
    return 4096 if device.type == "cuda" else 32


def form(grid: PolarGrid, harmonics: Tensor, psi: Tensor, shift: Tensor) -> Tensor:
    """Class averages seen in the frames of particles, without CTF.

    Args:
        grid: polar grid.
        harmonics: circular harmonics of the class of each particle ``[n m s]``.
        psi: rotation image -> class ``[n]`` (radian).
        shift: shift image -> class ``[n 2]`` (pixel).

    Returns:
        Polar samples ``[n a s]``.
    """
    turned = harmonics * rotation_phase(-psi, harmonics.shape[-2])
    return grid.from_harmonics(turned) * shift_phase(grid, -shift)


def adjoint(grid: PolarGrid, rings: Tensor, psi: Tensor, shift: Tensor) -> Tensor:
    """Particles ``[n a s]`` taken into the frame of their class ``[n m s]``, adjoint of form."""
    moved = rings * shift_phase(grid, shift)
    return grid.harmonics(moved) * rotation_phase(psi, grid.num_angles)


def aligned(grid: PolarGrid, rings: Tensor, row: Tensor, psi: Tensor, shift: Tensor) -> Tensor:
    """Particles taken into the frame of their class as samples, at rotations by whole samples.

    The same as :func:`adjoint`, without a transform.

    Args:
        grid: polar grid.
        rings: particles ``[n a s]``.
        row: particle of each pose ``[p]``.
        psi: rotation image -> class, as ``grid.nearest`` gives it ``[p]`` (radian).
        shift: shift image -> class, before the rotation ``[p 2]`` (pixel).

    Returns:
        Polar samples ``[p a s]``.
    """
    turned = grid.turned(rings, row, psi)
    return turned.mul_(shift_phase(grid, rotate_vector(shift, psi)))
