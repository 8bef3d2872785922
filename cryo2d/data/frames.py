"""Poses of several classifications in common frames, by the particles that their classes share.

A particle that class a of one classification has at ``y_a = R(psi_a) (x + t_a)`` and class b of
another at ``y_b = R(psi_b) (x + t_b)`` says how b is taken into the frame of a,
``y_a = R(alpha) (y_b + tau)``: ``alpha = psi_a - psi_b`` and ``tau = R(psi_b) (t_a - t_b)``. No
image is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from cryo2d.geometry.transform import rotate_vector

LEAST = 3  # particles that have to agree on how two classes lie
NEAR = math.radians(10.0)  # rotations that agree
CANDIDATES = 200  # rotations that the others are compared with


@dataclass(frozen=True)
class Pose:
    """How a class is taken into a frame, ``R(alpha) (y + tau)``.

    Attributes:
        alpha: rotation (radian).
        tau: shift before it ``[2]``, in the unit of the particles' shifts.
    """

    alpha: float
    tau: np.ndarray


@dataclass(frozen=True)
class Placed:
    """A class of one classification in the frame of a consensus class.

    Attributes:
        run: classification.
        label: its class.
        size: members that it shares with the consensus class.
        share: part of its members that these are.
        pose: takes it into the frame.
    """

    run: int
    label: int
    size: int
    share: float
    pose: Pose


@dataclass(frozen=True)
class Poses:
    """Poses of one classification.

    Attributes:
        label: class of each particle ``[n]``.
        psi: rotation image -> class ``[n]`` (radian).
        shift: shift image -> class ``[n 2]``.
    """

    label: np.ndarray
    psi: np.ndarray
    shift: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """Particles of each class ``[k]``."""
        return np.bincount(self.label)


def placed_classes(consensus: np.ndarray, runs: Sequence[Poses]) -> list[list[Placed]]:
    """The classes that make up each consensus class, those with most of it first.

    The first gives the frame. A class that shares too few particles with all others is left out.

    Args:
        consensus: class of each particle ``[n]``.
        runs: the same particles in every classification.
    """
    order = np.argsort(consensus, kind="stable")
    ends = np.cumsum(np.bincount(consensus))
    return [_placed(members, runs) for members in np.split(order, ends[:-1])]


def common_poses(
    consensus: np.ndarray, runs: Sequence[Poses], placed: Sequence[Sequence[Placed]]
) -> Poses:
    """Poses in the frames of the consensus classes, and the run they are from as ``label``.

    Each particle is taken from the run whose class has most of its consensus class; -1 for one that
    no class places, whose pose stays as it is in the first run.
    """
    psi, shift = runs[0].psi.copy(), runs[0].shift.copy()
    source = np.full(len(consensus), -1)
    for k, classes in enumerate(placed):
        members = np.flatnonzero(consensus == k)
        for one in reversed(classes):
            run = runs[one.run]
            rows = members[run.label[members] == one.label]
            psi[rows] = run.psi[rows] + one.pose.alpha
            tau = np.broadcast_to(one.pose.tau, (len(rows), 2))
            shift[rows] = run.shift[rows] + _turned(tau, -run.psi[rows])
            source[rows] = one.run
    return Poses(source, psi, shift)


def _placed(members: np.ndarray, runs: Sequence[Poses]) -> list[Placed]:
    """The classes of the runs that share these members, along the pairs that share most."""
    names, inside = _needed(members, runs)
    if not names:
        return []
    shared = inside.astype(np.int64) @ inside.T
    size = np.diag(shared)
    poses = {0: Pose(0.0, np.zeros(2))}
    while True:
        there = np.fromiter(poses, int)
        reach = np.where(np.isin(np.arange(len(names)), there), 0, shared[there])
        at, new = np.unravel_index(np.argmax(reach), reach.shape)
        if reach[at, new] < LEAST:
            break
        old = int(there[at])
        rows = members[inside[old] & inside[new]]
        step = relation(runs[names[old][0]], runs[names[int(new)][0]], rows)
        poses[int(new)] = _after(step, poses[old])
    found = []
    for i, pose in sorted(poses.items()):
        r, label = names[i]
        share = float(size[i] / runs[r].sizes[label])
        found.append(Placed(r, label, int(size[i]), share, pose))
    return found


def _needed(members: np.ndarray, runs: Sequence[Poses]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Run and number of the classes that matter, the largest first, and who is in them ``[c n]``.

    Those most of whose members these are, and as many others as it takes to have all of these.
    """
    found = []
    for r, run in enumerate(runs):
        labels, size = np.unique(run.label[members], return_counts=True)
        found += [(-int(n), r, int(k)) for k, n in zip(labels, size, strict=True) if n >= LEAST]
    names, inside = [], []
    had = np.zeros(len(members), bool)
    for less, r, label in sorted(found):
        own = runs[r].label[members] == label
        if -2 * less >= runs[r].sizes[label] or not had[own].all():
            names.append((r, label))
            inside.append(own)
            had |= own
    return names, np.array(inside)


def relation(one: Poses, other: Poses, rows: np.ndarray) -> Pose:
    """How a class of the other run is taken into the frame of one, by the particles of both.

    The rotation on which most agree: a symmetric particle has several, and each of them is right.
    """
    turn = one.psi[rows] - other.psi[rows]
    candidates = turn[:: -(-len(turn) // CANDIDATES)]
    away = np.abs(_wrapped(turn - candidates[:, None]))
    near = away[np.argmax((away < NEAR).sum(1))] < NEAR
    alpha = float(np.angle(np.exp(1j * turn[near]).mean()))
    rows = rows[near]
    tau = _turned(one.shift[rows] - other.shift[rows], other.psi[rows])
    return Pose(alpha, np.median(tau, axis=0))


def _after(first: Pose, second: Pose) -> Pose:
    """One pose after another, ``R(b) (R(a) (y + t) + u) = R(a + b) (y + t + R(-a) u)``."""
    tau = first.tau + _turned(second.tau[None], np.array([-first.alpha]))[0]
    return Pose(first.alpha + second.alpha, tau)


def _turned(vector: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """R(psi) applied to vectors ``[n 2]``."""
    vector, psi = (np.asarray(v, np.float64) for v in (vector, psi))
    return rotate_vector(torch.from_numpy(vector.copy()), torch.from_numpy(psi.copy())).numpy()


def _wrapped(angle: np.ndarray) -> np.ndarray:
    """Angles from -pi to pi."""
    return np.remainder(angle + np.pi, 2 * np.pi) - np.pi
