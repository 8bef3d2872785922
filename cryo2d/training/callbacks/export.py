"""Everything a finished run hands over: averages, particles, pictures, report, manifest."""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cryo2d.data.outcome import DuplicateRule, Outcome, settle
from cryo2d.io.atomic import atomic_write
from cryo2d.io.averages import ClassAverages, write_class_averages
from cryo2d.io.particles import ParticleTable, write_particles
from cryo2d.training.callbacks.averages import class_averages
from cryo2d.training.callbacks.metrics import read_rows
from cryo2d.training.callbacks.run import RunData, data_of, run_of
from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.gallery import Gallery, Picture
from cryo2d.training.drawing.montage import ANGSTROM
from cryo2d.training.drawing.report import Counts, Report, render_report
from cryo2d.training.drawing.tracks import FILE as TRACKS
from cryo2d.training.drawing.tracks import read_tracks
from cryo2d.training.loggers import log_classes, log_files, log_image
from cryo2d.training.manifest import versions, write_manifest
from cryo2d.training.objectives import OBJECTIVES
from cryo2d.training.superclasses import Grouping
from cryo2d.types import Assignments, IterationSummary

log = logging.getLogger(__name__)


class Scores(Protocol):
    """What a ranker thinks of classes."""

    @property
    def score(self) -> np.ndarray:
        """0 (bad) to 1 (good) ``[k]``."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against each class, in words ``[k]``."""

    def added_to(self, classes: ClassAverages) -> ClassAverages:
        """The averages with both as columns."""


class Export(Callback):
    """Writes the output folder at the end of the fit and prints the table of classes.

    Reads ``summary``, ``assignments``, ``halves`` (half-set of each particle) and ``pixel_size``
    of the module, ``table`` and ``excluded`` of the data module, the settings from ``config.yaml``
    and ``.hydra`` in the run folder (``trainer.default_root_dir``).
    """

    def __init__(
        self,
        remove_duplicates: bool | None = None,
        min_separation: float = 20.0,
        micrograph_pixel_size: float | None = None,
        sort: bool = True,
        plot_order: str = "similarity",
        mask_diameter: float | None = None,
        seed: int | None = None,
        ranker: Callable[[ClassAverages], Scores] | None = None,
        superclasses: Grouping | None = None,
    ) -> None:
        """Set what is done after the last iteration.

        Args:
            remove_duplicates: None for yes where there are pick locations, no for filaments.
            min_separation: of two particles (Angstrom).
            micrograph_pixel_size: in place of the file's (Angstrom).
            sort: tables list the largest class first, else by class number.
            plot_order: of classes.png, ``similarity`` or ``size``.
            mask_diameter: circle in which contrast and similarity are measured (Angstrom).
            seed: of the run, for the manifest.
            ranker: scores the classes; None for no scores.
            superclasses: says which classes show the same view; None for no superclasses.

        Raises:
            ValueError: an order that does not exist.
        """
        if plot_order not in ("similarity", "size"):
            raise ValueError(f"plot_order is {plot_order!r}, expected 'similarity' or 'size'")
        self.rule = DuplicateRule(remove_duplicates, min_separation, micrograph_pixel_size)
        self.sort = sort
        self.plot_order = plot_order
        self.mask_diameter = mask_diameter
        self.seed = seed
        self.ranker, self.superclasses = ranker, superclasses

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything; the manifest comes last."""
        if not trainer.is_global_zero:
            return
        run = run_of(pl_module)
        summary, found = run.summary, run.assignments
        if summary is None or found is None:
            log.warning("Nothing to export: no iteration was run.")
            return
        data = data_of(trainer)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # an unfinished export must not pass for a finished one
        (folder / "manifest.json").unlink(missing_ok=True)
        outcome = self._settled(data, found, run.halves.cpu().numpy(), folder)
        table = ClassTable.of_members(summary, found, outcome.keep)
        table = self._grouped(summary, table, run.pixel_size)
        averages, table = self._ranked(class_averages(summary, table, run.pixel_size), table)
        gallery = Gallery(
            summary=summary,
            table=table,
            members=found[torch.from_numpy(np.flatnonzero(outcome.keep))],
            pixel_size=run.pixel_size,
            similar=self.plot_order == "similarity",
            optics_names=data.table.optics_names,
            history=read_rows(folder / "metrics.csv"),
            mask_diameter=self.mask_diameter,
            tracks=read_tracks(folder),
        )
        files = write_particle_files(folder, outcome)
        files += write_class_averages(folder, averages)
        pictures = gallery.draw()
        files += write_pictures(folder, pictures)
        log_image(trainer.loggers, "classes_final", gallery.montage, summary.iteration)
        log_classes(trainer.loggers, summary, table)
        judged = {name: objective(summary, found) for name, objective in OBJECTIVES.items()}
        for logger in trainer.loggers:
            known = {f"objective/{n}": v for n, v in judged.items() if math.isfinite(v)}
            logger.log_metrics(known, summary.iteration)
        counts = Counts(
            total=len(data.table) + len(data.excluded.table),
            classified=len(outcome.classified),
            rejected=len(outcome.rejected),
            excluded=len(outcome.excluded),
        )
        self._write_report(folder, gallery, pictures, outcome, counts, files)
        self._write_manifest(folder, files, counts, data.table, summary, judged)
        log_files(trainer.loggers, folder, files)
        self._print(folder, table)

    def _settled(
        self, data: RunData, found: Assignments, half: np.ndarray, folder: Path
    ) -> Outcome:
        """Where every particle ends; what is odd about that is said."""
        outcome = settle(data.table, data.excluded, found, half, self.rule, folder)
        assert outcome.total == len(data.table) + len(data.excluded.table), "a particle is lost"
        for note in outcome.notes:
            log.warning(note)
        return outcome

    def _grouped(
        self, summary: IterationSummary, table: ClassTable, pixel_size: float
    ) -> ClassTable:
        """The table with the superclasses, if classes are compared."""
        if self.superclasses is None:
            return table
        images = summary.averages.float().numpy()
        return replace(table, superclass=self.superclasses.labels(images, table.count, pixel_size))

    def _ranked(
        self, averages: ClassAverages, table: ClassTable
    ) -> tuple[ClassAverages, ClassTable]:
        """Both with the scores of the classes, if there is a ranker."""
        if self.ranker is None:
            return averages, table
        scores = self.ranker(averages)
        ranked = replace(table, score=scores.score, reason=scores.reasons)
        return scores.added_to(averages), ranked

    def _table_order(self, table: ClassTable) -> np.ndarray:
        return table.by_count() if self.sort else np.arange(len(table))

    def _write_report(
        self,
        folder: Path,
        gallery: Gallery,
        pictures: list[Picture],
        outcome: Outcome,
        counts: Counts,
        files: list[str],
    ) -> None:
        report = Report(
            title="2D classification",
            source=outcome.classified.source,
            counts=counts,
            facts=headline(gallery, counts),
            notes=notes(gallery, outcome),
            pictures=pictures,
            settings=_text(folder / "config.yaml") or _text(folder / ".hydra" / "config.yaml"),
            overrides=given_settings(_text(folder / ".hydra" / "overrides.yaml")),
            versions=versions(),
            files={name: (folder / name).stat().st_size for name in files},
        )
        averages = gallery.summary.averages.float().numpy()
        order = self._table_order(gallery.table)
        page = render_report(report, averages, gallery.table, order, gallery.mask_radius)
        with atomic_write(folder / "report.html") as file:
            file.write(page.encode())
        files.append("report.html")

    def _write_manifest(
        self,
        folder: Path,
        files: list[str],
        counts: Counts,
        table: ParticleTable,
        summary: IterationSummary,
        judged: dict[str, float],
    ) -> None:
        extra = [n for n in ("metrics.csv", "spectra.csv", TRACKS) if (folder / n).is_file()]
        facts = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": table.source,
            "seed": self.seed,
            "iterations": summary.iteration + 1,
            "classes": len(summary.counts),
            "particles": asdict(counts),
            "objectives": {n: v if math.isfinite(v) else None for n, v in judged.items()},
            "versions": versions(),
        }
        write_manifest(folder, [*files, *extra], facts)

    def _print(self, folder: Path, table: ClassTable) -> None:
        sys.stdout.write(f"\n{table.text(self._table_order(table))}\n\n{folder / 'report.html'}\n")
        sys.stdout.flush()


def write_particle_files(folder: Path, outcome: Outcome) -> list[str]:
    """Write the particles of an outcome; the names of the files, in the folder."""
    averages = "class_averages.mrcs"
    write_particles(folder / "particles.star", outcome.classified, averages=averages)
    write_particles(folder / "particles.cs", outcome.classified, averages=averages)
    written = ["particles.star", "particles.cs"]
    for name, table in (("rejected.star", outcome.rejected), ("excluded.star", outcome.excluded)):
        if len(table):
            write_particles(folder / name, table)
            written.append(name)
        else:
            # of an earlier end of the same run
            (folder / name).unlink(missing_ok=True)
    return written


def write_pictures(folder: Path, pictures: list[Picture]) -> list[str]:
    """Write the pictures that are files of their own; their names."""
    written = []
    for picture in pictures:
        if picture.file is not None:
            with atomic_write(folder / picture.file) as file:
                file.write(picture.png)
            written.append(picture.file)
    return written


def headline(gallery: Gallery, counts: Counts) -> dict[str, str]:
    """The numbers on top of the report."""
    table, summary = gallery.table, gallery.summary
    resolution = table.resolution[~table.empty & np.isfinite(table.resolution)]
    seconds = sum(row["seconds"] for row in gallery.history)
    return {
        "particles": f"{counts.classified:,}",
        "classes in use": f"{(~table.empty).sum()} of {len(table)}",
        "effective classes": f"{summary.effective_classes:.1f}",
        "median resolution": _angstrom(np.median(resolution) if len(resolution) else np.nan),
        "best resolution": _angstrom(resolution.min(initial=np.inf)),
        "iterations": str(summary.iteration + 1),
        "time": f"{seconds / 60:.1f} min" if seconds else "-",
    }


def notes(gallery: Gallery, outcome: Outcome) -> list[str]:
    """What the reader of the report should see first."""
    table, summary = gallery.table, gallery.summary
    found = list(outcome.notes)
    if table.empty.any():
        numbers = ", ".join(map(str, np.flatnonzero(table.empty) + 1))
        found.append(f"Classes without particles: {numbers}.")
    if same := table.alike:
        numbers = "; ".join(", ".join(map(str, classes + 1)) for classes in same)
        found.append(f"Classes that show one view: {numbers}.")
    if summary.effective_classes < len(table) / 4:
        found.append(
            f"Only {summary.effective_classes:.1f} effective classes of {len(table)}: a few "
            "classes hold most particles."
        )
    return found


def given_settings(text: str) -> list[str]:
    """The ``key=value`` of Hydra's overrides.yaml, which is a plain list."""
    return [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]


def _angstrom(value: float) -> str:
    return f"{number(value, 1)} {ANGSTROM}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
