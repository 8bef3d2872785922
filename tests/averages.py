"""Class averages made by hand: a sharp view, and what can be wrong with one."""

import numpy as np
from scipy.ndimage import gaussian_filter

from cryo2d.io.averages import ClassAverages, Rings

FLAWS = ("view", "blurred", "moved", "crowded", "noise", "empty")


def view(box: int, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """A lump of seven Gaussians with edges, about half as wide as the box."""
    rng = np.random.default_rng(5)
    rows, columns = (np.indices((box, box)) - box // 2) / box
    image = np.zeros((box, box))
    places = [(0.0, 0.0), *rng.uniform(-0.1, 0.1, (6, 2))]
    for cy, cx in places:
        image += np.exp(-((rows - cy - y) ** 2 + (columns - cx - x) ** 2) / (2 * 0.045**2))
    return image


def classes(box: int = 64, pixel_size: float = 3.0) -> ClassAverages:
    """A good class, four bad ones in the order of ``FLAWS``, and one without particles."""
    rng = np.random.default_rng(0)
    radius = np.hypot(*(np.indices((box, box)) - box // 2))
    sharp = view(box)
    # the same noise pattern in every box
    grain = gaussian_filter(rng.normal(size=(box, box)), 0.02 * box)
    noise = gaussian_filter(rng.normal(size=(box, box)), 0.025 * box)
    images = np.stack(
        [
            sharp,
            gaussian_filter(sharp, 0.08 * box),
            view(box, 0.16, 0.1),
            sharp + 2.0 * view(box, 0.36, 0.0) * (radius < 0.45 * box),
            noise / noise.std(),
            np.zeros((box, box)),
        ]
    )
    images[:-1] += 0.02 * grain / grain.std() * images[:-1].max((1, 2), keepdims=True)
    images *= np.clip(0.47 * box - radius, 0.0, 1.0)
    length = box * pixel_size
    frequency = np.arange(1, 30) / length
    reach = np.array([22.0, 6.0, 18.0, 14.0, 5.0, 3.0])
    waves = frequency * length
    frc = 1.0 / (1.0 + np.exp((waves - reach[:, None]) / 1.5))
    frc[4] *= 0.6
    columns = {
        "count": np.array([300, 180, 150, 120, 60, 0]),
        "resolution": length / (reach + 2.6),
        "resolution_half": length / reach,
        "ess": np.array([1.1, 1.6, 1.3, 1.3, 2.4, np.nan]),
        "posterior": np.array([0.95, 0.8, 0.9, 0.9, 0.6, np.nan]),
    }
    return ClassAverages(images.astype(np.float32), pixel_size, columns, Rings(frc, frequency))
