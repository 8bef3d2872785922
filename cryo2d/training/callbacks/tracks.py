"""What becomes of each class over the iterations."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger

from cryo2d.training.callbacks.run import run_of
from cryo2d.training.drawing.tracks import draw_tracks, no_tracks, read_tracks, write_tracks
from cryo2d.training.loggers import log_image


class TrackClasses(Callback):
    """Keeps small pictures of all classes in ``tracks.npz`` and shows them to the loggers."""

    def __init__(self, most: int = 12, every: int = 10, mask_diameter: float | None = None) -> None:
        """Set what is kept and shown.

        Args:
            most: iterations that are kept besides the newest, evenly spread.
            every: iterations between two pictures for loggers; 0 for none.
            mask_diameter: circle in which the contrast is measured (Angstrom); None for the box.
        """
        self.most = most
        self.every = every
        self.mask_diameter = mask_diameter

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the iteration that has just ended."""
        run = run_of(pl_module)
        summary = run.summary
        if summary is None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        before = read_tracks(folder)
        if before is None or before.count.shape[1] != len(summary.counts):
            before = no_tracks(len(summary.counts))
        radius = None if self.mask_diameter is None else 0.5 * self.mask_diameter / run.pixel_size
        tracks = before.followed(
            summary.iteration,
            summary.averages.float().numpy(),
            summary.counts.long().numpy(),
            most=self.most,
            radius=radius,
        )
        write_tracks(folder, tracks)
        last = summary.iteration == summary.num_iterations - 1
        shown = any(not isinstance(logger, CSVLogger) for logger in trainer.loggers)
        if self.every and shown and (last or summary.iteration % self.every == 0):
            log_image(trainer.loggers, "tracks", draw_tracks(tracks), summary.iteration)
