"""The quick pictures for loggers show what the numbers say."""

import numpy as np
from PIL import ImageColor

from cryo2d.training.drawing import sketch, style
from cryo2d.training.drawing.sketch import MARGIN, SIZE, Sketch

LEFT, TOP, RIGHT, BOTTOM = MARGIN
WIDE, HIGH = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM


def ink_at(image: np.ndarray, x: float, y: float, colour: str) -> bool:
    """Whether that colour is near a place, as parts of the axes from left to right and up."""
    column, row = LEFT + x * WIDE, TOP + (1 - y) * HIGH
    near = image[int(row) - 2 : int(row) + 3, int(column) - 2 : int(column) + 3].reshape(-1, 3)
    wanted = np.array(ImageColor.getrgb(colour))
    return bool((np.abs(near.astype(int) - wanted).max(1) < 60).any())


def test_a_line_goes_through_its_points_and_leaves_out_what_is_unknown():
    one = Sketch("title", (0, 4), (0, 1))
    one.line(np.arange(5.0), np.array([0.2, 0.2, np.nan, 0.8, 0.8]), style.INK, 4)
    image = one.image([], [])
    assert image.shape == (SIZE[1], SIZE[0], 3)
    assert ink_at(image, 0.1, 0.2, style.INK)
    assert ink_at(image, 0.9, 0.8, style.INK)
    # straight across the gap
    assert ink_at(image, 0.5, 0.5, style.INK)
    assert not ink_at(image, 0.5, 0.8, style.INK)


def test_the_mean_is_over_particles_and_empty_classes_are_left_out():
    frequency = np.linspace(0.01, 0.1, 10)
    frc = np.array([np.full(10, 0.9), np.full(10, 0.1), np.full(10, np.nan)])
    image = sketch.sketch_frc(frc, frequency, np.array([300, 100, 0]))
    assert ink_at(image, 0.5, (0.7 + 0.1) / 1.1, style.INK)
    assert ink_at(image, 0.5, (0.9 + 0.1) / 1.1, style.SOFT)
    empty = sketch.sketch_frc(frc, frequency, np.zeros(3, int))
    assert not ink_at(empty, 0.5, (0.7 + 0.1) / 1.1, style.INK)


def test_noise_of_every_group_is_drawn_even_if_it_is_zero_or_constant():
    frequency = np.linspace(0.01, 0.1, 10)
    noise = np.array([np.full(10, 1.0), np.geomspace(10, 100, 10)])
    image = sketch.sketch_noise(noise, frequency)
    assert ink_at(image, 0.5, 0.05 / 2.1, style.GROUPS[0])
    assert ink_at(image, 0.96, 1.99 / 2.1, style.GROUPS[1])
    assert sketch.sketch_noise(np.zeros((1, 10)), frequency).shape == image.shape
    assert sketch.sketch_noise(np.ones((1, 10)), frequency).shape == image.shape


def test_bars_count():
    values = np.concatenate([np.zeros(30), np.ones(10), [np.nan]])
    image = sketch.sketch_distributions({"a": values, "b": np.ones(3), "c": values})
    assert image.shape == (2 * SIZE[1], 2 * SIZE[0], 3)
    assert ink_at(image, 0.01, 0.95, style.ACCENT)
    assert ink_at(image, 0.99, 0.3, style.ACCENT)
    assert not ink_at(image, 0.99, 0.4, style.ACCENT)
    assert not ink_at(image, 0.5, 0.1, style.ACCENT)
