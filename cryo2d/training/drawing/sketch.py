"""Curves and bars drawn in milliseconds, for loggers that get some after every iteration.

The figures of :mod:`cryo2d.training.drawing.curves` are finer and take a hundred times as long.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from cryo2d.training.drawing import style
from cryo2d.training.drawing.curves import ROUND_RESOLUTIONS
from cryo2d.training.drawing.montage import ANGSTROM

SIZE = (460, 300)
MARGIN = (46, 28, 12, 24)
"""Left, top, right, bottom (pixel)."""

FINE = 2
"""Drawn so many times larger, and made smaller at the end: smooth lines."""

BARS = 40
MANY = 60
"""Curves beyond which they are drawn thinner."""

Ticks = Sequence[tuple[float, str]]


class Sketch:
    """One pair of axes.

    Args:
        title: above it.
        x: ends of the horizontal axis.
        y: ends of the vertical axis.
    """

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.canvas = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), "white")
        self.draw = ImageDraw.Draw(self.canvas)
        left, top, right, bottom = MARGIN
        self.corner = np.array([left, SIZE[1] - bottom]) * FINE
        self.extent = np.array([SIZE[0] - left - right, top + bottom - SIZE[1]]) * FINE
        self.start = np.array([x[0], y[0]])
        self.span = np.maximum(np.array([x[1] - x[0], y[1] - y[0]]), 1e-12)
        place = (self.corner[0], 5 * FINE)
        self.draw.text(place, title, style.INK, style.font(12 * FINE, True))

    def places(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Pixels ``[n 2]`` of points; outside of the axes they are moved to their edge."""
        share = np.clip((np.stack([x, y], 1) - self.start) / self.span, 0, 1)
        return self.corner + share * self.extent

    def line(self, x: np.ndarray, y: np.ndarray, ink: str, width: int = 1) -> None:
        """A line through the finite points."""
        known = np.isfinite(y)
        points = [(float(u), float(v)) for u, v in self.places(x[known], y[known])]
        if len(points) > 1:
            self.draw.line(points, ink, width)

    def bars(self, edges: np.ndarray, high: np.ndarray) -> None:
        """A histogram: edges ``[b+1]``, heights ``[b]``."""
        low = self.places(edges, np.zeros(len(edges)))
        tops = self.places(edges[1:], high)
        for i in range(len(high)):
            corners = (low[i, 0], tops[i, 1], max(low[i, 0], low[i + 1, 0] - 1), low[i, 1])
            self.draw.rectangle([float(c) for c in corners], style.ACCENT)

    def image(self, x: Ticks, y: Ticks) -> np.ndarray:
        """The picture ``[y x 3]`` (uint8) with its axes.

        Args:
            x: places and labels below.
            y: places and labels at the left.
        """
        font = style.font(10 * FINE)
        (left, bottom), (wide, high) = self.corner, self.extent
        ends = [(left, bottom + high), (left, bottom), (left + wide, bottom)]
        self.draw.line([(float(u), float(v)) for u, v in ends], style.MUTED, FINE)
        for value, text in x:
            across = self.places(np.array([value]), self.start[1:])[0, 0]
            self.draw.text((across, bottom + 4 * FINE), text, style.INK, font, anchor="mt")
        for value, text in y:
            down = self.places(self.start[:1], np.array([value]))[0, 1]
            self.draw.text((left - 4 * FINE, down), text, style.INK, font, anchor="rm")
        return np.asarray(self.canvas.reduce(FINE))


def sketch_frc(frc: np.ndarray, frequency: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Half-set FRC of every class that has particles, and their mean over the particles.

    Args:
        frc: ``[k s]``.
        frequency: ``[s]`` (1/Angstrom).
        count: particles of each class ``[k]``.
    """
    top = float(frequency[-1])
    found = Sketch("Fourier ring correlation of the half-sets", (0, top), (-0.1, 1))
    for level in (0.143, 0.5):
        found.line(np.array([0, top]), np.full(2, level), style.RULE, FINE)
    used = np.flatnonzero(count > 0)
    width = FINE if len(used) <= MANY else 1
    for k in used:
        found.line(frequency, frc[k], style.SOFT, width)
    if len(used):
        mean = (count[used] / count[used].sum()) @ np.nan_to_num(frc[used])
        found.line(frequency, mean, style.INK, 2 * FINE)
    return found.image(
        _resolutions(frequency), [(0, "0"), (0.143, "0.143"), (0.5, "0.5"), (1, "1")]
    )


def sketch_noise(noise: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Noise power of every optics group, on a logarithmic axis.

    Args:
        noise: sigma^2 ``[g s]``.
        frequency: ``[s]`` (1/Angstrom).
    """
    power = np.log10(np.where(noise > 0, noise, np.nan))
    known = power[np.isfinite(power)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    low, high = low - 0.05, max(high, low + 0.1) + 0.05
    found = Sketch("Noise power per Fourier sample", (0, float(frequency[-1])), (low, high))
    for g, row in enumerate(power):
        found.line(frequency, row, style.GROUPS[g % len(style.GROUPS)], 2 * FINE)
    return found.image(
        _resolutions(frequency),
        [(value, f"{10**value:.3g}") for value in np.linspace(low, high, 5)],
    )


def sketch_distributions(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Histograms of the finite values, two in a row.

    Args:
        values: by their names ``[n]`` each.
    """
    parts = []
    for name, numbers in values.items():
        known = numbers[np.isfinite(numbers)]
        high, edges = np.histogram(known, BARS)
        ends = float(edges[0]), float(edges[-1])
        one = Sketch(name.replace("_", " "), ends, (0, float(max(high.max(), 1))))
        one.bars(edges, high)
        ticks = np.linspace(*ends, 5)
        most = [(0.0, "0"), (float(high.max()), f"{high.max()}")]
        parts.append(one.image([(v, f"{v:.3g}") for v in ticks], most))
    if len(parts) % 2:
        parts.append(np.full_like(parts[0], 255))
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return np.concatenate([np.concatenate(pair, axis=1) for pair in pairs])


def _resolutions(frequency: np.ndarray) -> list[tuple[float, str]]:
    """Round resolutions along an axis of frequencies."""
    top = float(frequency[-1])
    found: list[tuple[float, str]] = []
    for resolution in ROUND_RESOLUTIONS.tolist():
        place = 1 / resolution
        if place <= top and (not found or place - found[-1][0] > 0.09 * top):
            found.append((place, f"{resolution:g}"))
    return [*found[:-1], (found[-1][0], f"{found[-1][1]} {ANGSTROM}")] if found else []
