"""Job ``rank``: the classes of a run with a score each, and what speaks against them."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.io.averages import ClassAverages, read_class_averages
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.source import Source, read_source
from cryo2d.ranking.ranker import ClassScores, read_ranker
from cryo2d.ranking.references import compared
from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import ANGSTROM, draw_montage
from cryo2d.training.drawing.report import Flow, Table, cell, class_table
from cryo2d.training.drawing.style import image_png

log = logging.getLogger(__name__)

CAPTION = (
    "Best score first. Below each average: particles and class number, resolution at FRC 0.143 and "
    "mean effective number of classes (ESS), score from 0 (bad) to 1 (good)."
)
REFERENCE_LABELS = ("correlation", f"FRC 0.5 ({ANGSTROM})", "sharpness")
REFERENCE_COLUMNS = ("reference_correlation", "reference_resolution", "reference_sharpness")


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Score the classes of a run; particles, poses and class numbers stay as they are.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Number of particles in classes with a score above a half, for sweeps.

    Raises:
        InputError: for anything wrong with the run, the ranker or the volume.
    """
    ranker = read_ranker(None if cfg.ranker is None else to_absolute_path(cfg.ranker))
    source = read_source(cfg)
    found = source.alignment("class_index")
    assert source.run is not None
    assert found.class_index is not None
    averages = read_class_averages(source.run)
    scores = ranker(averages)
    ranked = scores.added_to(averages)
    if cfg.references is not None:
        columns = compared(averages, to_absolute_path(cfg.references))
        ranked = replace(ranked, columns=ranked.columns | columns)
    count = np.bincount(found.class_index, minlength=len(averages))
    good = int(count[scores.score > 0.5].sum())
    deliver(run_dir, source, ranked, scores, count)
    log.info(
        "%d of %d classes with %s of %s particles score above 0.5\n%s",
        (scores.score > 0.5).sum(),
        len(averages),
        f"{good:,}",
        f"{count.sum():,}",
        run_dir / "report.html",
    )
    return float(good)


def deliver(
    run_dir: Path, source: Source, ranked: ClassAverages, scores: ClassScores, count: np.ndarray
) -> None:
    """Write averages, particles, picture and page."""
    out = Delivery(run_dir, source.table.source)
    out.averages(ranked)
    out.particles(source.table, averages="class_averages.mrcs")
    out.excluded(source.excluded)
    table = table_of(ranked, scores, count)
    order = np.lexsort((-count, -scores.score))
    mask = source.inherited(None, "model.mask_diameter", None)
    good = scores.score > 0.5
    montage = draw_montage(
        ranked.images,
        table,
        pixel_size=ranked.pixel_size,
        title=f"{good.sum()} of {len(ranked)} classes score above 0.5",
        subtitle=f"{count[good].sum():,} of {count.sum():,} particles",
        order=order,
        mask_diameter=mask,
        tile=min(192, max(144, ranked.images.shape[-1])),
    )
    picture = Picture("Classes by score", image_png(montage), CAPTION, "classes.png", 1.0)
    out.picture(picture)
    parts = {"classified": len(source.table), "excluded": len(source.excluded.table)}
    headline = {
        "classes above 0.5": f"{good.sum()} of {len(ranked)}",
        "their particles": f"{count[good].sum():,}",
        "median score": number(float(np.median(scores.score)), 2),
    }
    radius = None if mask is None else 0.5 * mask / ranked.pixel_size
    page = with_references(class_table(ranked.images, table, order, radius), ranked, order)
    facts = {"classes": len(ranked), "classes_above_half": int(good.sum())}
    out.close("Ranked classes", Flow(source.total, parts), headline, facts=facts, tables=[page])


def table_of(ranked: ClassAverages, scores: ClassScores, count: np.ndarray) -> ClassTable:
    """The classes as tables and pictures show them."""
    unknown = np.full(len(ranked), np.nan)
    names = ("resolution", "resolution_half", "ess", "posterior")
    values = {name: ranked.columns.get(name, unknown) for name in names}
    return ClassTable(count=count, **values, score=scores.score, reason=scores.reasons)


def with_references(table: Table, ranked: ClassAverages, order: np.ndarray) -> Table:
    """The table with the comparison to the references, if there was one."""
    if REFERENCE_COLUMNS[0] not in ranked.columns:
        return table
    values = [ranked.columns[name] for name in REFERENCE_COLUMNS]
    rows = [
        replace(row, cells=[*row.cells, *(cell(float(v[k]), 2) for v in values)])
        for row, k in zip(table.rows, order, strict=True)
    ]
    return replace(table, labels=(*table.labels, *REFERENCE_LABELS), rows=rows)
