"""From a particle image to its class average: the adjoint of image formation.

    X = alpha CTF S(-t) R(-psi) A + noise

with A the circular harmonics of a class average. Rotation and shift are those of
:mod:`cryo2d.geometry.transform`.
"""

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotate_vector, rotation_phase, shift_phase


def images_at_once(device: torch.device) -> int:
    """How many images to take through several steps together.

    What fits into the caches of a CPU is twice as fast there as a whole batch; a GPU wants more.
    """
    return 4096 if device.type == "cuda" else 64


def adjoint(grid: PolarGrid, rings: Tensor, psi: Tensor, shift: Tensor) -> Tensor:
    """Particles taken into the frame of their class, adjoint of seeing the class in theirs.

    Args:
        grid: polar grid.
        rings: particles ``[n a s]``.
        psi: rotation image -> class ``[n]`` (radian).
        shift: shift image -> class ``[n 2]`` (pixel).

    Returns:
        Circular harmonics ``[n m s]``.
    """
    taken, few = torch.empty_like(rings), images_at_once(rings.device)
    for start in range(0, len(rings), few):
        rows = slice(start, start + few)
        moved = shift_phase(grid, shift[rows]).mul_(rings[rows])
        grid.harmonics(moved, rotation_phase(psi[rows], grid.num_angles), out=taken[rows])
    return taken


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
