"""Job ``compare``: runs side by side, and what they agree on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.consensus import adjusted_rand, contingency, matched, shared_rows, stability
from cryo2d.data.outcome import with_text_column
from cryo2d.errors import InputError, Problem
from cryo2d.io.averages import ClassAverages
from cryo2d.io.particles import Excluded
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
    "Part of the other members of a particle's class that are with it in the other runs too, mean "
    "over the runs. Orange: running sum in per cent."
)
ORDER = (
    "At the same place in every run: the class that shares most particles with that of the "
    "reference run, blank where there is none; classes without a partner follow. Bars: sizes of "
    "the classes."
)
SETTINGS = (
    "One point per run; lines: mean of the runs with the same values. Resolution favours few, "
    "large classes: compare it between runs with as many. Stability here: part of the particles "
    "that kept their class in the last iteration."
)


@dataclass(frozen=True)
class Consensus:
    """What the runs agree on.

    Attributes:
        rows: rows of the shared particles in each run's table ``[n]`` each.
        agreement: adjusted Rand index ``[r r]``; nan without shared particles.
        reference: the run whose classes are the measure.
        particles: stability of each of its particles ``[m]``; nan for those not shared.
        classes: stability of each of its classes ``[k]``.
        partner: class of each run that matches each class of the reference ``[r k]``; -1 for none.
    """

    rows: list[np.ndarray]
    agreement: np.ndarray
    reference: int
    particles: np.ndarray
    classes: np.ndarray
    partner: np.ndarray

    @property
    def shared(self) -> int:
        """Particles that are in all runs."""
        return len(self.rows[0])

    @property
    def with_others(self) -> np.ndarray:
        """Mean agreement of each run with the others ``[r]``."""
        count = len(self.agreement)
        return (self.agreement.sum(1) - np.diag(self.agreement)) / max(count - 1, 1)


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
    out = Delivery(run_dir, str(runs[consensus.reference].folder))
    pictures(out, runs, consensus, notes)
    flow = write_particles(out, runs[consensus.reference], consensus, cfg.min_stability)
    mean = float(np.mean(consensus.agreement[np.triu_indices(len(runs), 1)]))
    measured = runs[consensus.reference].name
    headline = {
        "runs": str(len(runs)),
        "shared particles": f"{consensus.shared:,}",
        "mean agreement (ARI)": number(mean, 3),
        "reference run": measured,
        f"best in {measure.replace('_', ' ')}": runs[best].name,
    }
    order = ranked(runs, consensus, measure)
    tables = [run_table(runs, consensus, order)]
    if consensus.shared:
        tables.append(class_table(runs[consensus.reference], consensus))
    commands = [Row([(runs[i].name,) * 2, (runs[i].command,) * 2]) for i in order]
    tables.append(Table("Command lines", ("run", "command"), commands))
    facts = {
        "runs": [str(r.folder) for r in runs],
        "agreement": [[None if np.isnan(v) else v for v in row] for row in consensus.agreement],
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
    lines = [summary(runs, consensus, order), *notes, told, str(run_dir / "report.html")]
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


def consensus_of(runs: Sequence[FinishedRun], reference: int | None) -> Consensus:
    """Agreement of all pairs of runs, and the stability of the reference's classes."""
    rows = shared_rows([r.table for r in runs])
    labels = [r.classes[own] for r, own in zip(runs, rows, strict=True)]
    count = len(runs)
    agreement = np.full((count, count), np.nan)
    if len(rows[0]):
        agreement = np.eye(count)
        for i in range(count):
            for j in range(i):
                value = adjusted_rand(contingency(labels[i], labels[j]))
                agreement[i, j] = agreement[j, i] = value
    if reference is None:
        reference = int(np.argmax(np.nan_to_num(agreement).sum(1)))
    size = len(runs[reference].averages)
    particles, classes = np.full(len(runs[reference].table), np.nan), np.full(size, np.nan)
    partner = np.full((count, size), -1)
    if len(rows[0]):
        own = labels[reference]
        others = [label for i, label in enumerate(labels) if i != reference]
        of_particle, of_class = stability(own, others)
        particles[rows[reference]] = of_particle
        classes[: len(of_class)] = of_class
        for i, label in enumerate(labels):
            found = matched(contingency(own, label))
            partner[i, : len(found)] = found
    return Consensus(rows, agreement, reference, particles, classes, partner)


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
        out.picture(Picture("Stability of the particles", png, STABILITY, "stability.png"))
    if len(runs) > MOST_MONTAGES:
        notes.append(f"The class averages of the first {MOST_MONTAGES} runs are drawn.")
    main = runs[consensus.reference]
    order = similarity_order(main.averages.images, main.averages.columns["count"])
    columns = grid_columns(max(len(one.averages) for one in runs), aspect=1.4)
    for i, one in enumerate(runs[:MOST_MONTAGES]):
        words = [f"{key.rpartition('.')[2]}={texts[i]}" for key, texts in settings.items()]
        lines = [f"run {one.name}{' (reference)' if one is main else ''}", "  ".join(words[:3])]
        small = small_multiple(one, consensus.partner[i], order, columns, lines)
        caption = ORDER if one is runs[:MOST_MONTAGES][-1] else ""
        name = f"Run {one.name}"
        out.picture(Picture(name, image_png(small), caption, sharpness=1.0, series=SERIES))


def small_multiple(
    one: FinishedRun, partner: np.ndarray, order: np.ndarray, columns: int, lines: Sequence[str]
) -> np.ndarray:
    """The averages of a run, those that match the reference's at its places, then the others."""
    averages = one.averages
    count = averages.columns["count"].astype(np.int64)
    place = partner[order]
    rest = np.setdiff1d(np.flatnonzero(count > 0), place)
    rest = rest[np.argsort(-count[rest], kind="stable")]
    place = np.concatenate([place, rest])
    return draw_small(averages.images, place, count, columns=columns, lines=lines)


def _known(values: Sequence[float]) -> set[float]:
    return {value for value in values if np.isfinite(value)}


def write_particles(out: Delivery, one: FinishedRun, consensus: Consensus, least: float) -> Flow:
    """Write the reference's particles with their stability, and its class averages."""
    values = consensus.particles
    table = with_text_column(one.table, "cryo2dStability", np.array([f"{v:.4f}" for v in values]))
    keep = ~(values < least) if least > 0 else np.ones(len(table), dtype=bool)
    out.particles(table.take(keep), averages="class_averages.mrcs")
    reasons = tuple(f"stability {v:.3f} below {least:g}" for v in values[~keep])
    out.excluded(Excluded(table.take(~keep), reasons), "removed")
    out.excluded(one.excluded)
    averages: ClassAverages = one.averages
    columns = {**averages.columns, "stability": consensus.classes}
    out.averages(replace(averages, columns=columns))
    kept, gone, before = int(keep.sum()), int((~keep).sum()), len(one.excluded.table)
    return Flow(len(table) + before, {"kept": kept, "removed": gone, "excluded": before})


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


def class_table(one: FinishedRun, consensus: Consensus) -> Table:
    """One row per class of the reference, the most stable first."""
    averages = one.averages
    levels = grey_levels(averages.images)
    count = averages.columns["count"].astype(np.int64)
    resolution = averages.columns.get("resolution", np.full(len(count), np.nan))
    others = np.delete(consensus.partner, consensus.reference, axis=0)
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
    labels = (
        "class",
        "particles",
        "stability",
        f"resolution ({ANGSTROM})",
        "matched in the others",
    )
    return Table("Classes of the reference run", labels, rows, pictures=True)


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
