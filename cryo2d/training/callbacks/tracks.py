"""What becomes of each class over the iterations."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from cryo2d.training.callbacks.pace import is_last
from cryo2d.training.callbacks.run import run_of
from cryo2d.training.drawing.tracks import (
    Tracks,
    draw_tracks,
    no_tracks,
    read_tracks,
    stays,
    write_tracks,
)
from cryo2d.training.loggers import log_image


class TrackClasses(Callback):
    """Keeps small pictures of all classes in ``tracks.npz`` and shows them to the loggers."""

    def __init__(self, most: int = 12, every: int = 10, mask_diameter: float | None = None) -> None:
        """Set what is kept and shown.

        Args:
            most: iterations that are kept besides the last, evenly spread.
            every: iterations between two pictures for loggers; 0 for none.
            mask_diameter: circle in which the contrast is measured (Angstrom); None for the box.
        """
        self.most = most
        self.every = every
        self.mask_diameter = mask_diameter
        self._tracks: Tracks | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from what a run that is resumed has left."""
        self._tracks = read_tracks(Path(trainer.default_root_dir))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the iteration that has just ended, if it stays or is shown."""
        run = run_of(pl_module)
        summary = run.summary
        if summary is None or not trainer.is_global_zero:
            return
        iteration, last = summary.iteration, is_last(trainer)
        shown = self._is_shown(trainer, iteration)
        kept = last or stays(iteration, self.most)
        if not (kept or shown):
            return
        before = self._tracks
        if before is None or before.count.shape[1] != len(summary.counts):
            before = no_tracks(len(summary.counts))
        radius = None if self.mask_diameter is None else 0.5 * self.mask_diameter / run.pixel_size
        self._tracks = before.followed(
            iteration,
            summary.averages.float().numpy(),
            summary.counts.long().numpy(),
            most=self.most,
            radius=radius,
        )
        if kept:
            write_tracks(Path(trainer.default_root_dir), self._tracks, small=last)
        if shown:
            log_image(trainer.loggers, "tracks", draw_tracks(self._tracks), iteration)

    def _is_shown(self, trainer: Trainer, iteration: int) -> bool:
        """Whether a logger that has pictures gets one."""
        if not self.every or all(isinstance(logger, CSVLogger) for logger in trainer.loggers):
            return False
        return is_last(trainer) or iteration % self.every == 0
