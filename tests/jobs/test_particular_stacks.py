"""Masks, centring, contrast scales and stain: settings that only show on stacks of their kind."""

from pathlib import Path

import numpy as np
import pytest
import starfile
from guided import BOX, PIXEL, SHORT, altered, from_views, made
from omegaconf import OmegaConf
from truth import Stack, classified, composed, free_pose, pose_errors, purity, views_found

from cryo2d.errors import InputError
from cryo2d.io.mrc import read_images, write_stack
from cryo2d.jobs.classify import run


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    return made(tmp_path_factory.mktemp("stack"))


def finished(stack: Stack, folder: Path, *overrides: str) -> Path:
    """A run that leaves its files, without the pictures of every iteration."""
    cfg = composed(f"data.path={stack.star}", *overrides)
    cfg.callbacks = OmegaConf.create({"export": OmegaConf.to_container(cfg.callbacks.export)})
    folder.mkdir()
    run(cfg, folder)
    return folder


def test_scales_are_those_of_the_particles_and_written(tmp_path):
    # no estimate is better than 1 / sqrt(slice_pow), 0.11 here, whatever the spread of the scales
    recipe = {"num_molecules": 1, "box": 48, "pixel_size": 4.0, "num_particles": 300}
    stack = made(tmp_path / "stack", snr=0.1, scale_spread=0.3, **recipe)
    settings = [
        "model.num_classes=2",
        "model.force_max=true",
        "model.max_resolution=8",
        "optimizer.iterations=3",
        "optimizer.batch_per_class=150",
        *from_views(stack),
    ]
    folder = finished(stack, tmp_path / "run", *settings, "model.scale_per_particle=true")
    rows = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    order = rows["rlnImageName"].str.split("@").str[0].astype(int).to_numpy() - 1
    true, alpha = stack.truth["scale"][order], rows["cryo2dAlpha"].to_numpy()
    best = true.std() / np.hypot(true.std(), np.median(rows["cryo2dSlicePow"] ** -0.5))
    assert 0.8 < np.corrcoef(alpha, true)[0, 1] < best
    for group in (1, 2):
        assert alpha[rows["rlnOpticsGroup"] == group].mean() == pytest.approx(1.0, abs=1e-3)
    slot = np.load(folder / "particles.cs")
    np.testing.assert_allclose(slot["alignments2D/alpha"], alpha, rtol=1e-4)
    np.testing.assert_allclose(slot["alignments2D/alpha_min"], rows["cryo2dAlphaMin"], rtol=1e-4)
    plain = classified(stack, *settings)
    assert np.all(plain.columns["alpha"] == 1)
    assert not np.array_equal(plain.averages, read_images(folder / "class_averages.mrcs"))


@pytest.fixture(scope="module")
def dimers(tmp_path_factory) -> Stack:
    """Particles with a neighbour in the box, 105 A to the right of each in its view."""
    folder, box, pixel = tmp_path_factory.mktemp("dimers"), 64, 4.0
    recipe = {"num_molecules": 1, "box": box, "pixel_size": pixel, "num_particles": 160}
    stack = made(folder / "alone", **recipe)
    row, column = np.indices((box, box)) - box // 2
    angle = -np.radians(stack.truth["psi"])
    away = 105.0 / pixel * np.stack([np.cos(angle), np.sin(angle)], 1) + stack.truth["shift"]
    x, y = (axis[:, None, None] for axis in away.T)
    blobs = 1.8 * np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * (12.0 / pixel) ** 2))
    return altered(stack, folder / "two", lambda images: images + blobs)


def test_a_box_with_two_particles_keeps_one(dimers):
    pixel = 4.0
    settings = [
        "model.num_classes=2",
        "model.icuf=2",
        "model.force_max=true",
        "model.max_resolution=8",
        "optimizer.iterations=3",
        "optimizer.batch_per_class=60",
        "model.recenter=false",
        *from_views(dimers),
    ]
    both, cleared, tight = (
        classified(dimers, *settings, *more).averages
        for more in (
            ("model.remove_neighbours=false",),
            (),
            ("model.remove_neighbours=false", "model.mask_diameter=150"),
        )
    )
    row, column = np.indices((64, 64)) - 32
    there = np.abs(np.hypot(row, column) - 105 / pixel) < 12 / pixel
    here = np.hypot(row, column) < 60 / pixel

    def neighbour(averages):
        return averages[:, there].max(1) / averages[:, here].max(1)

    # the view along the sevenfold axis smears its neighbour over a ring
    assert neighbour(both).min() > 0.3
    assert (neighbour(cleared) < 0.7 * neighbour(both)).all()
    assert neighbour(cleared)[1] < 0.1 * neighbour(both)[1]
    assert np.abs(neighbour(tight)).max() < 0.02
    for averages in (cleared, tight):
        alike = [np.corrcoef(a[here], b[here])[0, 1] for a, b in zip(averages, both, strict=True)]
        assert min(alike) > 0.9


def test_off_centre_averages_walk_home_and_their_particles_with_them(stack, tmp_path):
    away = np.roll(read_images(stack.star.parent / "views.mrcs"), 3, axis=2)  # 15 A to the right
    write_stack(tmp_path / "away.mrcs", away, PIXEL, mode=2)
    settings = [
        f"model.initial_references={tmp_path / 'away.mrcs'}",
        "model.max_shift=30",
        "optimizer.iterations=6",
    ]
    home, still = (
        classified(stack, *SHORT, *settings, f"model.recenter={kind}") for kind in ("true", "false")
    )
    axis = np.arange(BOX) - BOX // 2
    for run_, low, high in ((home, 0.0, 7.5), (still, 10.0, 20.0)):
        weight = run_.averages * (run_.averages > 0.2 * run_.averages.max((1, 2), keepdims=True))
        centre = (weight.sum(1) * axis).sum(1) / weight.sum((1, 2)) * PIXEL
        assert low <= np.median(np.abs(centre)) <= high
        assert purity(run_, stack) > 0.8
        # where the particles' shifts say that the molecules lie in their class
        offsets = [
            free_pose(run_, stack, (run_.classes == k) & (stack.truth["view"] == k))[1]
            for k in range(6)
        ]
        assert low <= np.median(np.abs(np.array(offsets)[:, 0])) * PIXEL <= high


def test_negative_stain_needs_no_ctf(tmp_path):
    stack = made(tmp_path, snr=1.0, amplitude_contrast=1.0, defocus_min=1000.0, defocus_max=1500.0)
    text = stack.star.read_text()
    for label in ("DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "CtfBfactor"):
        text = text.replace(f"_rln{label} ", f"_no{label} ")
    stack.star.write_text(text)
    small = [
        "model.num_classes=8",
        "model.force_max=true",
        "optimizer.iterations=8",
        "model.max_resolution=14",
    ]
    with pytest.raises(InputError, match="DefocusU"):
        classified(stack, *small)
    found = classified(stack, "experiment=negative_stain", *small)
    assert views_found(found, stack) >= 5
    assert purity(found, stack) > 0.8


def test_classes_at_the_poses_of_the_file(tmp_path):
    stack = made(tmp_path, snr=0.5)
    settings = ["model.num_classes=8", "model.align=false", "optimizer.iterations=8"]
    settings += ["model.max_resolution=10", "optimizer.batch_per_class=30"]
    with pytest.raises(InputError, match="rlnAnglePsi"):
        classified(stack, *settings)
    psi, shift = stack.truth["psi"] % 360.0, -stack.truth["shift"] * stack.pixel
    tables = starfile.read(stack.star, always_dict=True)
    tables["particles"]["rlnAnglePsi"] = psi
    tables["particles"][["rlnOriginXAngst", "rlnOriginYAngst"]] = shift
    starfile.write(tables, stack.star, overwrite=True)
    found = classified(stack, *settings)
    # nothing was turned or moved, and random subsets became views all the same
    turn = np.degrees(found.psi) - psi
    assert float(np.abs((turn + 180.0) % 360.0 - 180.0).max()) < 1e-2
    np.testing.assert_allclose(found.shift * stack.pixel, shift, atol=1e-2)
    assert purity(found, stack) > 0.9
    errors = pose_errors(found, stack)
    assert errors.right > 0.9
