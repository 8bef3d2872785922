"""Pictures of picks: drawn for any micrograph, and of what moved."""

import io

import numpy as np
import pytest
from PIL import Image

from cryo2d.training.drawing.picks import draw_duplicates, draw_moves


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def reddish(image: np.ndarray) -> int:
    return int(((image[..., 0] - image[..., 2]) > 80).sum())


@pytest.fixture
def places(rng) -> tuple[np.ndarray, np.ndarray]:
    return np.array(["a/one.mrc"] * 30 + ["two.mrc"] * 10), rng.uniform(0, 3000, (40, 2))


def test_rejected_picks_stand_out(places):
    names, place = places
    one, many = (
        pixels(
            draw_duplicates(
                (names, place), (names[:count], place[:count] + 5.0), np.full(count, 7.0), 20.0
            )
        )
        for count in (1, 30)
    )
    assert reddish(many) > reddish(one) > 0


def test_moves_are_drawn(places):
    names, place = places
    still, moved = (
        pixels(draw_moves(names, place, place + step, np.full(40, 1.4 * step)))
        for step in (0.0, 200.0)
    )
    ink = [int((image.sum(2) < 600).sum()) for image in (still, moved)]
    assert ink[1] > ink[0] + 500
