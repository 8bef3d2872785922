"""The numbers of every iteration: to the loggers and to one plain table."""

import csv
import io
import logging
import math
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from cryo2d.io.atomic import append, atomic_write
from cryo2d.training.callbacks.run import run_of
from cryo2d.training.drawing.sketch import sketch_distributions, sketch_frc, sketch_noise
from cryo2d.training.loggers import MlflowRun, log_histogram, log_image
from cryo2d.types import IterationSummary

log = logging.getLogger(__name__)

LONGEST_ROW = 1 << 14
"""More than any row of a table takes (bytes)."""


class Metrics(Callback):
    """Logs one row per iteration, keeps ``metrics.csv`` and ``spectra.csv``, warns of collapse.

    The x axis of every logger is the iteration, not the batch.
    """

    def __init__(
        self, histograms: bool = True, warn_below: float = 0.25, curves_every: int = 1
    ) -> None:
        """Set what is logged.

        Args:
            histograms: posterior, ESS, shift, scale and class size distributions to loggers.
            warn_below: warn when the effective classes fall below this fraction of the classes.
            curves_every: iterations between two pictures of FRC and noise for loggers; 0 for none.
        """
        self.histograms = histograms
        self.curves_every = curves_every
        self.warn_below = warn_below

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the iteration that has just ended."""
        summary = run_of(pl_module).summary
        if summary is None:
            return
        row = metrics_of(summary)
        logged = {name: value for name, value in row.items() if math.isfinite(value)}
        # log_dict would keep a running mean of each: some ten milliseconds an iteration
        trainer.callback_metrics.update({name: torch.tensor(v) for name, v in logged.items()})
        for logger in trainer.loggers:
            logger.log_metrics(logged, summary.iteration)
            logger.save()
        if not trainer.is_global_zero:
            return
        append_row(Path(trainer.default_root_dir, "metrics.csv"), row)
        append_rows(Path(trainer.default_root_dir, "spectra.csv"), spectra_of(summary))
        if self.histograms:
            self._log_histograms(trainer, summary)
        self._log_curves(trainer, summary)
        num_classes = len(summary.counts)
        if summary.effective_classes < self.warn_below * num_classes:
            log.warning(
                "iteration %d: only %.1f effective classes of %d; a few classes swallow the rest. "
                "Try more particles per class, a higher model.icuf or fewer classes.",
                summary.iteration,
                summary.effective_classes,
                num_classes,
            )

    def _log_curves(self, trainer: Trainer, summary: IterationSummary) -> None:
        """Ring correlations and noise as pictures."""
        last = summary.iteration == summary.num_iterations - 1
        shown = any(not isinstance(logger, CSVLogger) for logger in trainer.loggers)
        if not (
            self.curves_every and shown and (last or summary.iteration % self.curves_every == 0)
        ):
            return
        frequency = summary.frequency.double().numpy()
        frc, noise = summary.frc.double().numpy(), summary.noise.double().numpy()
        for name, image in (
            ("frc", sketch_frc(frc, frequency, summary.counts.numpy())),
            ("noise", sketch_noise(noise, frequency)),
        ):
            log_image(trainer.loggers, name, image, summary.iteration)

    @staticmethod
    def _log_histograms(trainer: Trainer, summary: IterationSummary) -> None:
        distributions = {
            "posterior": summary.posteriors,
            "ess": summary.ess,
            "shift": summary.shifts,
            "scale": summary.scales,
            "class_size": summary.counts.float(),
        }
        finite = {n: values[torch.isfinite(values)].numpy() for n, values in distributions.items()}
        known = {name: values for name, values in finite.items() if len(values)}
        for name, values in known.items():
            log_histogram(trainer.loggers, f"distribution/{name}", values, summary.iteration)
        # MLflow has no histograms
        drawn = [logger for logger in trainer.loggers if isinstance(logger, MlflowRun)]
        if drawn and known:
            log_image(drawn, "distributions", sketch_distributions(known), summary.iteration)


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
        "unchanged": summary.unchanged,
        "log_likelihood": summary.log_likelihood,
        "mean_scale": _mean(summary.scales),
        "scale_deviation": float(summary.scales.double().std(correction=0)),
        "mean_shift": _mean(summary.shifts),
        "memory_gb": peak_memory() / 1e9,
    }


def peak_memory() -> float:
    """Most memory that the process has held so far, that of a GPU if it computes on one (byte)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def spectra_of(summary: IterationSummary) -> list[dict[str, float]]:
    """The rows of an iteration in spectra.csv, one per ring.

    ``frc`` is the mean over the particles, ``noise_1`` the noise power of the first optics group,
    ``frequency`` in 1/Angstrom.
    """
    share = (summary.counts / summary.counts.sum()).to(summary.frc)
    columns = [summary.frequency, share @ summary.frc.nan_to_num(), *summary.noise]
    names = ["frequency", "frc", *(f"noise_{g + 1}" for g in range(len(summary.noise)))]
    table = torch.stack([column.double() for column in columns], dim=1)
    return [
        {"iteration": float(summary.iteration), **dict(zip(names, row, strict=True))}
        for row in table.tolist()
    ]


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Write a row into the table; see :func:`append_rows`."""
    append_rows(path, [row])


def append_rows(path: Path, new: Sequence[Mapping[str, float]]) -> None:
    """Write rows of one iteration in place of any of the same or a later one.

    So a resumed run leaves one complete table. Rows that follow on are added to the file: what an
    iteration costs does not grow with the run. Else the file is replaced whole.

    Args:
        path: of the table.
        new: at least one row, whose first column is the iteration.
    """
    names = list(new[0])
    assert names[0] == "iteration"
    if _last_iteration(path, names) < new[0]["iteration"]:
        append(path, _as_csv(new, names))
        return
    rows = [old for old in read_rows(path) if old["iteration"] < new[0]["iteration"]]
    with atomic_write(path) as file:
        file.write(_header(names) + _as_csv([*rows, *new], names))


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, none if there is no file; half a row at its end is none."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]


def _header(names: Sequence[str]) -> bytes:
    return ",".join(names).encode() + b"\n"


def _as_csv(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> bytes:
    """Lines of a table; not a number where a row has no such column."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(f"{row.get(name, math.nan):.6g}" for name in names)
    return text.getvalue().encode()


def _last_iteration(path: Path, names: Sequence[str]) -> float:
    """The iteration of the last row; infinite if nothing can be added to the file as it is."""
    if not path.is_file():
        return math.inf
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(len(header), file.seek(0, os.SEEK_END) - LONGEST_ROW))
        *_, last, rest = b"", *file.read().split(b"\n")
    if header != _header(names) or rest:
        return math.inf
    try:
        return float(last.partition(b",")[0])
    except ValueError:
        return math.inf
