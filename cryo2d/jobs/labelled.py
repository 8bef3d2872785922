"""Class averages of simulated particles, labelled from the truth."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hydra import compose
from numpy.random import Generator
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import max_pool2d

from cryo2d.geometry.fourier import fourier_shift
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import ring_correlation
from cryo2d.io.averages import ClassAverages
from cryo2d.jobs.classify import fitted
from cryo2d.physics.solvent import gaussian
from cryo2d.ranking.features import BRIGHT
from cryo2d.simulate.fold import rotation
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.particles import simulate
from cryo2d.simulate.phantom import Phantom, project
from cryo2d.simulate.recipe import JUNK_NAMES
from cryo2d.simulate.scene import Kind
from cryo2d.training.callbacks.averages import class_averages
from cryo2d.training.drawing.classes import ClassTable
from cryo2d.types import Assignments

COMPARED = 12  # good members of a class whose clean projections are compared with its average
SEEN = 0.1  # of its brightest part: where a projection ends
REACH = 4  # an average may have moved by so many pixels since its particles were aligned
QUIET = ("pytorch_lightning", "cryo2d.jobs.classify", "cryo2d.training")


@dataclass(frozen=True)
class Labelled:
    """Class averages and what is true of them.

    Attributes:
        averages: of one classification.
        good: share of the members of each class that are whole single molecules ``[k]``.
        likeness: mean ring correlation of an average with the clean projections of its good
            members, over the rings to a sixth of the molecule's diameter ``[k]``.
        clutter: area of what is as bright as a molecule beyond them, in areas of theirs ``[k]``.
        species: molecule of most good members, -1 without any ``[k]``.
        names: of the molecules.
    """

    averages: ClassAverages
    good: NDArray[np.float64]
    likeness: NDArray[np.float64]
    clutter: NDArray[np.float64]
    species: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """One classification of one simulated stack: settings of both."""

    simulation: dict[str, Any]
    classification: dict[str, Any]

    @classmethod
    def random(cls, names: Sequence[str], particles: int, rng: Generator) -> "Draw":
        """Settings from hopeless to easy.

        Args:
            names: molecules of which there are one or more.
            particles: about so many.
            rng: source of randomness.
        """
        chosen = rng.permutation(list(names))[: rng.integers(1, len(names) + 1)].tolist()
        box, pixel = int(rng.choice([48, 56, 64])), float(rng.uniform(3.6, 5.2))
        diameter = max(molecule.diameter for molecule in molecules(chosen))
        # a box of 1.35 to 2 diameters
        pixel = float(np.clip(pixel, 1.35 * diameter / box, 2.0 * diameter / box))
        clean, crowded = rng.random() < 0.25, rng.random() < 0.6
        simulation: dict[str, Any] = {
            "num_particles": int(particles * rng.uniform(0.6, 1.4)),
            "box": box,
            "pixel_size": round(pixel, 3),
            "molecules": chosen,
            "views": None if rng.random() < 0.4 else int(rng.integers(1, 7)),
            "snr": float(np.exp(rng.uniform(np.log(0.12 if clean else 0.05), np.log(0.6)))),
            "junk_fraction": float(rng.uniform(0.0, 0.05) if clean else rng.uniform(0.05, 0.55)),
            "junk": rng.permutation(JUNK_NAMES)[: rng.integers(2, 5)].tolist(),
            "neighbours": float(rng.choice([0.0, 0.3, 1.0])),
            "crowding": float(rng.uniform(0.5, 4.0)) if crowded else 0.0,
            "micelle": float(rng.choice([0.0, 0.0, 0.0, 0.8])),
            "shift_sigma": float(rng.uniform(0.0, 0.06) * diameter),
            "gradient": float(rng.uniform(0.0, 0.3)),
            "num_micrographs": 12,
            "seed": int(rng.integers(2**31)),
        }
        masked = rng.random() < 0.6
        most = 0.9 * box * pixel
        classification = {
            "model.num_classes": int(rng.integers(8, 20)),
            "model.mask_diameter": (
                round(min(diameter * rng.uniform(1.05, 1.6), most), 1) if masked else None
            ),
            "model.max_resolution": round(pixel * float(rng.uniform(2.2, 3.0)), 2),
            "model.clamp_solvent": bool(rng.random() < 0.15),
            "model.remove_neighbours": bool(rng.random() < 0.35),
            # without it averages of few particles are full of noise
            "model.frc_regularizer": bool(rng.random() < 0.85),
            "model.local_regularizer": None if rng.random() < 0.8 else False,
            "optimizer.iterations": int(rng.integers(10 if clean else 4, 28)),
            "optimizer.batch_per_class": int(rng.integers(12, 25)),
            "seed": int(rng.integers(2**31)),
        }
        return cls(simulation, classification)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the messages of the single classifications."""
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def labelled(draw: Draw) -> Labelled:
    """Simulate, classify and label."""
    fixed = ["logger=none", "hardware=cpu", "hardware.threads=1", "model.force_max=true"]
    cfg = compose("classify", [*fixed, "+hardware.trainer.enable_progress_bar=false"])
    cfg.callbacks = None
    for key, value in draw.classification.items():
        OmegaConf.update(cfg, key, value)
    with TemporaryDirectory() as scratch, quiet():
        cfg.data.path = str(simulate(Path(scratch), **draw.simulation))
        truth = dict(np.load(Path(scratch, "truth.npz"), allow_pickle=False))
        module = fitted(cfg, Path(scratch))
    summary, found = module.summary, module.assignments
    assert summary is not None
    assert found is not None
    averages = class_averages(summary, ClassTable.of_iteration(summary), module.pixel_size)
    return label(averages, found, truth)


def label(averages: ClassAverages, found: Assignments, truth: Mapping[str, NDArray]) -> Labelled:
    """What is true of the averages of these assignments."""
    names = tuple(truth["names"].tolist())
    members = found.class_index.numpy()
    size = len(averages)
    count = np.bincount(members, minlength=size)
    own = truth["kind"] == Kind.GOOD
    good = np.bincount(members[own], minlength=size) / np.maximum(count, 1)
    species, likeness, clutter = np.full(size, -1), np.zeros(size), np.zeros(size)
    phantoms = molecules(names)
    for k in range(size):
        rows = np.flatnonzero(own & (members == k))
        if not len(rows):
            continue
        species[k] = np.bincount(truth["species"][rows]).argmax()
        rows = rows[np.linspace(0, len(rows) - 1, min(COMPARED, len(rows))).round().astype(int)]
        clean = [_clean(int(row), averages, found, truth, phantoms) for row in rows]
        diameter = phantoms[species[k]].diameter / averages.pixel_size
        views = torch.cat(clean)
        image = _over(torch.from_numpy(averages.images[k].copy()), views.mean(0))
        likeness[k] = _likeness(image, views, diameter)
        clutter[k] = _clutter(image, views.mean(0), diameter)
    return Labelled(averages, good, likeness, clutter, species, names)


def _clean(
    row: int,
    averages: ClassAverages,
    found: Assignments,
    truth: Mapping[str, NDArray],
    phantoms: Sequence[Phantom],
) -> Tensor:
    """The projection of a particle's molecule in the frame of its class ``[1 y x]``."""
    turn = torch.from_numpy(rotation((0.0, 0.0, 1.0), np.degrees(float(found.psi[row]))))
    shift = truth["shift"][row] * truth["apix"] + found.shift[row].double().numpy()
    moved = turn[:2, :2] @ torch.from_numpy(shift / averages.pixel_size)
    pose = turn @ torch.from_numpy(truth["R"][row]).double()
    phantom, box = phantoms[truth["species"][row]], averages.images.shape[-1]
    return project(phantom, pose[None], moved[None].float(), box, averages.pixel_size)


def _over(image: Tensor, clean: Tensor) -> Tensor:
    """An average ``[y x]``, moved by whole pixels to where it fits a projection best."""
    box = image.shape[-1]
    spectrum = torch.fft.rfft2(image - image.mean()).conj() * torch.fft.rfft2(clean)
    cross = torch.fft.irfft2(spectrum, s=(box, box))
    near = torch.arange(-REACH, REACH + 1)
    at = int(cross[near[:, None], near].argmax())
    y, x = near[at // len(near)], near[at % len(near)]
    return fourier_shift(image[None], torch.tensor([[float(x), float(y)]]))[0]


def _likeness(image: Tensor, clean: Tensor, diameter: float) -> float:
    """Mean ring correlation of an average and projections ``[n y x]``; diameter in pixels."""
    box = image.shape[-1]
    rings = min(box // 2 - 1, max(3, round(6.0 * box / diameter)))
    grid = PolarGrid(box, rings)
    one, two = (grid.harmonics(grid.sample(part)) for part in (image[None], clean))
    return float(ring_correlation(grid, one, two).mean())


def _clutter(image: Tensor, clean: Tensor, diameter: float) -> float:
    """Bright area beyond the molecules of a projection, over theirs; diameter in pixels."""
    low, ideal = gaussian(torch.stack([image, clean]), diameter / 15.0)
    margin = 2 * round(0.06 * diameter) + 1
    covered = ideal > SEEN * ideal.max()
    beyond = max_pool2d(covered[None, None].float(), margin, 1, margin // 2)[0, 0] == 0
    if not (beyond.any() and covered.any()):
        return 0.0
    level = low[beyond].median()
    height = torch.quantile(low[covered] - level, 0.9).clamp(min=1e-20)
    return float((low[beyond] - level > BRIGHT * height).sum() / covered.sum())
