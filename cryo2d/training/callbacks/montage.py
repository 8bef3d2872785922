"""Pictures of all class averages while a run goes on."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from cryo2d.io.atomic import atomic_write
from cryo2d.training.callbacks.pace import Pace
from cryo2d.training.callbacks.run import run_of
from cryo2d.training.drawing.classes import ClassTable
from cryo2d.training.drawing.montage import ANGSTROM, draw_montage
from cryo2d.training.drawing.style import image_png
from cryo2d.training.loggers import log_image
from cryo2d.types import IterationSummary


class Montage(Callback):
    """Draws the classes, largest first, to ``images/iteration_000.png`` and every logger.

    Loggers get one picture of all classes, never one file per class.
    """

    def __init__(self, seconds: float = 5.0, mask_diameter: float | None = None) -> None:
        """Set what is drawn.

        Args:
            seconds: least time between two pictures; the last iteration always has one.
            mask_diameter: circle in which the contrast is measured (Angstrom); None for the box.
        """
        self.pace = Pace(seconds)
        self.mask_diameter = mask_diameter

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the iteration that has just ended, unless the last picture is young."""
        run = run_of(pl_module)
        summary = run.summary
        if summary is None or not trainer.is_global_zero or not self.pace.passes(trainer):
            return
        image = draw_montage(
            summary.averages.float().numpy(),
            ClassTable.of_iteration(summary),
            pixel_size=run.pixel_size,
            title=f"Iteration {summary.iteration} ({summary.iteration + 1} of "
            f"{summary.num_iterations})",
            subtitle=subtitle(summary),
            mask_diameter=self.mask_diameter,
        )
        name = f"iteration_{summary.iteration:03d}.png"
        with atomic_write(Path(trainer.default_root_dir, "images", name)) as file:
            file.write(image_png(image))
        log_image(trainer.loggers, "classes", image, summary.iteration)


def subtitle(summary: IterationSummary) -> str:
    """The state of an iteration in one line."""
    kind = "full pass" if summary.full else "online"
    return "   ".join(
        [
            f"{len(summary.counts)} classes",
            f"{summary.effective_classes:.1f} effective",
            f"{summary.particles:,} particles ({kind})",
            f"band to {summary.resolution:.1f} {ANGSTROM}",
            f"uncertainty {summary.uncertainty:.2f}",
        ]
    )
