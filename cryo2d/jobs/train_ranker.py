"""Job ``train_ranker``: the model behind the score of a class, from simulations."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from cryo2d.errors import InputError, Problem
from cryo2d.io.atomic import atomic_write
from cryo2d.jobs.labelled import Draw, Labelled, labelled
from cryo2d.ranking.features import class_features
from cryo2d.ranking.fitting import Fit, area_under, held_out, roc
from cryo2d.training.drawing.roc import draw_roc
from cryo2d.training.manifest import versions, write_manifest

log = logging.getLogger(__name__)

HELD_OUT = (
    ("barrel", "solenoid"),
    ("tetramer", "channel"),
    ("ribosome", "rod_with_knob"),
    ("shell", "antibody"),
)
"""Molecules that are simulated together, and held out together."""

COLUMNS = ("share", "likeness", "clutter", "group")
LEAST = 5  # particles of a class that counts
CROWDED = 4.0  # weight of a class that would be good without its neighbours
WORSE = 3  # times the gap beyond a limit a class is surely bad


@dataclass(frozen=True)
class Standard:
    """What makes a class good or bad.

    Attributes:
        min_good: share of whole single molecules among its particles.
        min_likeness: of its average to their projections.
        max_clutter: area of neighbours and other things beside them, in areas of a molecule.
        gap: classes nearer to a limit are left out.
    """

    min_good: float = 0.7
    min_likeness: float = 0.5
    max_clutter: float = 0.1
    gap: float = 0.05

    def good(self, lessons: "Lessons") -> NDArray:
        """Which classes are good ``[k]``."""
        share, likeness = lessons.share >= self.min_good, lessons.likeness >= self.min_likeness
        return share & likeness & (lessons.clutter <= self.max_clutter)

    def weight(self, lessons: "Lessons") -> NDArray:
        """How much each class counts ``[k]``: there are few whose only fault is what is beside."""
        share, likeness = lessons.share >= self.min_good, lessons.likeness >= self.min_likeness
        return np.where(share & likeness & ~self.good(lessons), CROWDED, 1.0)

    def clear(self, lessons: "Lessons") -> NDArray:
        """Which classes are surely good or surely bad ``[k]``."""
        gap = self.gap
        above = (
            (lessons.share >= self.min_good + gap)
            & (lessons.likeness >= self.min_likeness + gap)
            & (lessons.clutter <= self.max_clutter - gap)
        )
        below = (
            (lessons.share < self.min_good - WORSE * gap)
            | (lessons.likeness < self.min_likeness - WORSE * gap)
            | (lessons.clutter > self.max_clutter + WORSE * gap)
        )
        return above | below


@dataclass(frozen=True)
class Lessons:
    """Classes to learn from, ``[k]`` each.

    Attributes:
        features: by name.
        share: of whole single molecules.
        likeness: to their projections.
        clutter: beside them.
        group: index into ``HELD_OUT``.
    """

    features: dict[str, NDArray]
    share: NDArray
    likeness: NDArray
    clutter: NDArray
    group: NDArray

    @classmethod
    def of(cls, examples: Sequence[tuple[Labelled, int]]) -> "Lessons":
        """Of classifications, each with the index of its group."""
        parts = []
        for found, group in examples:
            used = found.averages.columns["count"] >= LEAST
            features = {n: v[used] for n, v in class_features(found.averages).items()}
            truth = (found.good[used], found.likeness[used], found.clutter[used])
            parts.append(cls(features, *truth, np.full(used.sum(), group)))
        names = parts[0].features
        return cls(
            {name: np.concatenate([part.features[name] for part in parts]) for name in names},
            *(np.concatenate([getattr(p, n) for p in parts]) for n in COLUMNS),
        )

    def __getitem__(self, rows: NDArray) -> "Lessons":
        features = {name: values[rows] for name, values in self.features.items()}
        return Lessons(features, *(getattr(self, name)[rows] for name in COLUMNS))


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Simulate, classify, label and fit.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Area under the ROC curve on molecules that were held out, for sweeps.

    Raises:
        InputError: if there are too few good or bad classes to learn from.
    """
    torch.set_num_threads(1)
    examples = []
    for i in range(cfg.classifications):
        group = i % len(HELD_OUT)
        rng = np.random.default_rng([cfg.seed, i])
        found = labelled(Draw.random(HELD_OUT[group], cfg.particles, rng))
        examples.append((found, group))
        log.info("%d of %d: %s", i + 1, cfg.classifications, ", ".join(found.names))
    lessons = Lessons.of(examples)
    standard = Standard(cfg.min_good, cfg.min_likeness, cfg.max_clutter, cfg.gap)
    names = (
        *("classifications", "particles", "min_good", "min_likeness", "max_clutter", "gap"),
        "seed",
    )
    command = " ".join(["cryo2d train_ranker", *(f"{name}={cfg[name]}" for name in names)])
    return teach(lessons, standard, command, run_dir)


def teach(lessons: Lessons, standard: Standard, command: str, folder: Path) -> float:
    """Fit, judge on what was held out, and write.

    Args:
        lessons: labelled classes.
        standard: what makes one good.
        command: that makes the same ranker again.
        folder: for ranker.json, roc.png and the manifest.

    Returns:
        Area under the ROC curve on molecules that were held out.

    Raises:
        InputError: if there are too few good or bad classes to learn from.
    """
    clear, good = standard.clear(lessons), standard.good(lessons)
    counts = {"good": good & clear, "bad": ~good & clear, "unclear": ~clear}
    classes = {name: int(rows.sum()) for name, rows in counts.items()}
    if min(classes["good"], classes["bad"]) < len(HELD_OUT):
        found = f"{classes['good']} good and {classes['bad']} bad classes"
        action = "simulate more (classifications=80)"
        raise InputError([Problem("settings", found, "some dozens of each", action)])
    fit = Fit()
    weight = standard.weight(lessons)
    odds = held_out(lessons.features, good, clear, lessons.group, fit, weight)
    rows = {"all": clear}
    for group, names in enumerate(HELD_OUT):
        own = clear & (lessons.group == group)
        if 0 < good[own].sum() < own.sum():
            rows[", ".join(names)] = own
    rows["with the unclear"] = np.ones_like(clear)
    curves = {name: roc(odds[own], good[own]) for name, own in rows.items()}
    areas = {name: area_under(odds[own], good[own]) for name, own in rows.items()}
    about = {
        "command": command,
        "classes": classes,
        "held_out_auc": {name: round(value, 4) for name, value in areas.items()},
    }
    used = lessons[clear]
    ranker = fit(used.features, good[clear], about, weight[clear])
    named = {f"{name}: AUC {areas[name]:.3f}": curve for name, curve in curves.items()}
    contents = {
        "ranker.json": ranker.text().encode(),
        "roc.png": draw_roc(named, 1.0 / (1.0 + np.exp(-odds[clear])), good[clear]),
    }
    for name, content in contents.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"finished": finished, "versions": versions(), **about}
    write_manifest(folder, list(contents), facts)
    lines = [f"  {name:28}{value:.3f}" for name, value in areas.items()]
    log.info("%s\nAUC of held-out molecules:\n%s", classes, "\n".join(lines))
    return areas["all"]
