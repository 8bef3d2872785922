"""THE conventions of in-plane poses, stated once.

A pose takes a particle image into the frame of its class: ``y = R(psi) (x + t)`` with
``R = [[cos, -sin], [sin, cos]]`` acting on (column, row) about the box centre ``box // 2``; rows
grow downwards. ``psi`` is rlnAnglePsi (in radian here) and alignments2D/pose; ``t`` is
rlnOriginX/YAngst and alignments2D/shift * psize_A: the same signs in all of them.

In Fourier space the shift multiplies by ``exp(-2 pi i k.t)`` and the rotation turns the angular
order ``m`` by ``exp(-i m psi)``.
"""

import math

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid


def rotate_vector(vector: Tensor, psi: Tensor) -> Tensor:
    """R(psi) applied to (x, y) vectors ``[... 2]``."""
    cosine, sine = psi.cos(), psi.sin()
    x, y = vector[..., 0], vector[..., 1]
    return torch.stack((cosine * x - sine * y, sine * x + cosine * y), dim=-1)


def shift_phase(grid: PolarGrid, shift: Tensor) -> Tensor:
    """Factor that shifts images by ``shift`` ``[... 2]`` (pixel): ``[... a s]`` complex64."""
    fx, fy = (f[:, 0].to(shift.device) for f in grid.frequencies)
    turn = (shift[..., 0, None] * fx + shift[..., 1, None] * fy) * (-2.0 * math.pi)
    phase = torch.empty((*turn.shape, grid.num_rings), dtype=torch.complex64, device=turn.device)
    phase[..., 0] = torch.complex(turn.cos(), turn.sin())
    # ring j turns j times as far as the first: powers cost less than sines
    done = 1
    while done < grid.num_rings:
        more = min(done, grid.num_rings - done)
        place = phase[..., done : done + more]
        torch.mul(phase[..., :more], phase[..., done - 1 : done], out=place)
        done += more
    return phase


def rotation_phase(psi: Tensor, num_orders: int) -> Tensor:
    """Factor that rotates circular harmonics by ``psi`` ``[...]`` (radian): ``[... m 1]``."""
    turn = -psi[..., None] * torch.arange(num_orders, device=psi.device)
    return torch.complex(turn.cos(), turn.sin())[..., None]
