"""What the particles cannot give is refused before anything is computed, with what they can."""

import logging

import pytest
from truth import composed, simulated

from cryo2d.errors import InputError
from cryo2d.jobs.classify import frame_of, run
from cryo2d.jobs.particles import load, with_particles

BOX, PIXEL = 40, 5.0  # 200 A


@pytest.fixture(scope="module")
def star(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    recipe = {"num_particles": 12, "box": BOX, "pixel_size": PIXEL, "num_micrographs": 2}
    return simulated(folder, **recipe, views=1, num_molecules=1).star


def frame(star, folder, *typed):
    cfg = composed(f"data.path={star}", "model.num_classes=2", *typed)
    table, _ = load(with_particles(cfg, folder))
    return frame_of(cfg, table)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("model.mask_diameter=201", "model.mask_diameter=201: expected 40 A to the box, 200 A"),
        ("model.mask_diameter=20", "40 A to the box"),
        ("model.mask_diameter_outer=250", "model.mask_diameter_outer=250: expected"),
        ("model.max_shift=101", "0 A to half the box, 100 A"),
        ("model.max_resolution=90", "model.max_resolution=90: expected at most a third of the box"),
        (
            "model.max_align_resolution=70",
            "model.max_align_resolution=70: expected at most a third",
        ),
        ("model.min_align_resolution=11", "above 11.1 A here"),
    ],
)
def test_lengths_and_bands_have_to_fit(star, tmp_path, typed, says):
    with pytest.raises(InputError) as error:
        frame(star, tmp_path, "model.max_resolution=10", typed)
    assert len(error.value.problems) == 1
    problem = error.value.problems[0]
    assert says in f"{problem.found}: expected {problem.expected}"
    assert typed.partition("=")[0] in problem.action


@pytest.mark.parametrize(
    "typed",
    [
        ("model.mask_diameter=200",),
        ("model.mask_diameter=180",),  # the outer radius would leave the box and is cut
        ("model.mask_diameter=40",),
        ("model.max_shift=100",),
        ("model.max_align_resolution=66",),
        ("model.min_align_resolution=11.2",),
        ("model.min_align_resolution=500",),
    ],
)
def test_the_limits_themselves_are_accepted(star, tmp_path, typed):
    found = frame(star, tmp_path, "model.max_resolution=10", *typed)
    assert found.align_rings - found.first_ring >= 3
    assert found.mask_radii[1] <= BOX / 2


def test_all_that_does_not_fit_comes_in_one_report(star, tmp_path):
    with pytest.raises(InputError) as error:
        frame(star, tmp_path, "model.mask_diameter=300", "model.max_shift=200")
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("model.max_resolution=4", "max_resolution=4 A is beyond Nyquist; 10.00 A is used"),
        (
            "model.max_align_resolution=7",
            "max_align_resolution=7 A is finer than the averages; 12.00 A is used",
        ),
    ],
)
def test_finer_than_possible_is_said_and_cut(star, tmp_path, caplog, typed, says):
    with caplog.at_level(logging.WARNING):
        found = frame(star, tmp_path, "model.max_resolution=12", typed)
    assert says in caplog.text
    assert found.ring(found.max_resolution) == found.align_rings == found.grid.num_rings
    caplog.clear()
    frame(star, tmp_path, "model.max_resolution=12", "model.max_align_resolution=15")
    assert "is used" not in caplog.text


def test_more_classes_than_particles_are_refused_before_images_are_read(star, tmp_path):
    cfg = composed(f"data.path={star}", "model.num_classes=13", "model.max_resolution=10")
    cfg.callbacks = {}
    stack = star.with_suffix(".mrcs")
    hidden = stack.read_bytes()
    stack.write_bytes(hidden[:1024] + b"\xff" * (len(hidden) - 1024))  # all NaN
    try:
        with pytest.raises(InputError, match="at most the number of particles, 12"):
            run(cfg, tmp_path)
    finally:
        stack.write_bytes(hidden)
    cfg = composed(f"data.path={star}", "model.num_classes=5", "data.max_particles=4")
    cfg.callbacks = {}
    with pytest.raises(InputError, match="at most the number of particles, 4"):
        run(cfg, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "typed",
    [
        ("model.min_align_resolution=20", "model.max_align_resolution=30"),
        ("model.mask_diameter=100", "model.mask_diameter_outer=90"),
        ("data.window_inner=0.9", "data.window_outer=0.8"),
        ("model.non_negative=true",),
        ("model.recenter=false", "model.recenter_binary=true"),
        ("model.frc_regularizer=false", "model.full_frc=false"),
        ("model.clamp_solvent=true", "model.local_regularizer=true"),
        ("model.initial_references=a.mrcs", "model.initial_scale=0.5"),
    ],
)
def test_settings_that_contradict_each_other(typed):
    with pytest.raises(InputError) as error:
        composed(*typed)
    assert len(error.value.problems) == 1
    assert all(setting.partition("=")[0] in str(error.value) for setting in typed)
