"""What tells a good class average from a bad one, in numbers that any microscope shares.

Lengths are relative to the particle, contrasts to the average itself: rotation, contrast, box and
pixel size drop out. A number that is not known is nan.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from cryo2d.io.averages import ClassAverages

Array = NDArray[Any]

FEATURES: Mapping[str, int] = {
    "resolution": 1,
    "resolution_half": 1,
    "agreement": 1,
    "first_rings": 1,
    "middle_rings": 1,
    "last_rings": 1,
    "overall": 1,
    "waves": 0,
    "count": 0,
    "certainty": 1,
    "ambiguity": -1,
    "share": 0,
    "strength": 0,
    "contrast": 1,
    "edges": 1,
    "detail": 1,
    "focus": 1,
    "fine_focus": 1,
    "off_centre": -1,
    "rim": -1,
    "beyond": -1,
    "second": -1,
    "apart": -1,
    "pieces": -1,
    "size": 0,
    "odd_size": -1,
    "filling": 0,
    "compactness": 0,
    "hollow": 0,
    "turning": 0,
    "slope": 0,
    "unsupported": -1,
    "ring": -1,
}
"""Name of each feature, and whether more of it can only raise (1) or lower (-1) a score."""

HELD = 0.9  # of the brightness lies within a particle's extent
BRIGHT = 0.3  # of the way from the solvent to the brightest pixels
FINEST = 8.0  # wavelengths across a particle that detail is looked for at
COARSEST = 1.0
LEAST = 6  # pixels of anything
CORE = 0.4  # of the brightness lies surely within the particles
FADED = 0.12  # of the brightest circle: where the particles end
BANDS = {"first_rings": (0.0, 1.7), "middle_rings": (1.7, 3.5), "last_rings": (3.5, FINEST)}


@dataclass(frozen=True)
class Shape:
    """The bright part of one average.

    Attributes:
        level: of the solvent at the rim.
        height: brightest above solvent.
        solvent: deviation of the solvent at the rim.
        extent: diameter of the circle that holds most of the brightness (pixel).
        centre: distance of the centre of mass of all bright parts from the box centre (pixel).
        apart: share of the bright area that is not of the main part.
        pieces: bright parts.
        edge: mean slope on the main part's outline (1/pixel of the height).
        reach: distance of the main part's farthest pixel from its own centre (pixel).
        hollow: brightness within a quarter of the extent over the main part's mean.
        main: pixels of the main part ``[y x]`` (bool).
        around: those and a margin.
    """

    level: float
    height: float
    solvent: float
    extent: float
    centre: float
    apart: float
    pieces: int
    edge: float
    reach: float
    hollow: float
    main: Array
    around: Array


@dataclass(frozen=True)
class Averages:
    """Class averages as the features see them: solvent near 0, and where it begins.

    Args:
        classes: the averages and what is known of them.
    """

    classes: ClassAverages

    @cached_property
    def images(self) -> Array:
        """``[k y x]`` float64."""
        return self.classes.images.astype(np.float64)

    @cached_property
    def radius(self) -> Array:
        """Distance of every pixel from the box centre ``[y x]`` (pixel)."""
        y, x = np.indices(self.images.shape[-2:]) - self.images.shape[-1] // 2
        return np.hypot(y, x)

    @cached_property
    def support(self) -> float:
        """Radius of the circle outside of which the averages are flat (pixel)."""
        box = self.images.shape[-1]
        ring = np.rint(self.radius).astype(int).ravel()
        spread = self.images - np.median(self.images, axis=(1, 2), keepdims=True)
        power = np.bincount(ring, (spread**2).mean(0).ravel()) / np.bincount(ring)
        used = np.flatnonzero(power[: box // 2 + 1] > 0.01 * power[: box // 2 + 1].max(initial=0))
        return float(np.clip(used.max(initial=box // 4), 4, box // 2))

    @cached_property
    def used(self) -> Array:
        """Classes that show anything ``[k]`` (bool)."""
        spread = np.ptp(self.images, axis=(1, 2))
        some = spread > 1e-9 * max(spread.max(initial=0.0), 1e-30)
        return some & (self.classes.columns.get("count", np.ones(len(spread))) > 0)

    @cached_property
    def shapes(self) -> list[Shape]:
        """Of every class."""
        return [self._shape(image, low) for image, low in zip(self.images, self.low, strict=True)]

    def _shape(self, image: Array, low: Array) -> Shape:
        inside = self.radius <= self.support
        rim = (self.radius >= 0.75 * self.support) & (self.radius <= 0.95 * self.support)
        level = float(np.median(low[rim]))
        height = max(float(np.percentile(low[inside], 99.0)) - level, 1e-30)
        bright = inside & (low - level > BRIGHT * height)
        parts, number = label(bright, np.ones((3, 3)))
        areas = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        large = areas >= max(3.0, 0.03 * areas.sum())
        main = parts == 1 + int(areas.argmax()) if number else bright
        middle = len(image) // 2
        y, x = (np.indices(image.shape) - middle).astype(float)
        weight = np.where(bright, low - level, 0.0)
        total = max(weight.sum(), 1e-30)
        centre = np.hypot((weight * y).sum() / total, (weight * x).sum() / total)
        area = max(int(main.sum()), 1)
        away = np.hypot(y - (weight * y).sum() / total, x - (weight * x).sum() / total)
        order = np.argsort(away, axis=None)
        held = np.searchsorted(np.cumsum(weight.ravel()[order]), HELD * weight.sum())
        extent = 2.0 * max(away.ravel()[order][min(held, order.size - 1)], 1.0)
        own_y, own_x = (y[main].mean(), x[main].mean()) if main.any() else (0.0, 0.0)
        far = np.hypot(y - own_y, x - own_x)
        slope = np.hypot(*np.gradient(low)) / height
        outline = main & (low - level < 0.6 * height)
        core = far <= 0.25 * extent
        mean = float(low[main].mean()) - level if main.any() else height
        return Shape(
            level=level,
            height=height,
            solvent=float((image - low)[rim].std() + low[rim].std()),
            extent=float(extent),
            centre=float(centre),
            apart=1.0 - area / max(areas.sum(), 1),
            pieces=int(large.sum()),
            edge=float(slope[outline].mean()) if outline.any() else 0.0,
            reach=float(far[main].max()) if main.any() else 0.0,
            hollow=float((low[core].mean() - level) / max(mean, 1e-30)),
            main=main,
            around=distance_transform_edt(~main) <= 0.1 * self.support,
        )

    @cached_property
    def extent(self) -> float:
        """Diameter of the particles, the middle one of the classes (pixel)."""
        found = np.array([shape.extent for shape in self.shapes])[self.used]
        if not len(found):
            return self.support
        weight = self.classes.columns.get("count", np.ones(len(self.used)))[self.used]
        order = np.argsort(found)
        share = np.cumsum(weight[order])
        return float(max(found[order][np.searchsorted(share, 0.5 * share[-1])], 3.0))

    @cached_property
    def reach(self) -> float:
        """Radius where the mean of all classes has faded, or where neighbours begin (pixel)."""
        ring = np.rint(self.radius).astype(int).ravel()
        size = int(min(self.support, len(self.images[0]) // 2)) + 1
        inside, number = ring < size, np.bincount(ring)[:size]
        bright = np.zeros(size)
        for image, shape, used in zip(self.low, self.shapes, self.used, strict=True):
            if used:
                above = np.maximum(image - shape.level, 0.0).ravel()[inside] / shape.height
                bright += np.bincount(ring[inside], above)
        profile = gaussian_filter(bright / number, 1.0, mode="nearest")
        held = np.cumsum(bright) / max(bright.sum(), 1e-30)
        first = int(np.searchsorted(held, CORE))
        # in a hollow particle that is before its wall
        while first + 1 < size and profile[first + 1] > profile[first]:
            first += 1
        after = profile[first:]
        ends = (after < FADED * profile.max()) | (np.diff(after, append=after[-1:]) > 0)
        return float(max(first + int(ends.argmax() if ends.any() else len(after)), 3))

    @cached_property
    def low(self) -> Array:
        """Low-passed, ``[k y x]``."""
        smooth = max(0.7, self.support / 20.0)
        return np.stack([gaussian_filter(image, smooth) for image in self.images])

    @cached_property
    def spectrum(self) -> tuple[Array, Array]:
        """Mean power of the rings ``[k s]`` and their wave numbers per particle ``[s]``."""
        box = self.images.shape[-1]
        plane = np.abs(np.fft.fft2(self.images - self.images.mean((1, 2), keepdims=True))) ** 2
        axis = np.fft.fftfreq(box) * box
        ring = np.rint(np.hypot(axis[:, None], axis)).astype(int).ravel()
        area = np.bincount(ring)[1 : box // 2]
        power = np.stack([np.bincount(ring, p.ravel())[1 : box // 2] for p in plane]) / area
        return power, np.arange(1, box // 2) * self.extent / box


def class_features(classes: ClassAverages) -> dict[str, Array]:
    """Features of every class, ``[k]`` each, by the names of ``FEATURES``."""
    seen = Averages(classes)
    found = _numbers(seen) | _pictures(seen) | _spectra(seen)
    return {name: np.asarray(found[name], np.float64) for name in FEATURES}


def _numbers(seen: Averages) -> dict[str, Array]:
    """What the classification says of its classes."""
    columns, size = seen.classes.columns, len(seen.classes)
    unknown = np.full(size, np.nan)
    length = seen.extent * seen.classes.pixel_size
    found = dict.fromkeys(("agreement", "overall", "waves", *BANDS), unknown)
    for name in ("resolution", "resolution_half"):
        waves = length / np.maximum(columns.get(name, unknown), 1e-6)
        found[name] = np.log(np.clip(waves, 0.3, FINEST))
    if seen.classes.rings is not None:
        waves = seen.classes.rings.frequency * length
        frc = np.clip(np.nan_to_num(seen.classes.rings.frc), 0.0, 1.0)
        step = waves[0] if len(waves) else 1.0
        # rings beyond the last one of a coarse average count as without agreement; finer ones
        # than are looked for do not count, or a run to a high resolution would be judged harshly
        looked = waves <= FINEST
        found["overall"] = frc[:, looked].mean(1) if looked.any() else np.zeros(size)
        found["waves"] = np.full(size, np.log(np.clip(waves.max(initial=0.0), 1.0, FINEST)))
        found["agreement"] = np.log(0.3 + frc[:, waves <= FINEST].sum(1) * step)
        for name, (low, high) in BANDS.items():
            band = (waves >= low) & (waves <= high)
            found[name] = frc[:, band].mean(1) if band.any() else np.zeros(size)
    count = columns.get("count", unknown)
    found["count"] = np.log(np.clip(count, 5.0, 200.0))
    found["share"] = np.clip(np.log((count + 1.0) / (count.mean() + 1.0)), -3.0, 2.0)
    found["certainty"] = columns.get("posterior", unknown)
    found["ambiguity"] = np.log(np.clip(columns.get("ess", unknown), 1.0, 10.0))
    return found


def _pictures(seen: Averages) -> dict[str, Array]:
    """What an average looks like."""
    names = [f.name for f in fields(Shape) if f.type is not Array]
    shape = {name: np.array([getattr(s, name) for s in seen.shapes], float) for name in names}
    height, extent = shape["height"], np.maximum(shape["extent"], 1.0)
    usual = np.median(height[seen.used]) if seen.used.any() else 1.0
    outer = (seen.radius > 0.75 * seen.support) & (seen.radius <= seen.support)
    power = (seen.images**2 * (seen.radius <= seen.support)).sum((1, 2))
    size = np.log(extent / seen.extent)
    return {
        "strength": np.clip(np.log(height / max(usual, 1e-30)), -3.0, 3.0),
        "contrast": np.clip(np.log(height / np.maximum(shape["solvent"], 1e-30)), -1.0, 5.0),
        "edges": np.log(np.clip(shape["edge"] * seen.extent, 0.3, 30.0)),
        "off_centre": np.sqrt(np.clip(shape["centre"] / seen.extent, 0.0, 1.0)),
        "beyond": _beyond(seen),
        "second": _second(seen),
        "rim": (seen.images**2 * outer).sum((1, 2)) / np.maximum(power, 1e-30),
        "apart": shape["apart"],
        "pieces": np.log(np.clip(shape["pieces"], 1, 8)),
        "size": np.clip(size, -1.5, 1.5),
        "odd_size": np.clip(np.abs(size), 0.0, 1.5),
        "filling": np.clip(extent / (2.0 * seen.support), 0.0, 1.0),
        "compactness": np.clip(extent / np.maximum(2.0 * shape["reach"], 1.0), 0.0, 1.2),
        "hollow": np.clip(shape["hollow"], -1.0, 2.0),
    }


def _beyond(seen: Averages) -> Array:
    """Square root of the brightness beyond the reach of the particles, over that within ``[k]``."""
    near = seen.radius <= 1.1 * seen.reach
    far = ~near & (seen.radius <= seen.support)
    if far.sum() < LEAST:
        return np.full(len(seen.images), np.nan)
    level = np.array([shape.level for shape in seen.shapes])[:, None]
    inside, outside = (np.maximum(seen.low[:, part] - level, 0.0).sum(1) for part in (near, far))
    return np.sqrt(np.clip(outside / np.maximum(inside, 1e-30), 0.0, 1.0))


def _second(seen: Averages) -> Array:
    """How clearly something beyond the reach of the particles stands alone ``[k]``.

    The share of brightness levels at which a part of the average whose middle lies out there is not
    connected with any other; 1 if it is as bright as the particle and there is solvent between.
    """
    least = max(LEAST, 0.015 * np.pi * seen.reach**2)
    levels = np.linspace(0.15, 0.9, 16)
    found = []
    for low, shape in zip(seen.low, seen.shapes, strict=True):
        alone = 0
        for level in levels:
            bright = (low - shape.level > level * shape.height) & (seen.radius <= seen.support)
            parts, number = label(bright, np.ones((3, 3)))
            area = np.bincount(parts.ravel(), minlength=number + 1)[1:]
            away = np.bincount(parts.ravel(), seen.radius.ravel(), number + 1)[1:]
            alone += bool(((area >= least) & (away > seen.reach * area)).any())
        found.append(alone / len(levels))
    return np.array(found)


def _spectra(seen: Averages) -> dict[str, Array]:
    """What is in which wavelengths of an average."""
    power, waves = seen.spectrum
    area = np.maximum(power, 1e-12 * power.max(initial=1e-30)) * waves
    total = area.sum(1)
    logs = np.log(np.maximum(power, 1e-9 * power.max(1, keepdims=True) + 1e-30))
    band = (waves >= COARSEST) & (waves <= FINEST)
    x = np.log(waves[band]) - np.log(waves[band]).mean()
    fine = (waves >= 2.5) & (waves <= FINEST)
    smooth = (logs[:, :-2] + logs[:, 2:]) / 2.0
    bump = (logs[:, 1:-1] - smooth)[:, (waves >= 3.0)[1:-1]]
    return {
        "detail": np.log(np.clip(area[:, fine].sum(1) / total, 1e-4, 1.0)),
        "slope": np.clip((logs[:, band] * x).sum(1) / max((x**2).sum(), 1e-6), -12.0, 2.0),
        "ring": np.clip(bump.max(1, initial=0.0), 0.0, 3.0),
        "unsupported": _unsupported(seen, area, waves),
        "focus": _focus(seen, 1.5, 3.0),
        "fine_focus": _focus(seen, 3.0, FINEST),
        "turning": _turning(seen),
    }


def _unsupported(seen: Averages, area: Array, waves: Array) -> Array:
    """Logarithm of the share of an average's power where its halves do not agree."""
    rings = seen.classes.rings
    if rings is None or not len(rings.frequency):
        return np.full(len(area), np.nan)
    at = rings.frequency * seen.extent * seen.classes.pixel_size
    frc = np.stack([np.interp(waves, at, curve, right=0.0) for curve in np.nan_to_num(rings.frc)])
    noise = (area * (1.0 - np.clip(frc, 0.0, 1.0))).sum(1) / area.sum(1)
    return np.log(np.clip(noise, 1e-3, 1.0))


def _focus(seen: Averages, coarse: float, fine: float) -> Array:
    """Logarithm of the detail inside the particles over that in the solvent round them.

    Args:
        seen: the averages.
        coarse: longest wavelength, in waves across a particle.
        fine: shortest.
    """
    sigma = [0.25 * seen.extent / waves for waves in (fine, coarse)]
    found = []
    for image, shape in zip(seen.images, seen.shapes, strict=True):
        band = gaussian_filter(image, sigma[0]) - gaussian_filter(image, sigma[1])
        outside = (seen.radius <= 0.95 * seen.support) & ~shape.around
        inside, solvent = band[shape.main], band[outside]
        if len(solvent) < 0.1 * outside.size or len(inside) < 3:
            found.append(np.nan)
            continue
        ratio = inside.std() / max(solvent.std(), 1e-3 * shape.height)
        found.append(np.log(np.clip(ratio, 0.2, 30.0)))
    return np.array(found)


def _turning(seen: Averages) -> Array:
    """Share of the power inside the particle that its mean over all rotations lacks."""
    ring = np.rint(seen.radius).astype(int)
    inside = seen.radius <= min(0.75 * seen.extent, seen.support)
    number = np.maximum(np.bincount(ring[inside]), 1)
    found = []
    for image in seen.images:
        values = image[inside] - image[inside].mean()
        mean = (np.bincount(ring[inside], values) / number)[ring[inside]]
        found.append(((values - mean) ** 2).sum() / max((values**2).sum(), 1e-30))
    return np.array(found)
