"""The local search: all rings, a fine grid round the candidate poses, sub-grid interpolation.

Each candidate image is first brought into its class's frame at the coarse pose. What is left is a
small rotation and shift, the same few for all images of a class: one matrix product per class with
its slightly rotated and shifted references.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotate_vector, rotation_phase, shift_phase
from cryo2d.physics.image import adjoint, images_at_once


@dataclass(frozen=True)
class Poses:
    """Candidate poses, one row each, all ``[p]`` but ``shift`` ``[p 2]``.

    Attributes:
        particle: row of the batch.
        classes: class.
        psi: rotation image -> class (radian).
        shift: shift in the image frame before the rotation (pixel).
    """

    particle: Tensor
    classes: Tensor
    psi: Tensor
    shift: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Poses":
        return Poses(self.particle[rows], self.classes[rows], self.psi[rows], self.shift[rows])


@dataclass(frozen=True)
class RefinedPoses:
    """Poses after the local search, rows as given to it.

    Attributes:
        poses: refined poses.
        cross: Re<CTF X / sigma^2, A> at the refined pose ``[p]``.
        pose_ess: effective number of rotations of the local grid ``[p]``.
        shift_ess: effective number of shifts of the local grid ``[p]``.
    """

    poses: Poses
    cross: Tensor
    pose_ess: Tensor
    shift_ess: Tensor


def parabola_peak(before: Tensor, centre: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Offset of the parabola through three values, within a step, and its gain over ``centre``."""
    curve = before - 2.0 * centre + after
    slope = 0.5 * (after - before)
    offset = torch.where(curve < 0, -slope / curve.clamp(max=-1e-20), torch.zeros_like(curve))
    offset = offset.clamp(-1.0, 1.0)
    # beyond half a step the height would be extrapolated, and classes would win by it
    inside = offset.clamp(-0.5, 0.5)
    return offset, slope * inside + 0.5 * curve * inside**2


def effective_number(log_weights: Tensor) -> Tensor:
    """1 / sum p^2 of unnormalised log weights, over the last axis."""
    p = torch.softmax(log_weights, dim=-1)
    return 1.0 / (p * p).sum(-1)


class LocalGrid:
    """Small rotations and shifts, in the class frame, round a coarse pose.

    Args:
        rotation_step: coarse rotation step (radian).
        shift_step: coarse shift step (pixel).
        steps: fine steps per coarse step, even; the grid ends half a coarse step from its centre.
        device: of the tensors.

    Attributes:
        turns: rotations ``[r]`` (radian).
        moves: shifts ``[q 2]`` (pixel), applied after the rotation.
        share: quadrature weight of each pose ``[r*q]``, sums to 1: neighbouring grids share their
            borders.
    """

    def __init__(
        self,
        rotation_step: float,
        shift_step: float,
        steps: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.width = steps + 1
        self.turn, self.step = rotation_step / steps, shift_step / steps
        local = torch.arange(-(steps // 2), steps // 2 + 1, device=device)
        self.turns = local * self.turn
        y, x = torch.meshgrid(local * self.step, local * self.step, indexing="ij")
        self.moves = torch.stack((x, y), dim=-1).reshape(-1, 2)
        edge = torch.ones(self.width, device=device)
        edge[0] = edge[-1] = 0.5
        share = edge[:, None, None] * edge[:, None] * edge
        self.share = (share / share.sum()).flatten()

    def gather(self, grid: PolarGrid, aligned: Tensor, weights: Tensor) -> Tensor:
        """Images moved by every pose of the grid, weighted and summed.

        Args:
            grid: polar grid of the images.
            aligned: images in their class's frame at the coarse pose ``[p m s]``.
            weights: of the poses ``[p r*q]``.

        Returns:
            Circular harmonics ``[m s]``.
        """
        flat = torch.view_as_real(aligned).flatten(1)
        mixed = (weights.T @ flat).view(self.width, -1, *aligned.shape[1:], 2)
        turned = torch.view_as_complex(mixed)  # [r q m s]
        turned = (turned * rotation_phase(self.turns, aligned.shape[1])[:, None]).sum(0)
        moved = grid.from_harmonics(turned) * shift_phase(grid, self.moves)
        return grid.harmonics(moved.sum(0))


class FineBank:
    """Local pose grid and the references it is applied to.

    Args:
        references: circular harmonics of the class averages ``[k m s]`` on ``grid``.
        grid: polar grid of all rings in use.
        band: weight of each ring in the alignment ``[s]``, 0 or 1.
        local: small rotations and shifts to try.
        num_orders: angular orders that the references fill.
    """

    def __init__(
        self,
        references: Tensor,
        grid: PolarGrid,
        *,
        band: Tensor,
        local: LocalGrid,
        num_orders: int | None = None,
    ) -> None:
        device = references.device
        self.grid, self.local = grid, local
        self._orders = num_orders or grid.num_angles
        self._references = grid.from_harmonics(references)
        self._phase = shift_phase(grid, -local.moves)
        weight = (grid.ring_weights * band).to(device) * grid.harmonic_weights().to(device)[:, None]
        turn = rotation_phase(-local.turns, self._orders)
        self._weight = turn[:, None] * weight[: self._orders]  # [r 1 m s]

    def _templates(self, k: int) -> Tensor:
        """Local references of one class ``[r*y*x 2ms]``."""
        moved = self.grid.harmonics(self._references[k] * self._phase)[:, : self._orders]
        return torch.view_as_real(self._weight * moved).flatten(2).flatten(0, 1)

    def scores(self, image: Tensor, poses: Poses) -> Tensor:
        """Re<CTF X / sigma^2, A> on the local grid round each pose ``[p r*q]``.

        Args:
            image: CTF X / sigma^2 ``[n a s]``.
            poses: starting poses, sorted by class.
        """
        counts = torch.bincount(poses.classes, minlength=len(self._references)).tolist()
        chunk = images_at_once(image.device)
        scores, start = [], 0
        for k, count in enumerate(counts):
            if not count:
                continue
            templates = self._templates(k).T
            for first in range(start, start + count, chunk):
                part = poses[first : min(first + chunk, start + count)]
                aligned = adjoint(self.grid, image[part.particle], part.psi, part.shift)
                flat = torch.view_as_real(aligned[:, : self._orders].contiguous()).flatten(1)
                scores.append(flat @ templates)
            start += count
        return torch.cat(scores)

    def refine(
        self, image: Tensor, poses: Poses, scale: Tensor, *, temperature: float = 1.0
    ) -> RefinedPoses:
        """Best pose near each given one.

        Args:
            image: CTF X / sigma^2 ``[n a s]``.
            poses: starting poses, sorted by class.
            scale: contrast scale of the particles ``[n]``.
            temperature: squared uncertainty factor, for the effective numbers.
        """
        sharpness = scale[poses.particle] / temperature
        return self.peak(poses, self.scores(image, poses), sharpness)

    def peak(self, poses: Poses, score: Tensor, sharpness: Tensor) -> RefinedPoses:
        """Best pose near each given one, below the step of the local grid.

        Args:
            poses: starting poses.
            score: what :meth:`scores` found for them ``[p r*q]``.
            sharpness: log likelihood over temperature per score ``[p]``, for the effective numbers.
        """
        local, row = self.local, torch.arange(len(score), device=score.device)
        width = local.width
        cube = score.view(-1, width, width, width)
        best = score.argmax(dim=1)
        r = (best // (width * width)).clamp(1, width - 2)
        y = (best // width % width).clamp(1, width - 2)
        x = (best % width).clamp(1, width - 2)
        centre = cube[row, r, y, x]
        dr, up_r = parabola_peak(cube[row, r - 1, y, x], centre, cube[row, r + 1, y, x])
        dy, up_y = parabola_peak(cube[row, r, y - 1, x], centre, cube[row, r, y + 1, x])
        dx, up_x = parabola_peak(cube[row, r, y, x - 1], centre, cube[row, r, y, x + 1])
        middle = width // 2
        psi = poses.psi + (r - middle + dr) * local.turn
        move = torch.stack((x - middle + dx, y - middle + dy), dim=-1) * local.step
        logs = cube * sharpness[:, None, None, None]
        return RefinedPoses(
            Poses(
                poses.particle,
                poses.classes,
                psi % (2.0 * math.pi),
                poses.shift + rotate_vector(move, -psi),
            ),
            centre + up_r + up_y + up_x,
            effective_number(logs.flatten(2).logsumexp(2)),
            effective_number(logs.flatten(2).logsumexp(1)),
        )
