"""The numbers of every iteration: to the loggers and to one plain table."""

import csv
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from cryo2d.io.atomic import atomic_write
from cryo2d.training.callbacks.run import run_of
from cryo2d.types import IterationSummary

log = logging.getLogger(__name__)


class Metrics(Callback):
    """Logs one row per iteration, keeps ``metrics.csv`` in the run folder, warns of collapse.

    The x axis of every logger is the iteration, not the batch.
    """

    def __init__(self, histograms: bool = True, warn_below: float = 0.25) -> None:
        """Set what is logged.

        Args:
            histograms: posterior, ESS, shift and class size distributions to TensorBoard.
            warn_below: warn when the effective classes fall below this fraction of the classes.
        """
        self.histograms = histograms
        self.warn_below = warn_below

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the iteration that has just ended."""
        summary = run_of(pl_module).summary
        if summary is None:
            return
        row = metrics_of(summary)
        logged = {name: value for name, value in row.items() if math.isfinite(value)}
        # Lightning takes the x axis from the metric called "step"
        pl_module.log_dict({**logged, "step": float(summary.iteration)}, rank_zero_only=True)
        if not trainer.is_global_zero:
            return
        append_row(Path(trainer.default_root_dir, "metrics.csv"), row)
        if self.histograms:
            self._log_histograms(trainer, summary)
        num_classes = len(summary.counts)
        if summary.effective_classes < self.warn_below * num_classes:
            log.warning(
                "iteration %d: only %.1f effective classes of %d; a few classes swallow the rest. "
                "Try more particles per class, a higher model.icuf or fewer classes.",
                summary.iteration,
                summary.effective_classes,
                num_classes,
            )

    @staticmethod
    def _log_histograms(trainer: Trainer, summary: IterationSummary) -> None:
        distributions = {
            "posterior": summary.posteriors,
            "ess": summary.ess,
            "shift": summary.shifts,
            "class_size": summary.counts.float(),
        }
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                continue
            for name, values in distributions.items():
                finite = values[torch.isfinite(values)]
                if len(finite):
                    path = f"distribution/{name}"
                    logger.experiment.add_histogram(path, finite.numpy(), summary.iteration)


def metrics_of(summary: IterationSummary) -> dict[str, float]:
    """The row of an iteration in metrics.csv; nan where a value does not exist.

    Resolutions are in Angstrom and by FRC 0.143, over the classes that have particles.
    """
    used = summary.counts > 0
    resolution = summary.class_resolution[used, 1]
    resolution = resolution[torch.isfinite(resolution)]
    return {
        "iteration": float(summary.iteration),
        "full": float(summary.full),
        "particles": float(summary.particles),
        "seconds": summary.seconds,
        "particles_per_second": summary.particles / max(summary.seconds, 1e-9),
        "uncertainty": summary.uncertainty,
        "resolution": summary.resolution,
        "step_size": summary.step_size,
        "effective_classes": summary.effective_classes,
        "empty_classes": float((~used).sum()),
        "mean_error": summary.mean_error,
        "mean_posterior": _mean(summary.posteriors),
        "mean_ess": _mean(summary.ess),
        "median_resolution": float(resolution.median()) if len(resolution) else math.nan,
        "best_resolution": float(resolution.min()) if len(resolution) else math.nan,
    }


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Write a row into the table, in place of any row of the same or a later iteration.

    So a resumed run leaves one complete table. The file is replaced whole: a reader never sees
    half a row.
    """
    rows = [old for old in read_rows(path) if old["iteration"] < row["iteration"]]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(row)
    for values in [*rows, row]:
        writer.writerow(f"{values.get(name, math.nan):.6g}" for name in row)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
