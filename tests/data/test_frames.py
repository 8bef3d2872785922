"""Poses of several runs end in one frame for each consensus class."""

import numpy as np
import pytest
from reference import turn

from cryo2d.data.frames import Poses, common_poses, placed_classes, relation

COUNT, CLASSES = 120, 3


def rotated(vectors: np.ndarray, psi: np.ndarray) -> np.ndarray:
    return np.stack([turn(p) @ v for p, v in zip(psi, vectors, strict=True)])


def moved(poses: Poses, rng: np.random.Generator, noise: float = 0.0) -> Poses:
    """The same particles when every class lies elsewhere, and has another name."""
    count = int(poses.label.max()) + 1
    alpha, tau = rng.uniform(0, 2 * np.pi, count), rng.uniform(-9, 9, (count, 2))
    index = poses.label
    psi = poses.psi + alpha[index] + noise * rng.standard_normal(len(index))
    shift = poses.shift + rotated(tau[index], -poses.psi)
    return Poses(rng.permutation(count)[index], psi, shift)


@pytest.fixture
def truth(rng) -> Poses:
    index = rng.permutation(np.arange(COUNT) % CLASSES)
    psi, shift = rng.uniform(0, 2 * np.pi, COUNT), rng.uniform(-9, 9, (COUNT, 2))
    return Poses(index, psi, shift)


def spread(truth: Poses, found: Poses, members: np.ndarray) -> tuple[float, float]:
    """How far particles are from one rotation (radian) and one shift from the truth to the found.

    A particle at y = R(psi) (x + t) in the truth lies at R(alpha) (y + tau) in the frame.
    """
    away = np.exp(1j * (found.psi - truth.psi)[members])
    alpha = np.angle(away / away.mean())
    tau = rotated((found.shift - truth.shift)[members], truth.psi[members])
    return float(np.abs(alpha).max()), float(np.abs(tau - np.median(tau, axis=0)).max())


def test_every_particle_ends_in_the_frame_of_its_class(truth, rng):
    runs = [moved(truth, rng) for _ in range(3)]
    # a run that splits a class puts its halves into different places
    halves = moved(Poses(2 * truth.label + np.arange(COUNT) % 2, truth.psi, truth.shift), rng)
    # and one in which some particles are elsewhere, with poses that mean nothing
    lost = np.flatnonzero(rng.random(COUNT) < 0.2)
    runs[0].label[lost] = (runs[0].label[lost] + 1) % CLASSES
    runs[0].psi[lost] = rng.uniform(0, 6, len(lost))
    runs = [*runs, halves]
    placed = placed_classes(truth.label, runs)
    found = common_poses(truth.label, runs, placed)
    assert (found.label >= 0).all()
    for k in range(CLASSES):
        members = np.flatnonzero(truth.label == k)
        turned, shifted = spread(truth, found, members)
        assert turned < 1e-6
        assert shifted < 1e-5
        assert {one.run for one in placed[k]} == {0, 1, 2, 3}
        assert sum(one.run == 3 for one in placed[k]) == 2
        assert placed[k][0].size == len(members)


def test_noise_of_single_poses_does_not_tell(truth, rng):
    runs = [moved(truth, rng, noise=0.02) for _ in range(3)]
    found = common_poses(truth.label, runs, placed_classes(truth.label, runs))
    for k in range(CLASSES):
        assert spread(truth, found, np.flatnonzero(truth.label == k))[0] < 0.08


def test_of_a_symmetric_particle_one_rotation_is_chosen(rng):
    count = 50
    label, shift = np.zeros(count, int), np.zeros((count, 2))
    one = Poses(label, rng.uniform(0, 2 * np.pi, count), shift)
    quarter = 0.5 * np.pi * rng.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])
    other = Poses(label, one.psi + quarter + 0.3, shift)
    pose = relation(one, other, np.arange(count))
    assert np.cos(4 * (pose.alpha + 0.3)) == pytest.approx(1)
    assert np.abs(pose.tau).max() < 1e-9


def test_a_particle_that_no_class_places_keeps_its_pose(truth, rng):
    runs = [moved(truth, rng) for _ in range(2)]
    # two particles that share their classes with each other alone
    label = truth.label.copy()
    for run in runs:
        run.label[:2] = CLASSES
    label[:2] = CLASSES
    found = common_poses(label, runs, placed_classes(label, runs))
    assert found.label[:2].tolist() == [-1, -1]
    assert (found.label[2:] >= 0).all()
    np.testing.assert_array_equal(found.psi[:2], runs[0].psi[:2])
    np.testing.assert_array_equal(found.shift[:2], runs[0].shift[:2])
