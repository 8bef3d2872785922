"""The class averages as files, while a run is still going on."""

from pathlib import Path

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from cryo2d.io.averages import ClassAverages, Rings, write_class_averages
from cryo2d.training.callbacks.pace import Pace
from cryo2d.training.callbacks.run import run_of
from cryo2d.training.drawing.classes import ClassTable
from cryo2d.types import IterationSummary


class Averages(Callback):
    """Writes ``class_averages.*`` while iterations go on, so that others can look at them."""

    def __init__(self, seconds: float = 5.0) -> None:
        """Set how often.

        Args:
            seconds: least time between two iterations that are written; the last always is.
        """
        self.pace = Pace(seconds)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the iteration that has just ended, unless the last files are young."""
        run = run_of(pl_module)
        summary = run.summary
        if summary is None or not trainer.is_global_zero or not self.pace.passes(trainer):
            return
        folder = Path(trainer.default_root_dir)
        # what an earlier run left here no longer belongs together
        (folder / "manifest.json").unlink(missing_ok=True)
        table = ClassTable.of_iteration(summary)
        write_class_averages(folder, class_averages(summary, table, run.pixel_size))


def class_averages(
    summary: IterationSummary, table: ClassTable, pixel_size: float
) -> ClassAverages:
    """The averages of an iteration with the numbers of a table, ready to be written."""
    columns = {
        "count": table.count,
        # RELION too writes inf where a class has no resolution
        "resolution": np.nan_to_num(table.resolution, nan=np.inf, posinf=np.inf),
        "resolution_half": np.nan_to_num(table.resolution_half, nan=np.inf, posinf=np.inf),
        "ess": table.ess,
        "posterior": table.posterior,
        **({} if table.outlier is None else {"outlier": table.outlier}),
        # from 1 as the classes, 0 for an empty one
        **({} if table.superclass is None else {"superclass": table.superclass + 1}),
    }
    rings = Rings(summary.frc.double().numpy(), summary.frequency.double().numpy())
    images = summary.averages.float().numpy()
    return ClassAverages(images, pixel_size, columns, rings, summary.iteration + 1)
