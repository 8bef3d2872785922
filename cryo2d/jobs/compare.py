"""Job ``compare``: runs side by side, and what they agree on."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.outcome import with_text_column
from cryo2d.errors import InputError, Problem
from cryo2d.io.averages import ClassAverages
from cryo2d.io.particles import Excluded
from cryo2d.jobs.consensus import NAME, Consensus, consensus_of
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.finished import FinishedRun, differing, finished_runs
from cryo2d.training.drawing.classes import number
from cryo2d.training.drawing.comparison import (
    draw_agreement,
    draw_settings,
    draw_small,
    draw_stability,
)
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import ANGSTROM, grey_levels, grid_columns
from cryo2d.training.drawing.report import Flow, Row, Table, cell, thumbnail
from cryo2d.training.drawing.similarity import similarity_order
from cryo2d.training.drawing.style import image_png

log = logging.getLogger(__name__)

MOST_MONTAGES = 48
STABLE = 0.5
MOST_SETTINGS = 4
SERIES = "Class averages, run by run"
LOWER_IS_BETTER = ("median_resolution", "mean_frc_resolution")
SHOWN = (
    "median_resolution",
    "effective_classes",
    "mean_posterior",
    "agreement",
    "mean_frc_resolution",
    "stability",
    "junk_separation",
    "likelihood",
)
"""Measures that are drawn; those of them that tell no run from another are left out."""

AGREEMENT = (
    "Adjusted Rand index of each pair of runs: pairs of particles that both put into one class, "
    "corrected for chance. 1: the same classes; 0: as expected of random ones. Runs with different "
    "numbers of classes cannot reach 1."
)
STABILITY = (
    "How far the particles of a particle's class and those that are with it in {others} are the "
    "same, 2 |A and B| / (|A| + |B|), mean over the runs: 1 for a class that all find, 2/3 for one "
    "that they split in two, little for one that comes by chance. Orange: running sum in per cent."
)
ORDER = (
    "At the same place in every run: the class that shares most particles with that of {measure}, "
    "blank where there is none; classes without a partner follow. Bars: sizes of the classes."
)
MADE = (
    "The consensus: classes of particles that the runs keep together. Each average is the mean of "
    "those of the runs in one frame, by the particles that they share, and so are its resolution "
    "and score; cryo2d reconstruct makes averages, with their own resolution, from the particles."
)
UNSHARED = "not in all runs"
SETTINGS = (
    "One point per run; lines: mean of the runs with the same values. Resolution favours few, "
    "large classes: compare it between runs with as many. Stability here: part of the particles "
    "that kept their class in the last iteration."
)


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Compare runs and write the particles with their stability.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Mean adjusted Rand index over all pairs of runs, for sweeps.

    Raises:
        InputError: if there are not two finished runs.
    """
    runs, notes = chosen_runs(cfg)
    consensus = consensus_of(runs, cfg.reference)
    if not consensus.shared:
        notes.append(
            "The runs have no particle in common: only settings and measures are compared."
        )
    measure = cfg.measure or usual_measure(runs, consensus)
    best = best_run(runs, consensus, measure)
    words = f"Best in {measure.replace('_', ' ')}"
    out = Delivery(run_dir, runs[consensus.base].table.source)
    pictures(out, runs, consensus, notes)
    flow = write_particles(out, runs[consensus.base], consensus, cfg.min_stability)
    mean = float(np.mean(consensus.agreement[np.triu_indices(len(runs), 1)]))
    stable = np.nanmean(consensus.particles) if consensus.shared else np.nan
    headline = {
        "runs": str(len(runs)),
        "shared particles": f"{consensus.shared:,}",
        "mean agreement (ARI)": number(mean, 3),
        "mean stability": number(float(stable), 3),
        f"classes of {measure_name(runs, consensus)}": str(len(consensus.averages)),
        f"best in {measure.replace('_', ' ')}": runs[best].name,
    }
    order = ranked(runs, consensus, measure)
    tables = [run_table(runs, consensus, order)]
    if consensus.shared:
        tables.append(class_table(runs, consensus))
    commands = [Row([(runs[i].name,) * 2, (runs[i].command,) * 2]) for i in order]
    tables.append(Table("Command lines", ("run", "command"), commands))
    facts = {
        "runs": [str(r.folder) for r in runs],
        "agreement": [[None if np.isnan(v) else v for v in row] for row in consensus.agreement],
        "classes_of": measure_name(runs, consensus),
        "best": runs[best].command,
    }
    out.close(
        "Comparison of runs",
        flow,
        headline,
        facts=facts,
        notes=notes,
        tables=tables,
        command=(f"{words}: run {runs[best].name}", runs[best].command),
    )
    told = f"{words}: {runs[best].command}"
    lines = [summary(runs, consensus, order), written(runs, consensus), *notes, told]
    lines.append(str(run_dir / "report.html"))
    log.info("%s", "\n".join(lines))
    return mean


def chosen_runs(cfg: DictConfig) -> tuple[list[FinishedRun], list[str]]:
    """The runs to compare, and notes on those left out.

    Raises:
        InputError: if there are not two finished runs, or no run of the reference's number.
    """
    paths = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)
    runs, notes = finished_runs([Path(to_absolute_path(path)) for path in paths])
    if len(runs) < 2:
        action = "name two runs, or the folder of a sweep: cryo2d compare DIR DIR"
        found = f"{len(runs)} finished run{'s' if len(runs) != 1 else ''}"
        raise InputError([Problem("command line", found, "at least 2", action)])
    if cfg.reference is not None and cfg.reference >= len(runs):
        expected = f"the number of a run, 0 to {len(runs) - 1}"
        found = f"reference={cfg.reference}"
        raise InputError([Problem("command line", found, expected, "correct it")])
    return runs, notes


def usual_measure(runs: Sequence[FinishedRun], consensus: Consensus) -> str:
    """Agreement where it can tell runs apart, else the median resolution."""
    return "agreement" if consensus.shared and len(runs) > 2 else "median_resolution"


def ranked(runs: Sequence[FinishedRun], consensus: Consensus, measure: str) -> list[int]:
    """The runs by a measure, the best first; equals in their order, those without it last."""
    values = np.array([measures(run, i, consensus)[measure] for i, run in enumerate(runs)])
    if measure not in LOWER_IS_BETTER:
        values = -values
    found: list[int] = np.argsort(np.nan_to_num(values, nan=np.inf), kind="stable").tolist()
    return found


def best_run(runs: Sequence[FinishedRun], consensus: Consensus, measure: str) -> int:
    """The run that is best in a measure."""
    return ranked(runs, consensus, measure)[0]


def measures(run: FinishedRun, index: int, consensus: Consensus) -> dict[str, float]:
    """Measures of a run, its agreement with the others among them."""
    return {**run.measures, "agreement": float(consensus.with_others[index])}


def pictures(
    out: Delivery, runs: Sequence[FinishedRun], consensus: Consensus, notes: list[str]
) -> None:
    """Draw everything."""
    settings = differing(runs)
    found = [measures(r, i, consensus) for i, r in enumerate(runs)]
    told = {name: [m[name] for m in found] for name in SHOWN}
    told = {name: values for name, values in told.items() if len(_known(values)) > 1}
    swept = {key: texts for key, texts in settings.items() if key != "seed"}
    few = dict(list(swept.items())[:MOST_SETTINGS])
    if len(swept) > MOST_SETTINGS:
        notes.append(f"{len(swept)} settings differ; the first {MOST_SETTINGS} are drawn.")
    if few and told:
        out.picture(Picture("Settings", draw_settings(few, told), SETTINGS, "settings.png"))
    if consensus.shared:
        names = [r.name for r in runs]
        png = draw_agreement(consensus.agreement, names)
        out.picture(Picture("Agreement", png, AGREEMENT, "agreement.png"))
        png = draw_stability(consensus.particles)
        caption = STABILITY.format(others="the runs" if consensus.is_made else "the other runs")
        out.picture(Picture("Stability of the particles", png, caption, "stability.png"))
    if len(runs) > MOST_MONTAGES:
        notes.append(f"The class averages of the first {MOST_MONTAGES} runs are drawn.")
    for picture in series(runs, consensus, settings):
        out.picture(picture)


def series(
    runs: Sequence[FinishedRun], consensus: Consensus, settings: Mapping[str, Sequence[str]]
) -> Iterator[Picture]:
    """The class averages of the consensus, if there is one, and of the first runs."""
    main = consensus.averages
    order = similarity_order(main.images, main.columns["count"])
    columns = grid_columns(max(len(main), *(len(one.averages) for one in runs)), aspect=1.4)
    if consensus.is_made:
        lines = [NAME, f"of {len(runs)} runs"]
        small = small_multiple(main, np.arange(len(main)), order, columns, lines)
        yield Picture(NAME, image_png(small), "", sharpness=1.0, series=SERIES)
    last = min(len(runs), MOST_MONTAGES) - 1
    caption = ORDER.format(measure=measure_name(runs, consensus))
    caption += f" {MADE}" if consensus.is_made else ""
    for i, one in enumerate(runs[:MOST_MONTAGES]):
        told = [f"{key.rpartition('.')[2]}={texts[i]}" for key, texts in settings.items()]
        mark = " (reference)" if i == consensus.reference else ""
        lines = [f"run {one.name}{mark}", "  ".join(told[:3])]
        small = small_multiple(one.averages, consensus.partner[i], order, columns, lines)
        words = caption if i == last else ""
        yield Picture(f"Run {one.name}", image_png(small), words, sharpness=1.0, series=SERIES)


def small_multiple(
    averages: ClassAverages,
    partner: np.ndarray,
    order: np.ndarray,
    columns: int,
    lines: Sequence[str],
) -> np.ndarray:
    """Averages of a run, those that match the measure's at its places, then the others."""
    count = averages.columns["count"].astype(np.int64)
    place = partner[order]
    rest = np.setdiff1d(np.flatnonzero(count > 0), place)
    rest = rest[np.argsort(-count[rest], kind="stable")]
    place = np.concatenate([place, rest])
    return draw_small(averages.images, place, count, columns=columns, lines=lines)


def _known(values: Sequence[float]) -> set[float]:
    return {value for value in values if np.isfinite(value)}


def write_particles(out: Delivery, base: FinishedRun, consensus: Consensus, least: float) -> Flow:
    """Write the classes that are the measure and their particles, both with their stability."""
    values, table = consensus.particles, consensus.table
    table = with_text_column(table, "cryo2dStability", np.array([f"{v:.4f}" for v in values]))
    keep = ~(values < least) if least > 0 else np.ones(len(table), dtype=bool)
    out.particles(table.take(keep), averages="class_averages.mrcs")
    reasons = tuple(f"stability {v:.3f} below {least:g}" for v in values[~keep])
    out.excluded(Excluded(table.take(~keep), reasons), "removed")
    parts = {"kept": int(keep.sum()), "removed": len(reasons), "excluded": len(base.excluded.table)}
    if consensus.is_made:
        own = consensus.rows[consensus.base]
        rest = base.table.take(np.setdiff1d(np.arange(len(base.table)), own))
        out.excluded(Excluded(rest, (UNSHARED,) * len(rest)), "unshared")
        parts |= {"unshared": len(rest)} if len(rest) else {}
    out.excluded(base.excluded)
    averages = consensus.averages
    columns = {**averages.columns, "stability": consensus.classes}
    out.averages(replace(averages, columns=columns))
    return Flow(len(base.table) + len(base.excluded.table), parts)


def run_table(runs: Sequence[FinishedRun], consensus: Consensus, order: Sequence[int]) -> Table:
    """One row per run in some order: what differs, and the measures."""
    settings = differing(runs)
    rows = []
    for i in order:
        one = runs[i]
        found = measures(one, i, consensus)
        counts = one.counts
        cells = [(one.name, one.name)]
        cells += [(texts[i], texts[i]) for texts in settings.values()]
        cells += [
            cell(counts.get("classified", len(one.table))),
            cell(counts.get("rejected", 0) + counts.get("excluded", 0)),
            cell(found["median_resolution"], 1),
            cell(found["best_resolution"], 1),
            cell(found["effective_classes"], 1),
            cell(int(found["empty_classes"])),
            cell(found["mean_posterior"], 3),
            cell(found["agreement"], 3),
            cell(found["mean_frc_resolution"], 1),
            cell(found["stability"], 3),
            cell(found["junk_separation"], 3),
            cell(found["likelihood"], 4),
            cell(found["minutes"], 1),
        ]
        rows.append(Row(cells))
    labels = [
        "run",
        *settings,
        "particles",
        "left out",
        f"median res. ({ANGSTROM})",
        f"best res. ({ANGSTROM})",
        "effective classes",
        "empty",
        "mean posterior",
        "agreement",
        f"mean FRC res. ({ANGSTROM})",
        "stability",
        "junk separation",
        "likelihood",
        "minutes",
    ]
    return Table("Runs", labels, rows, early=True)


def class_table(runs: Sequence[FinishedRun], consensus: Consensus) -> Table:
    """One row per class of the measure, the most stable first."""
    averages = consensus.averages
    levels = grey_levels(averages.images)
    count = averages.columns["count"].astype(np.int64)
    resolution = averages.columns.get("resolution", np.full(len(count), np.nan))
    others = consensus.partner
    if consensus.reference is not None:
        others = np.delete(others, consensus.reference, axis=0)
    rows = []
    for k in np.argsort(-np.nan_to_num(consensus.classes, nan=-1.0), kind="stable").tolist():
        empty = bool(count[k] == 0)
        partners = ", ".join("-" if p < 0 else str(p + 1) for p in others[:8, k])
        cells = [
            cell(k + 1),
            cell(int(count[k])),
            cell(consensus.classes[k], 3),
            cell(resolution[k], 1),
            (partners, partners),
        ]
        rows.append(Row(cells, b"" if empty else thumbnail(levels[k]), empty))
    where = "the runs" if consensus.is_made else "the others"
    labels = ("class", "particles", "stability", f"resolution ({ANGSTROM})", f"matched in {where}")
    heading = f"Classes of {measure_name(runs, consensus)}"
    return Table(heading, labels, rows, pictures=True)


def measure_name(runs: Sequence[FinishedRun], consensus: Consensus) -> str:
    """Whose classes are the measure, in words."""
    number_of = consensus.reference
    return f"the {NAME}" if number_of is None else f"run {runs[number_of].name}"


def written(runs: Sequence[FinishedRun], consensus: Consensus) -> str:
    """What the files hold, for the terminal."""
    if not consensus.shared:
        return ""
    stable, sure = consensus.classes, consensus.particles > STABLE
    return (
        f"particles.star has the classes of {measure_name(runs, consensus)}: "
        f"{(stable > STABLE).sum()} of {np.isfinite(stable).sum()} classes and "
        f"{sure.sum():,} of {len(sure):,} particles with a stability above {STABLE:g}"
    )


def summary(runs: Sequence[FinishedRun], consensus: Consensus, order: Sequence[int]) -> str:
    """What the terminal shows."""
    settings = differing(runs)
    width = max(len(r.name) for r in runs)
    lines = [f"{len(runs)} runs, {consensus.shared:,} shared particles"]
    for i in order:
        one = runs[i]
        words = "  ".join(f"{key}={texts[i]}" for key, texts in settings.items())
        found = measures(one, i, consensus)
        lines.append(
            f"  {one.name:{width}}  {number(found['median_resolution'], 1):>6} A  "
            f"{number(found['effective_classes'], 1):>6} effective classes  "
            f"agreement {number(found['agreement'], 3)}  {words}"
        )
    return "\n".join(lines)
