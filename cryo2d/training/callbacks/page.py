"""The page of a classification whose particles keep arriving, written again and again."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from cryo2d.io.atomic import atomic_write
from cryo2d.io.averages import ClassAverages
from cryo2d.training.callbacks.averages import class_averages
from cryo2d.training.callbacks.export import Scores
from cryo2d.training.callbacks.montage import subtitle
from cryo2d.training.callbacks.pace import Pace
from cryo2d.training.callbacks.run import run_of
from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.growth import draw_growth
from cryo2d.training.drawing.montage import ANGSTROM, draw_montage
from cryo2d.training.drawing.report import Flow, Report, class_table, render_page
from cryo2d.training.drawing.style import image_png
from cryo2d.training.live import LiveParticles
from cryo2d.training.manifest import versions
from cryo2d.types import IterationSummary

PAGE = "report.html"
TITLE = "Live classification"
CLASSES = (
    "In the order of the class numbers, each always in the same place. Below each average: "
    "particles of the last batch and class number, resolution at FRC 0.143 and mean effective "
    "number of classes (ESS)."
)
GROWTH = "Left: all particles that can be used. Right: median of the classes in use, at FRC 0.143."
SHOWN = 5


class LivePage(Callback):
    """Writes ``report.html`` while particles arrive; the page in a browser reloads itself."""

    def __init__(
        self,
        every: float = 10.0,
        mask_diameter: float | None = None,
        ranker: Callable[[ClassAverages], Scores] | None = None,
    ) -> None:
        """Set what is shown.

        Args:
            every: least time between two pages (s); the browser looks as often.
            mask_diameter: circle in which the contrast is measured (Angstrom); None for the box.
            ranker: scores the classes; None for no scores.
        """
        self.every, self.mask_diameter, self.ranker = every, mask_diameter, ranker
        self.history: list[tuple[int, int, float]] = []
        self.pace = Pace(every)

    def state_dict(self) -> dict[str, Any]:
        """How it has grown so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history = [tuple(row) for row in state_dict["history"]]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the iteration that has just ended, unless the last page is young."""
        summary = run_of(pl_module).summary
        if summary is None or not trainer.is_global_zero:
            return
        particles = cast(LiveParticles, trainer.datamodule)  # type: ignore[attr-defined]
        resolution = summary.class_resolution[summary.counts > 0, 1].double().numpy()
        finite = resolution[np.isfinite(resolution)]
        median = float(np.median(finite)) if len(finite) else float("nan")
        self.history.append((summary.iteration, len(particles.held), median))
        if not self.pace.passes(trainer):
            return
        pixel_size = run_of(pl_module).pixel_size
        write_page(particles.folder, self.report(summary, particles, pixel_size, median))

    def report(
        self,
        summary: IterationSummary,
        particles: LiveParticles,
        pixel_size: float,
        median: float,
    ) -> str:
        """The page as HTML text."""
        table = ClassTable.of_iteration(summary)
        if self.ranker is not None:
            scores = self.ranker(class_averages(summary, table, pixel_size))
            table = replace(table, score=scores.score, reason=scores.reasons)
        images, order = summary.averages.float().numpy(), np.arange(len(table))
        montage = self.montage(images, table, pixel_size, summary, len(particles.held))
        growth = draw_growth(*zip(*self.history, strict=True))
        left_out = len(particles.excluded.table)
        radius = None if self.mask_diameter is None else 0.5 * self.mask_diameter / pixel_size
        report = Report(
            title=TITLE,
            source=str(particles.feed.watch),
            counts=Flow(
                len(particles.held) + left_out,
                {"in the classification": len(particles.held), "left out": left_out},
            ),
            facts={
                "particles": f"{len(particles.held):,}",
                "classes in use": f"{(~table.empty).sum()} of {len(table)}",
                "median resolution": f"{number(median, 1)} {ANGSTROM}",
                "iteration": str(summary.iteration + 1),
                "at": datetime.now().astimezone().strftime("%H:%M:%S"),
            },
            notes=notes(particles),
            pictures=[
                Picture("Classes", image_png(montage), CLASSES, None, 1.0),
                Picture("Growth", growth, GROWTH),
            ],
            settings=(particles.folder / "config.yaml").read_text(encoding="utf-8"),
            overrides=(),
            versions=versions(),
            files={},
            reload=self.every,
        )
        return render_page(report, [class_table(images, table, order, radius)])

    def montage(
        self,
        images: np.ndarray,
        table: ClassTable,
        pixel_size: float,
        summary: IterationSummary,
        arrived: int,
    ) -> np.ndarray:
        """The classes by their numbers."""
        return draw_montage(
            images,
            table,
            pixel_size=pixel_size,
            title=f"{arrived:,} particles have arrived",
            subtitle=subtitle(summary),
            order=np.arange(len(table)),
            mask_diameter=self.mask_diameter,
        )


def write_page(folder: Path, page: str) -> None:
    """Write the page, whole at any moment."""
    with atomic_write(folder / PAGE) as file:
        file.write(page.encode())


def notes(particles: LiveParticles) -> list[str]:
    """What the reader should see first."""
    found = []
    if waiting := sorted(particles.feed.waiting):
        names = ", ".join(Path(path).name for path in waiting[:SHOWN])
        more = "" if len(waiting) <= SHOWN else f" and {len(waiting) - SHOWN} more"
        found.append(f"Waiting until they are whole: {names}{more}.")
    for path, reason in list(particles.feed.unreadable.items())[:SHOWN]:
        found.append(f"{Path(path).name} cannot be read: {reason}")
    return found


def waiting_page(watch: Path, least: int, every: float) -> str:
    """The page before the first classes.

    Args:
        watch: where particles are looked for.
        least: particles that it begins with.
        every: time after which the browser looks again (s).
    """
    text = f"Waiting for the first {least:,} particles."
    report = Report(
        title=TITLE,
        source=str(watch),
        counts=Flow(0, {}),
        facts={"since": datetime.now().astimezone().strftime("%H:%M:%S")},
        notes=[text],
        pictures=(),
        settings="",
        overrides=(),
        versions=versions(),
        files={},
        reload=every,
    )
    return render_page(report)
