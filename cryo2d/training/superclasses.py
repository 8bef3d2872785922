"""Superclasses: class averages that show the same view, turned, shifted or mirrored."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.register import Registrar, Registration
from cryo2d.physics.mask import circular_mask

MASK_EDGE = 1.2
FINEST = 15.0  # detail beyond this does not decide what looks alike (Angstrom)
STEP = FINEST / 4  # of the shifts that are tried (Angstrom)


@dataclass(frozen=True)
class Superclasses:
    """Which classes show the same view.

    Attributes:
        label: superclass of each class ``[k]``, the largest is 0; -1 for an empty class.
        representative: its largest class, for each superclass ``[u]``.
        correlation: of all pairs of classes, turned, shifted, mirrored to fit best ``[k k]``.
        pose: takes each class into the frame of its representative ``[k]``.
        images: the classes in those frames, mirrored ones mirrored back ``[k y x]``.
    """

    label: np.ndarray
    representative: np.ndarray
    correlation: np.ndarray
    pose: Registration
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.representative)

    def members(self, number: int) -> np.ndarray:
        """Classes of a superclass."""
        return np.flatnonzero(self.label == number)


@dataclass(frozen=True)
class Grouping:
    """How class averages are put into superclasses: average linkage on their correlation.

    Args:
        min_correlation: clusters are joined while their mean correlation is above this.
        number: superclasses to make instead, or None.
        mirror: whether mirror images show the same view.
        max_shift: longest shift between two averages (Angstrom).
        mask_diameter: circle that is compared (Angstrom), None for the whole box.
    """

    min_correlation: float = 0.8
    number: int | None = None
    mirror: bool = True
    max_shift: float = 15.0
    mask_diameter: float | None = None

    @torch.no_grad()
    def __call__(self, images: np.ndarray, count: np.ndarray, pixel_size: float) -> Superclasses:
        """Superclasses of averages ``[k y x]`` of so many particles ``[k]``."""
        averages = torch.from_numpy(np.array(images, dtype=np.float32))
        registrar = self._registrar(images.shape[-1], pixel_size)
        grid, described = registrar.grid, self._described(registrar, averages, pixel_size)
        found = registrar.all_pairs(described)
        correlation = found.correlation.double().numpy()
        label = self._labels(correlation, count)
        groups = range(label.max() + 1)
        representative = np.array(
            [max(np.flatnonzero(label == g), key=lambda k: count[k]) for g in groups], dtype=int
        )
        centre = torch.from_numpy(np.where(label < 0, np.arange(len(label)), representative[label]))
        own = torch.arange(len(label))
        pose = registrar.refined(described[centre], described, found[centre, own])
        plain = grid.harmonics(grid.sample(averages))
        moved = grid.synthesize(grid.from_harmonics(registrar.moved(plain, pose)))
        return Superclasses(label, representative, correlation, pose, moved.numpy())

    @torch.no_grad()
    def labels(self, images: np.ndarray, count: np.ndarray, pixel_size: float) -> np.ndarray:
        """Superclass of each class ``[k]`` as the whole has it, the largest is 0; -1 for none."""
        averages = torch.from_numpy(np.array(images, dtype=np.float32))
        registrar = self._registrar(images.shape[-1], pixel_size)
        found = registrar.all_pairs(self._described(registrar, averages, pixel_size))
        return self._labels(found.correlation.double().numpy(), count)

    def _registrar(self, box: int, pixel_size: float) -> Registrar:
        grid = PolarGrid(box, int(max(4, min(box // 2, box * pixel_size / FINEST))))
        step = max(1.0, STEP / pixel_size)
        return Registrar(grid, max(step, self.max_shift / pixel_size), self.mirror, step)

    def _described(self, registrar: Registrar, averages: Tensor, pixel_size: float) -> Tensor:
        """Harmonics of what is compared of the averages ``[k m s]``."""
        return sharpened(registrar, averages * self._mask(averages.shape[-1], pixel_size))

    def _mask(self, box: int, pixel_size: float) -> Tensor:
        if self.mask_diameter is None:
            return circular_mask(box, 0.8 * box / 2, 0.95 * box / 2)
        radius = 0.5 * self.mask_diameter / pixel_size
        return circular_mask(box, min(radius, box / 2 - 1), min(MASK_EDGE * radius, box / 2))

    def _labels(self, correlation: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Superclass of each class, numbered by their particles; -1 without particles."""
        used = np.flatnonzero(count > 0)
        label = np.full(len(count), -1)
        if len(used) < 2:
            label[used] = 0
            return label
        distance = np.clip(1.0 - correlation[np.ix_(used, used)], 0.0, None)
        np.fill_diagonal(distance, 0.0)
        tree = linkage(squareform(distance, checks=False), "average")
        if self.number is None:
            found = fcluster(tree, 1.0 - self.min_correlation, "distance")
        else:
            found = fcluster(tree, self.number, "maxclust")
        sizes = np.bincount(found, weights=count[used])
        rank = np.argsort(np.argsort(-sizes[1:], kind="stable"))
        label[used] = rank[found - 1]
        return label


def sharpened(registrar: Registrar, images: Tensor) -> Tensor:
    """Harmonics ``[k m s]`` with the mean falloff over the rings halved.

    As they are, the lowest rings alone would decide, and any two round particles be alike.
    """
    plain = registrar.describe(images)
    amplitude = (plain.abs() ** 2).mean((0, 1)).sqrt()
    factor = amplitude.clamp(min=1e-3 * float(amplitude.max()) + 1e-20).rsqrt()
    return registrar.normalised(plain * factor)


def balanced_sizes(
    size: np.ndarray, factor: float, *, least: int = 1, most: int | None = None
) -> np.ndarray:
    """Particles that each superclass keeps ``[u]``, so that smallest >= factor x largest.

    Args:
        size: particles of each superclass ``[u]``.
        factor: 0 keeps all, 1 makes all as large as the smallest.
        least: smaller superclasses keep all and do not count as the smallest.
        most: no superclass keeps more than this.
    """
    counted = size[size >= max(least, 1)]
    kept = size.copy()
    if factor > 0 and len(counted):
        kept = np.minimum(kept, int(np.floor(counted.min() / factor + 1e-9)))
    return kept if most is None else np.minimum(kept, most)


def chosen(
    label: np.ndarray, kept: np.ndarray, quality: np.ndarray | None, seed: int
) -> np.ndarray:
    """Which particles stay ``[n]`` (bool).

    Args:
        label: superclass of each particle ``[n]``.
        kept: particles that each superclass keeps ``[u]``.
        quality: the highest stay ``[n]``; None for random ones. Ties are broken at random.
        seed: of the random order.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(label))
    if quality is not None:
        order = order[np.argsort(-np.nan_to_num(quality[order], nan=-np.inf), kind="stable")]
    order = order[np.argsort(label[order], kind="stable")]
    sizes = np.bincount(label, minlength=len(kept))
    place = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = np.zeros(len(label), dtype=bool)
    keep[order] = place < kept[label[order]]
    return keep
