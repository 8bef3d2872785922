"""The local search: all rings, a fine grid round the candidate poses, sub-grid interpolation.

Each candidate image is first brought into its class's frame at the coarse pose, which takes no
interpolation if the rotation is by whole samples of the polar grid. What is left is a small shift
and rotation, the same few for all, rotations again by whole samples. Image times slightly rotated
reference is a product sample by sample, and the small shifts of all of them are one matrix product:
their phases vary so slowly with the angle that neighbouring angles are summed before it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.logs import log_total_
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.transform import rotate_vector, rotation_phase, shift_phase
from cryo2d.physics.image import aligned, images_at_once

SAME = 0.5  # radians within which the phases of a small shift count as the same


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
        breadth: log of the mean likelihood on the local grid, less that of this pose ``[p]``.
    """

    poses: Poses
    cross: Tensor
    pose_ess: Tensor
    shift_ess: Tensor
    breadth: Tensor


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
    """Small shifts, then small rotations, in the class frame, round a coarse pose.

    Args:
        rotation_step: rotations that the grid covers, from end to end (radian); for a search,
            ``steps`` times some whole samples of the circle (:meth:`covering`).
        shift_step: shifts that it covers, along x and y (pixel).
        steps: fine steps from end to end, even.
        device: of the tensors.

    Attributes:
        turns: rotations ``[r]`` (radian).
        moves: shifts ``[q 2]`` (pixel), applied before the rotation.
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
        self._phases: dict[PolarGrid, Tensor] = {}  # of the moves

    @classmethod
    def covering(
        cls,
        rotation_step: float,
        shift_step: float,
        steps: int,
        grid: PolarGrid,
        device: torch.device | str = "cpu",
    ) -> "LocalGrid":
        """The grid round coarse poses so far apart, with rotations by whole samples.

        A pose may be half of a coarse step away from the true one, and by its own rounding to
        whole samples half of one more.
        """
        sample = math.pi / grid.num_angles
        stride = math.ceil((rotation_step / sample + 1.0) / steps - 1e-6)
        return cls(steps * stride * sample, shift_step, steps, device)

    def mixed(self, aligned: Tensor, weights: Tensor) -> Tensor:
        """Images summed with the weights that they have at each pose of the grid.

        Args:
            aligned: images in their class's frame at the coarse pose ``[p a s]``.
            weights: of the poses ``[p r*q]``.

        Returns:
            Real and imaginary parts ``[r*q 2as]``, as additive as the images.
        """
        return weights.T @ torch.view_as_real(aligned).flatten(1)

    def gather(self, grid: PolarGrid, mixed: Tensor) -> Tensor:
        """Images moved by every pose of the grid and summed.

        Args:
            grid: polar grid of the images.
            mixed: what :meth:`mixed` gave ``[r*q 2as]``.

        Returns:
            Circular harmonics ``[m s]``.
        """
        shape = self.width, -1, grid.num_angles, grid.num_rings, 2
        if grid not in self._phases:
            self._phases[grid] = shift_phase(grid, self.moves)
        moved = torch.view_as_complex(mixed.view(shape)) * self._phases[grid]
        rings = moved.sum(1)  # [r a s]
        return (grid.harmonics(rings) * rotation_phase(self.turns, grid.num_angles)).sum(0)


class FineBank:
    """Local pose grid and the references it is applied to.

    Args:
        references: circular harmonics of the class averages ``[k m s]`` on ``grid``.
        grid: polar grid of all rings in use.
        band: weight of each ring in the alignment ``[s]``, 0 or 1.
        local: small rotations and shifts to try.
    """

    def __init__(
        self, references: Tensor, grid: PolarGrid, *, band: Tensor, local: LocalGrid
    ) -> None:
        self.grid, self.local = grid, local
        self._stride = round(local.turn * grid.num_angles / math.pi)
        weight = (grid.ring_weights * band).to(references.device) / grid.num_angles
        circle = grid.from_harmonics(references).conj_physical().mul_(weight)
        beyond = self._stride * (local.width // 2)
        # as far beyond the half circle as the local rotations go
        before, after = circle[:, -beyond:].conj(), circle[:, :beyond].conj()
        self._circle = torch.cat((before, circle, after), dim=1).resolve_conj()
        self._together = self._angles_together()
        phase = shift_phase(grid, local.moves).unflatten(1, (-1, self._together)).mean(2)
        self._phase = torch.view_as_real(phase.conj_physical()).flatten(1).T.contiguous()  # [2as q]

    def _angles_together(self) -> int:
        """Neighbouring angles that share the phases of the local shifts."""
        longest = float(self.local.moves.norm(dim=1).max())
        # radians of phase from one angle to the next, at the outermost ring
        change = 2.0 * math.pi * longest * self.grid.num_rings / self.grid.box
        change *= math.pi / self.grid.num_angles
        fits = (n for n in (8, 4, 2) if n * change <= SAME and self.grid.num_angles % n == 0)
        return next(fits, 1)

    def snapped(self, poses: Poses) -> Poses:
        """The poses with rotations by whole samples, and the same shifts in the class frame."""
        psi = self.grid.nearest(poses.psi)
        shift = rotate_vector(poses.shift, poses.psi - psi)
        return Poses(poses.particle, poses.classes, psi, shift)

    def scores(self, image: Tensor, poses: Poses) -> Tensor:
        """Re<CTF X / sigma^2, A> on the local grid round each pose ``[p r*q]``.

        Args:
            image: CTF X / sigma^2 ``[n a s]``.
            poses: starting poses, snapped; fastest if sorted by class.
        """
        chunk = images_at_once(image.device)
        scores = []
        room = image.new_empty((chunk // 4, self.local.width, *image.shape[1:]))
        for start in range(0, len(poses.psi), chunk):
            part = poses[start : start + chunk]
            still = aligned(self.grid, image, part.particle, part.psi, part.shift)
            few = zip(still.split(len(room)), part.classes.split(len(room)), strict=True)
            scores += [self._products(some, classes, room) for some, classes in few]
        return torch.cat(scores).flatten(1)

    def _products(self, still: Tensor, classes: Tensor, room: Tensor) -> Tensor:
        """Scores of images in the frames of their classes ``[p a s]``: ``[p r q]``."""
        circle = self._circle.index_select(0, classes)
        turned = circle.unfold(1, self.grid.num_angles, self._stride).transpose(2, 3)  # [p r a s]
        product = torch.mul(turned, still[:, None], out=room[: len(still)])
        summed = product.unflatten(2, (-1, self._together)).sum(3)
        return torch.view_as_real(summed).flatten(2) @ self._phase

    def refine(
        self,
        image: Tensor,
        poses: Poses,
        scale: Tensor,
        *,
        temperature: float = 1.0,
        pull: Tensor | None = None,
    ) -> RefinedPoses:
        """Best pose near each given one.

        Args:
            image: CTF X / sigma^2 ``[n a s]``.
            poses: starting poses, fastest if sorted by class.
            scale: contrast scale of the particles ``[n]``.
            temperature: squared uncertainty factor, for the effective numbers.
            pull: what a shift by one pixel costs, and one by t pixels t^2 times ``[n]``.
        """
        poses = self.snapped(poses)
        scale, score = scale[poses.particle], self.scores(image, poses)
        if pull is None:
            return self.peak(poses, score, scale, temperature=temperature)
        own = pull[poses.particle]
        return self.peak(poses, self.pulled(score, poses, own), scale, own, temperature)

    def pulled(self, score: Tensor, poses: Poses, pull: Tensor) -> Tensor:
        """Scores of the local grids less what their shifts cost ``[p r*q]``.

        Args:
            score: what :meth:`scores` found ``[p r*q]``.
            poses: starting poses, snapped.
            pull: what a shift by one pixel costs, and one by t pixels t^2 times ``[p]``.
        """
        moved = rotate_vector(poses.shift, poses.psi)[:, None] + self.local.moves  # [p q 2]
        cost = moved.square().sum(2) * pull[:, None]
        return (score.unflatten(1, (self.local.width, -1)) - cost[:, None]).flatten(1)

    def peak(
        self,
        poses: Poses,
        score: Tensor,
        scale: Tensor,
        pull: Tensor | None = None,
        temperature: float = 1.0,
    ) -> RefinedPoses:
        """Best pose near each given one, below the step of the local grid.

        Args:
            poses: starting poses.
            score: what :meth:`scores` or :meth:`pulled` found for them ``[p r*q]``.
            scale: log likelihood over score ``[p]``.
            pull: of those that were pulled ``[p]``.
            temperature: squared uncertainty factor, for the effective numbers.
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
        shift = poses.shift + rotate_vector(move, -poses.psi)
        most = centre + up_r + up_y + up_x
        breadth = log_total_((score - most[:, None]) * scale[:, None] + local.share.log(), 1)
        logs = cube * (scale / temperature)[:, None, None, None]
        return RefinedPoses(
            Poses(poses.particle, poses.classes, psi % (2.0 * math.pi), shift),
            most if pull is None else most + pull * shift.square().sum(1),
            effective_number(logs.flatten(2).logsumexp(2)),
            effective_number(logs.flatten(2).logsumexp(1)),
            breadth,
        )
