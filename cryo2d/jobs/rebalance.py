"""Job ``rebalance``: superclasses of like views, evened out and brought into register."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from cryo2d.data.outcome import with_text_column
from cryo2d.errors import InputError, Problem
from cryo2d.geometry.register import through
from cryo2d.io.averages import ClassAverages, read_class_averages
from cryo2d.io.particles import AlignmentColumns, Excluded, ParticleTable
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.source import Source, read_source
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import ANGSTROM, grey_levels
from cryo2d.training.drawing.report import Flow, Row, Table, cell, thumbnail
from cryo2d.training.drawing.style import image_png
from cryo2d.training.drawing.superclasses import draw_sizes, draw_superclasses
from cryo2d.training.superclasses import Grouping, Superclasses, balanced_sizes, chosen

log = logging.getLogger(__name__)

SUPERCLASSES = (
    "Class averages of each superclass, turned and shifted into the frame of its largest class; "
    "mirrored ones are shown mirrored back. Above: particles kept; below: particles and class."
)
SIZES = "Particles of each superclass before (light) and after (dark)."
REMOVED = "more particles of this view than are kept"


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Thin out the views that have most particles.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Number of particles kept, for sweeps.

    Raises:
        InputError: for anything wrong with the particles or the averages.
    """
    source = read_source(cfg)
    found = source.alignment("class_index", "psi", "shift")
    averages = averages_of(source, found)
    assert found.class_index is not None
    count = np.bincount(found.class_index, minlength=len(averages))
    words = cfg.superclasses
    mask = source.inherited(words.mask_diameter, "model.mask_diameter", None)
    grouping = Grouping(
        words.min_correlation,
        None if words.number is None else min(words.number, int((count > 0).sum())),
        words.mirror,
        words.max_shift,
        mask,
    )
    groups = grouping(averages.images, count, averages.pixel_size)
    label = groups.label[found.class_index]
    size = np.bincount(label, minlength=len(groups))
    kept = balanced_sizes(size, cfg.factor, least=cfg.least, most=cfg.most)
    quality = found.class_posterior if cfg.keep == "best" else None
    if cfg.keep == "best" and quality is None:
        expected = "rlnMaxValueProbDistribution, or alignments2D/class_posterior"
        problem = Problem(source.table.source, "no class posterior", expected, "set keep=random")
        raise InputError([problem])
    keep = chosen(label, kept, quality, cfg.seed)
    table = with_superclass(source.table, label)
    numbers = class_numbers(groups)
    if words.register:
        table = registered(table, found, groups, numbers, averages.pixel_size)
    radius = None if mask is None else 0.5 * mask / averages.pixel_size
    return deliver(run_dir, source, table, keep, groups, count, kept, averages, numbers, radius)


def averages_of(source: Source, found: AlignmentColumns) -> ClassAverages:
    """The class averages of the run.

    Raises:
        InputError: if there are fewer than classes in use.
    """
    assert source.run is not None
    assert found.class_index is not None
    averages = read_class_averages(source.run)
    most = int(found.class_index.max(initial=0))
    if most >= len(averages):
        path = str(source.run / "class_averages.star")
        expected = f"an average of class {most + 1} of {source.table.source}"
        action = "give the folder of one run"
        raise InputError([Problem(path, f"{len(averages)} averages", expected, action)])
    return averages


def with_superclass(table: ParticleTable, label: np.ndarray) -> ParticleTable:
    """The particles with superclass and old class, from 1, as columns."""
    assert table.alignment is not None
    before = table.alignment.class_index
    assert before is not None
    table = with_text_column(table, "cryo2dSuperclass", (label + 1).astype(str))
    return with_text_column(table, "cryo2dClassBefore", (before + 1).astype(str))


def class_numbers(groups: Superclasses) -> np.ndarray:
    """New class of each class ``[k]``: that of its superclass, mirrored ones after all others."""
    mirrored = groups.pose.mirrored.numpy() & (groups.label >= 0)
    numbers = groups.label.copy()
    for i, group in enumerate(np.unique(groups.label[mirrored])):
        numbers[mirrored & (groups.label == group)] = len(groups) + i
    return numbers


def registered(
    table: ParticleTable,
    found: AlignmentColumns,
    groups: Superclasses,
    numbers: np.ndarray,
    pixel_size: float,
) -> ParticleTable:
    """The particles in the frames of their superclasses.

    Args:
        table: particles.
        found: their classes and poses.
        groups: superclasses and poses of the classes.
        numbers: new class of each class ``[k]``.
        pixel_size: of the averages (Angstrom).
    """
    assert found.class_index is not None
    assert found.psi is not None
    assert found.shift is not None
    pose = groups.pose[torch.from_numpy(found.class_index)]
    pose = replace(pose, shift=pose.shift * pixel_size)
    psi, shift = through(torch.from_numpy(found.psi), torch.from_numpy(found.shift), pose)
    index = numbers[found.class_index]
    new = replace(found, class_index=index, psi=psi.numpy(), shift=shift.numpy())
    return table.with_alignment(new)


def merged(
    groups: Superclasses, numbers: np.ndarray, count: np.ndarray, averages: ClassAverages
) -> ClassAverages:
    """Mean of the registered averages of each new class, weighted by particles."""
    size = int(numbers.max(initial=-1)) + 1
    images = np.zeros((size, *averages.images.shape[1:]), np.float32)
    total = np.bincount(numbers[numbers >= 0], weights=count[numbers >= 0], minlength=size)
    resolution = np.full(size, np.inf)
    known = averages.columns.get("resolution", np.full(len(count), np.inf))
    for k in np.flatnonzero(numbers >= 0):
        image = groups.images[k]
        if groups.pose.mirrored[k]:
            # about the centre box // 2: the first column of an even box has no partner
            image = np.roll(image[:, ::-1], 1 - image.shape[-1] % 2, axis=1)
        images[numbers[k]] += image * (count[k] / max(total[numbers[k]], 1))
        resolution[numbers[k]] = min(resolution[numbers[k]], known[k])
    columns = {"count": total.astype(np.int64), "resolution": resolution}
    return ClassAverages(images, averages.pixel_size, columns)


def deliver(
    run_dir: Path,
    source: Source,
    table: ParticleTable,
    keep: np.ndarray,
    groups: Superclasses,
    count: np.ndarray,
    kept: np.ndarray,
    averages: ClassAverages,
    numbers: np.ndarray,
    radius: float | None,
) -> float:
    """Write everything; the number of particles kept."""
    out = Delivery(run_dir, source.table.source)
    name = None
    if table.aligned:
        out.averages(merged(groups, numbers, count, averages))
        name = "class_averages.mrcs"
    out.particles(table.take(keep), averages=name)
    gone = table.take(~keep)
    out.excluded(Excluded(gone, (REMOVED,) * len(gone)), "removed")
    out.excluded(source.excluded)
    mirrored = groups.pose.mirrored.numpy() & (groups.label >= 0)
    montage = draw_superclasses(groups.images, groups.label, count, mirrored, kept, radius)
    heading = "Superclasses"
    out.picture(Picture(heading, image_png(montage), SUPERCLASSES, "superclasses.png", 1.0))
    before = np.array([count[groups.members(g)].sum() for g in range(len(groups))])
    out.picture(Picture("Sizes", draw_sizes(before, kept), SIZES, "sizes.png"))
    parts = {"kept": int(keep.sum()), "removed": len(gone), "excluded": len(source.excluded.table)}
    flow = Flow(source.total, parts)
    headline = {
        "kept": f"{keep.sum():,}",
        "superclasses": f"{len(groups)} of {(count > 0).sum()} classes",
        "largest": f"{before.max():,} \u2192 {kept.max():,}",
        "smallest": f"{before.min():,} \u2192 {kept.min():,}",
    }
    table_of = superclass_table(groups, count, kept, averages)
    out.close(
        "Rebalanced views", flow, headline, facts={"superclasses": len(groups)}, tables=[table_of]
    )
    log.info("%s\n%s superclasses\n%s", flow, len(groups), run_dir / "report.html")
    return float(keep.sum())


def superclass_table(
    groups: Superclasses, count: np.ndarray, kept: np.ndarray, averages: ClassAverages
) -> Table:
    """One row per superclass."""
    levels = grey_levels(averages.images)
    resolution = averages.columns.get("resolution", np.full(len(count), np.nan))
    rows = []
    for g in range(len(groups)):
        members = groups.members(g)
        pairs = groups.correlation[np.ix_(members, members)]
        alike = pairs[np.triu_indices(len(members), 1)]
        cells = [
            cell(g + 1),
            cell(len(members)),
            cell(int(count[members].sum())),
            cell(int(kept[g])),
            cell(alike.mean() if len(alike) else np.nan, 3),
            cell(resolution[members].min(), 1),
        ]
        rows.append(Row(cells, thumbnail(levels[groups.representative[g]])))
    labels = (
        "superclass",
        "classes",
        "particles",
        "kept",
        "mean correlation",
        f"best resolution ({ANGSTROM})",
    )
    return Table("Table of superclasses", labels, rows, pictures=True)
