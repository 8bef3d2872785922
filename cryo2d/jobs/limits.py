"""Settings of a classification that the particles limit: box, mask, bands, number of classes."""

import logging
from collections.abc import Iterator

from omegaconf import DictConfig

from cryo2d.errors import InputError, Problem
from cryo2d.training.assembly import Frame

log = logging.getLogger(__name__)

LEAST_RINGS = 3  # of a band that can be aligned on
LEAST_MASK = 8  # diameter of the smallest mask (pixel of the working box)


def check_classes(cfg: DictConfig, count: int) -> None:
    """Refuse more classes than particles.

    Args:
        cfg: composed configuration of the job.
        count: number of particles.

    Raises:
        InputError: with the largest number of classes.
    """
    classes = cfg.model.num_classes
    if classes > count:
        most = f"at most the number of particles, {count}"
        raise InputError([_problem("num_classes", classes, most)])


def check_frame(cfg: DictConfig, frame: Frame) -> None:
    """Refuse what does not fit the box, and say what the data cannot give.

    Raises:
        InputError: for masks and shifts beyond the box, and bands without rings.
    """
    problems = [*_box_problems(cfg, frame), *_band_problems(cfg, frame)]
    if problems:
        raise InputError(problems)
    model, nyquist = cfg.model, 2 * frame.pixel_size
    if model.max_resolution < nyquist - 1e-6:
        log.warning(
            "model.max_resolution=%g A is beyond Nyquist; %.2f A is used.",
            model.max_resolution,
            nyquist,
        )
    finest = max(model.max_resolution, nyquist)
    if (model.max_align_resolution or finest) < finest - 1e-6:
        log.warning(
            "model.max_align_resolution=%g A is finer than the averages; %.2f A is used.",
            model.max_align_resolution,
            finest,
        )


def _box_problems(cfg: DictConfig, frame: Frame) -> Iterator[Problem]:
    """Lengths that do not fit the box."""
    model, least = cfg.model, LEAST_MASK * frame.pixel_size
    for key, low, high, limit in (
        ("mask_diameter", least, frame.length, "the box"),
        ("mask_diameter_outer", least, frame.length, "the box"),
        ("max_shift", 0.0, frame.length / 2, "half the box"),
    ):
        value = model[key]
        if value is not None and not low <= value <= high:
            yield _problem(key, value, f"{low:.0f} A to {limit}, {high:.0f} A")


def _band_problems(cfg: DictConfig, frame: Frame) -> Iterator[Problem]:
    """A band of the alignment with too few rings, by the setting that makes it so narrow."""
    model = cfg.model
    if frame.align_rings - frame.first_ring >= LEAST_RINGS:
        return
    finest = frame.length / LEAST_RINGS
    for key in ("max_resolution", "max_align_resolution"):
        if model[key] is not None and frame.ring(model[key]) < LEAST_RINGS:
            yield _problem(key, model[key], f"at most a third of the box, {finest:.1f} A")
            return
    least = frame.length / max(frame.align_rings - LEAST_RINGS + 1, 1)
    yield _problem(
        "min_align_resolution",
        model.min_align_resolution,
        f"a band of at least {LEAST_RINGS} rings: min_align_resolution above {least:.1f} A here",
    )


def _problem(key: str, value: object, expected: str) -> Problem:
    return Problem("command line", f"model.{key}={value}", expected, f"change model.{key}")
