"""Job ``subset``: particles that follow rules, or the better of two populations."""

import logging
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from cryo2d.data.mixture import Mixture, fit_mixture
from cryo2d.data.quantities import HIGH_IS_WORSE, Quantities
from cryo2d.errors import InputError, Problem
from cryo2d.io.averages import ClassAverages, read_class_averages
from cryo2d.io.particles import Excluded
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.expressions import Expression, parse
from cryo2d.jobs.source import Source, read_source
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import grey_levels
from cryo2d.training.drawing.report import Flow, Row, Table, cell, thumbnail
from cryo2d.training.drawing.subset import draw_mixture, draw_removed

log = logging.getLogger(__name__)

LEAST_SEPARATION = 2.0
LEAST_VALUES = 10


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Sort the particles into particles.star and .cs, and removed.star and .cs.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Number of particles kept, for sweeps.

    Raises:
        InputError: for anything wrong with the particles, the rules or the column.
    """
    if cfg.rules is None and cfg.mixture is None:
        action = "say what is kept, as in rules='class_posterior > 0.5'"
        raise InputError([Problem("command line", "neither rules nor mixture", "one", action)])
    source = read_source(cfg)
    averages = averages_of(source)
    columns = Quantities(source.table, None if averages is None else averages.columns)
    rule = None if cfg.rules is None else parse(cfg.rules, columns)
    high = None if cfg.mixture is None else direction(cfg.mixture, cfg.worse, columns)
    out = Delivery(run_dir, source.table.source)
    keep = np.ones(len(source.table), dtype=bool)
    reasons = np.full(len(keep), "", dtype=object)
    notes: list[str] = []
    tables: list[Table] = []
    if rule is not None:
        keep = apply_rules(rule, columns, reasons, notes, tables)
        out.picture(rules_picture(rule, columns, keep))
    if high is not None:
        split(cfg.mixture, high, columns, keep, reasons, notes, out)
    removed = Excluded(source.table.take(~keep), tuple(reasons[~keep].tolist()))
    out.particles(source.table.take(keep))
    out.excluded(removed, "removed")
    out.excluded(source.excluded)
    kept = int(keep.sum())
    parts = {"kept": kept, "removed": len(removed.table), "excluded": len(source.excluded.table)}
    headline = {"kept": f"{kept:,}", "of the particles": f"{kept / max(len(keep), 1):.1%}"}
    if "class" in columns:
        tables.append(table_of_classes(columns["class"], keep, averages))
    rules = {"rules": cfg.rules, "mixture": cfg.mixture}
    flow = Flow(source.total, parts)
    out.close("Subset of particles", flow, headline, facts=rules, notes=notes, tables=tables)
    log.info("%s\n%s", "\n".join([str(flow), *notes]), run_dir / "report.html")
    return float(kept)


def averages_of(source: Source) -> ClassAverages | None:
    """Class averages of the run the particles come from, if any."""
    if source.run is None or not (source.run / "class_averages.star").is_file():
        return None
    return read_class_averages(source.run)


def direction(name: str, worse: str | None, columns: Quantities) -> bool:
    """Whether high values of a column are the bad ones.

    Raises:
        InputError: if there is no such column, its bad end is not known, or it has one value only.
    """
    parse(f"{name} > 0", columns, setting="mixture")
    if worse is None and name not in HIGH_IS_WORSE:
        action = "add worse=low or worse=high"
        found = f"mixture={name}"
        raise InputError([Problem("command line", found, "to know which end is bad", action)])
    values = columns[name]
    values = values[np.isfinite(values)]
    if len(values) < LEAST_VALUES or values.std() <= 1e-9 * np.abs(values).max(initial=0.0):
        found, expected = f"one value of {name} in all particles", "a column that differs"
        raise InputError([Problem("command line", found, expected, "choose another column")])
    return HIGH_IS_WORSE[name] if worse is None else worse == "high"


def apply_rules(
    rule: Expression,
    columns: Quantities,
    reasons: np.ndarray,
    notes: list[str],
    tables: list[Table],
) -> np.ndarray:
    """Which particles follow the rules ``[n]``; the others are told which part they do not."""
    values = {name: columns[name] for name in rule.names}
    keep = rule(values)
    rows = []
    for part in rule.conjuncts():
        broken = ~part(values)
        rows.append(Row([(part.text, part.text), cell(int(broken.sum()))]))
        reasons[broken & (reasons != "")] += "; "
        reasons[broken] += f"not {part.text}"
    tables.append(Table("Rules", ("rule", "particles that break it"), rows))
    for name, column in values.items():
        missing = int(np.isnan(column).sum())
        if missing:
            notes.append(f"{missing:,} particles have no {name}.")
    return keep


def rules_picture(rule: Expression, columns: Quantities, keep: np.ndarray) -> Picture:
    """How the columns of the rules are distributed among the kept and the others."""
    values = {name: columns[name] for name in rule.names}
    png = draw_removed(values, keep, rule.limits())
    caption = "Blue: kept; orange: removed. Dashed: the numbers a column is compared with."
    return Picture("Columns of the rules", png, caption, "rules.png")


def split(
    name: str,
    high: bool,
    columns: Quantities,
    keep: np.ndarray,
    reasons: np.ndarray,
    notes: list[str],
    out: Delivery,
) -> Mixture:
    """Clear ``keep`` of the worse population of a column; returns the two populations."""
    values = columns[name]
    used = keep & np.isfinite(values)
    mixture = fit_mixture(values[used])
    cut = mixture.cut
    worse = keep & ~(values < cut if high else values > cut)
    sign = "above" if high else "below"
    reasons[worse] = f"{name} {sign} {cut:.5g}"
    keep &= ~worse
    log.info("%s particles have %s %s %.5g.", f"{worse.sum():,}", name, sign, cut)
    if mixture.separation < LEAST_SEPARATION:
        notes.append(
            f"The two populations of {name} overlap (separation {mixture.separation:.1f}; 2 is "
            "clear): there may be only one, and the cut may mean nothing."
        )
    png = draw_mixture(values[used], mixture, name, high)
    caption = (
        f"Lines: two Gaussian populations at {mixture.mean[0]:.4g} and {mixture.mean[1]:.4g}, and "
        f"their sum; {worse.sum():,} particles, shaded, are removed."
    )
    out.picture(Picture("Two populations", png, caption, "mixture.png"))
    return mixture


def table_of_classes(
    classes: np.ndarray, keep: np.ndarray, averages: ClassAverages | None
) -> Table:
    """How much of each class is kept."""
    index = classes.astype(np.int64) - 1
    size = max(int(index.max(initial=-1)) + 1, 0 if averages is None else len(averages))
    before, after = (np.bincount(index[rows], minlength=size) for rows in (keep | True, keep))
    pictures = None if averages is None else grey_levels(averages.images)
    rows = []
    for k in np.argsort(-before, kind="stable").tolist():
        share = 100 * after[k] / before[k] if before[k] else np.nan
        cells = [cell(k + 1), cell(int(before[k])), cell(int(after[k])), cell(share, 1)]
        picture = b"" if pictures is None or not before[k] else thumbnail(pictures[k])
        rows.append(Row(cells, picture, empty=not before[k]))
    labels = ("class", "particles", "kept", "kept (%)")
    return Table("Table of classes", labels, rows, pictures=pictures is not None)
