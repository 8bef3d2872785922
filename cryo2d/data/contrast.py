"""Whether the particles are brighter or darker than their surroundings, from the images alone."""

import logging
import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cryo2d.physics.mask import radius_grid

log = logging.getLogger(__name__)

INSIDE, OUTSIDE = 0.5, 0.9
"""Ends of the centre and of the background, as parts of the half box."""

FEWEST, MOST = 200, 4000
CERTAIN = 8.0
"""Standard errors from which a mean contrast is no accident."""


@dataclass
class Contrast:
    """Mean brightness of the centre of the boxes against their background.

    d = (mean of the centre - mean of the background) / deviation of the background, averaged over
    the first images. Low frequencies carry little contrast (the amplitude contrast), but of all
    particles together it is plain.

    Attributes:
        count: images seen.
        total: sum of d.
        squares: sum of d^2.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, images: Tensor) -> None:
        """Take some images ``[n y x]`` into account."""
        if self.count >= MOST or not len(images):
            return
        found = centre_contrast(images[:MOST]).double()
        with self._lock:
            self.count += len(found)
            self.total += float(found.sum())
            self.squares += float(found.square().sum())

    @property
    def mean(self) -> float:
        """Mean of d."""
        return self.total / max(self.count, 1)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        variance = self.squares / max(self.count, 1) - self.mean**2
        return (max(variance, 0.0) / max(self.count, 1)) ** 0.5

    def warn(self, source: str, *, invert: bool) -> None:
        """Say so if the particles are dark where bright ones are expected, or the other way."""
        sign = -1.0 if invert else 1.0
        if self.count < FEWEST or sign * self.mean > -CERTAIN * self.error:
            return
        log.warning(
            "%s: particles look %s than their background (%.3f of its deviation, %.0f standard "
            "errors): if the averages come out black, set data.invert=%s",
            source,
            "brighter" if invert else "darker",
            abs(self.mean),
            abs(self.mean) / max(self.error, 1e-12),
            "false" if invert else "true",
        )


def centre_contrast(images: Tensor) -> Tensor:
    """d of each image ``[n y x] -> [n]``; 0 where the background is constant."""
    box = images.shape[-1]
    radius = radius_grid(box).to(images.device) / (box / 2)
    inside, outside = (radius < INSIDE).float(), (radius > OUTSIDE).float()
    pixels = images.flatten(1)
    # large offsets go first: single precision
    pixels = pixels - pixels.mean(1, keepdim=True)
    centre, background = (pixels @ (part / part.sum()).flatten() for part in (inside, outside))
    square = pixels.square() @ (outside / outside.sum()).flatten()
    deviation = (square - background.square()).clamp(min=0.0).sqrt()
    return torch.where(deviation > 0, (centre - background) / deviation, 0.0)
