"""Runs of the job on simulated stacks, and how far their results are from the truth."""

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import starfile
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from scipy.ndimage import affine_transform

from cryo2d import cli
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.io.mrc import read_images
from cryo2d.jobs import settings
from cryo2d.jobs.classify import run
from cryo2d.physics.mask import circular_mask
from cryo2d.simulate.particles import simulate
from cryo2d.types import IterationSummary

Array = NDArray[Any]
LEAN = [
    "hardware=cpu",
    "hardware.threads=1",
    "logger=none",
    "seed=4",
    "+hardware.trainer.enable_progress_bar=false",
]


@dataclass(frozen=True)
class Stack:
    """A simulated stack: ``particles.star`` and what is true of it (pixels, degrees)."""

    star: Path
    truth: dict[str, Array]

    @classmethod
    def of(cls, folder: Path) -> "Stack":
        return cls(folder / "particles.star", dict(np.load(folder / "truth.npz")))

    @property
    def pixel(self) -> float:
        return float(self.truth["apix"])

    @property
    def good(self) -> Array:
        return self.truth["kind"] == 0


def simulated(folder: Path, **recipe: Any) -> Stack:
    simulate(folder, **recipe)
    return Stack.of(folder)


@dataclass(frozen=True)
class Found:
    """A result, one row per particle of the stack.

    Attributes:
        classes: 0-based, -1 where a particle is missing ``[n]``.
        psi: image -> class (radian) ``[n]``.
        shift: image -> class (pixel of the stack) ``[n 2]``.
        averages: ``[k y x]``, in the working box.
        columns: what else was found, by name ``[n]``.
        history: summary of every iteration.
    """

    classes: Array
    psi: Array
    shift: Array
    averages: Array
    columns: dict[str, Array] = field(default_factory=dict)
    history: list[IterationSummary] = field(default_factory=list)


class Keep(pl.Callback):
    """Keeps what a run found, without files."""

    history: list[IterationSummary]
    module: Any

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        type(self).history, type(self).module = [], pl_module

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.history.append(pl_module.summary)


def composed(*overrides: str) -> DictConfig:
    """A checked configuration of the job."""
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        cfg = compose("classify", overrides=[*LEAN, *overrides])
    settings.check("classify", cfg)
    return cfg


def classified(stack: Stack, *overrides: str) -> Found:
    """What the job finds; nothing is drawn or written."""
    cfg = composed(*overrides)
    cfg.data.path = str(stack.star)
    cfg.callbacks = OmegaConf.create({"keep": {"_target_": f"{__name__}.Keep"}})
    with tempfile.TemporaryDirectory() as scratch:
        run(cfg, Path(scratch))
    module = Keep.module
    found = {name: value.numpy() for name, value in vars(module.assignments).items()}
    found |= {"half": module.halves.numpy(), "optics": module.optics.numpy()}
    return Found(
        classes=found.pop("class_index"),
        psi=found.pop("psi"),
        shift=found.pop("shift") / stack.pixel,
        averages=module.summary.averages.numpy(),
        columns=found,
        history=list(Keep.history),
    )


def written(folder: Path, stack: Stack) -> Found:
    """What the files of a run say."""
    rows = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    row = np.array([int(re.match(r"\d+", name).group()) - 1 for name in rows["rlnImageName"]])
    count = len(stack.truth["kind"])
    classes, psi, shift = np.full(count, -1), np.zeros(count), np.zeros((count, 2))
    classes[row] = rows["rlnClassNumber"] - 1
    psi[row] = np.radians(rows["rlnAnglePsi"])
    shift[row] = rows[["rlnOriginXAngst", "rlnOriginYAngst"]] / stack.pixel
    return Found(classes, psi, shift, read_images(folder / "class_averages.mrcs"))


def purity(found: Found, stack: Stack, label: str = "view") -> float:
    """Share of the good particles that share their class's most frequent label."""
    own = stack.good & (found.classes >= 0)
    classes, labels = found.classes[own], stack.truth[label][own]
    return sum(np.bincount(labels[classes == k]).max() for k in np.unique(classes)) / len(labels)


def views_found(found: Found, stack: Stack) -> int:
    """Views that most particles of some class show, junk counted, in classes of some size."""
    return len({view for view, _ in _majorities(found, stack) if view >= 0})


def junk_classes(found: Found, stack: Stack) -> int:
    """Classes whose particles are mostly junk."""
    return sum(view < 0 for view, _ in _majorities(found, stack))


def junk_recall(found: Found, stack: Stack) -> float:
    """Share of the junk that sits in junk classes."""
    inside = [k for view, k in _majorities(found, stack) if view < 0]
    return float(np.isin(found.classes[~stack.good], inside).mean())


def _majorities(found: Found, stack: Stack, least: float = 0.005) -> list[tuple[int, int]]:
    """The view, or -1 for junk, that holds the majority of each class: (view, class)."""
    out = []
    for k in np.unique(found.classes[found.classes >= 0]):
        view = stack.truth["view"][found.classes == k]
        if len(view) < max(3, least * len(found.classes)):
            continue
        if (view < 0).mean() > 0.5:
            out.append((-1, int(k)))
            continue
        counts = np.bincount(view[view >= 0])
        if counts.max() >= 0.5 * len(view):
            out.append((int(counts.argmax()), int(k)))
    return out


def symmetric_views(stack: Stack) -> Array:
    """Views that look nearly alike after some in-plane turn ``[v]`` (bool)."""
    views = stack.truth["clean_views"].astype(float)
    centred = views - views.mean((1, 2), keepdims=True)
    worst = np.zeros(len(views))
    for angle in np.radians(np.arange(20.0, 341.0, 4.0)):
        turned = np.stack([placed(view, angle) for view in centred])
        both = (turned * centred).sum((1, 2))
        worst = np.maximum(worst, both / (centred**2).sum((1, 2)))
    return worst > 0.9


@dataclass(frozen=True)
class PoseErrors:
    """Errors of the poses, but for one free turn and offset per class.

    Attributes:
        inplane: degree ``[m]``.
        shift: Angstrom ``[m]``.
        of: good particles of views without rotational symmetry.
    """

    inplane: Array
    shift: Array
    of: int

    @property
    def degrees(self) -> float:
        return float(np.median(self.inplane))

    @property
    def angstrom(self) -> float:
        return float(np.median(self.shift))

    @property
    def right(self) -> float:
        """Share of those good particles in a class of their view and within 10 degrees."""
        return float((self.inplane < 10.0).sum() / self.of)


def pose_errors(found: Found, stack: Stack) -> PoseErrors:
    """Errors of the members of each class's most frequent view."""
    view = stack.truth["view"]
    usable = stack.good & ~symmetric_views(stack)[view]
    inplane, shift = [np.zeros(0)], [np.zeros(0)]
    for k in np.unique(found.classes[usable]):
        own = usable & (found.classes == k)
        if k < 0 or own.sum() < 4:
            continue
        own &= view == np.bincount(view[own]).argmax()
        turn, offset = free_pose(found, stack, own)
        left = found.psi[own] - np.radians(stack.truth["psi"][own]) - turn
        inplane.append(np.degrees(np.abs(np.angle(np.exp(1j * left)))))
        centre = turned(stack.truth["shift"][own] + found.shift[own], found.psi[own])
        shift.append(np.hypot(*(centre - offset).T) * stack.pixel)
    return PoseErrors(np.concatenate(inplane), np.concatenate(shift), int(usable.sum()))


def turned(vector: Array, psi: Array) -> Array:
    """R(psi) on (x, y) ``[n 2]``."""
    c, s = np.cos(psi), np.sin(psi)
    return np.stack(
        [c * vector[:, 0] - s * vector[:, 1], s * vector[:, 0] + c * vector[:, 1]], axis=1
    )


def free_pose(found: Found, stack: Stack, own: Array) -> tuple[float, Array]:
    """Turn (radian) and offset (pixel) of a class against the clean view of its members."""
    left = found.psi[own] - np.radians(stack.truth["psi"][own])
    grid = np.radians(np.arange(0.0, 360.0))
    near = np.exp((np.cos(left[None] - grid[:, None]) - 1.0) / 0.02).sum(1)
    peak = grid[near.argmax()]
    apart = np.angle(np.exp(1j * (left - peak)))
    close = np.abs(apart) < np.radians(25.0)
    centre = turned(stack.truth["shift"][own] + found.shift[own], found.psi[own])
    return float(peak + apart[close].mean()), np.median(centre[close], axis=0)


def placed(image: Array, psi: float, offset: Array | tuple[float, float] = (0.0, 0.0)) -> Array:
    """The image turned by R(psi) about the box centre, then moved by ``offset`` (x, y) pixels."""
    centre = np.full(2, len(image) // 2)
    c, s = np.cos(psi), np.sin(psi)
    back = np.array([[c, -s], [s, c]])  # row, column of the source at row, column of the result
    shift = np.array([offset[1], offset[0]])
    return affine_transform(image, back, centre - back @ (centre + shift), order=3)


def agreement(found: Found, stack: Stack) -> float:
    """Mean Fourier ring correlation of the averages with the clean views they show.

    Over all rings of the working box, weighted by members; both inside a soft circle.
    """
    view, total, weight = stack.truth["view"], 0.0, 0
    box = found.averages.shape[-1]
    views = fourier_resize(torch.from_numpy(stack.truth["clean_views"]), box).double().numpy()
    scale = box / stack.truth["clean_views"].shape[-1]
    circle = circular_mask(box, 0.4 * box, 0.48 * box).double().numpy()
    for shown, k in _majorities(found, stack):
        own = (found.classes == k) & (view == shown)
        if shown < 0 or own.sum() < 4:
            continue
        turn, offset = free_pose(found, stack, own)
        clean = placed(views[shown], turn, scale * offset) * circle
        total += own.sum() * ring_correlations(clean, found.averages[k] * circle).mean()
        weight += own.sum()
    return float(total / max(weight, 1))


def ring_correlations(first: Array, second: Array) -> Array:
    """Fourier ring correlation of two images, rings 1 to box / 2 - 1; 0 where one is blank."""
    box = len(first)
    one, two = np.fft.fft2(first), np.fft.fft2(second)
    axis = np.fft.fftfreq(box) * box
    ring = np.rint(np.hypot(axis[:, None], axis)).astype(int).ravel()
    cross, left, right = (
        np.bincount(ring, values.ravel())[1 : box // 2]
        for values in ((one * two.conj()).real, np.abs(one) ** 2, np.abs(two) ** 2)
    )
    return cross / np.sqrt(left * right).clip(1e-20)
