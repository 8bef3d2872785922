"""The state of the run after every iteration, written so that a crash cannot spoil it."""

import os
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"


class IterationCheckpoint(Checkpoint):
    """Keeps the last two iterations as ``checkpoints/last.ckpt`` and ``previous.ckpt``.

    One epoch is one iteration, so ``trainer.fit(ckpt_path=newest_checkpoint(run))`` goes on after
    the last finished iteration. Lightning's own callback moves its file from the system's
    temporary folder, which is no single step between two disks; here the file is written beside
    its place, flushed to the disk and then renamed.
    """

    def __init__(self, every: int = 1) -> None:
        """Set how often.

        Args:
            every: iterations between two checkpoints; the last iteration is always kept.
        """
        self.every = every
        # read by Lightning where it looks for a checkpoint to load
        self.best_model_path = ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the iteration that has just ended. Every process has to come here."""
        done = trainer.current_epoch + 1
        if done % self.every and done != trainer.max_epochs:
            return
        folder = Path(trainer.default_root_dir, "checkpoints")
        part = folder / f".{LAST}.part"
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                promote(part, folder / LAST, folder / PREVIOUS)
        finally:
            # only a failed write leaves it; on a full disk its space is needed
            if trainer.is_global_zero:
                part.unlink(missing_ok=True)
        self.best_model_path = str(folder / LAST)


def promote(part: Path, last: Path, previous: Path) -> None:
    """Make a finished file the newest generation; some generation is whole at any moment."""
    flush(part)
    if last.exists():
        os.replace(last, previous)
    os.replace(part, last)
    flush(last.parent)


def flush(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_checkpoint(run: str | Path) -> Path | None:
    """The checkpoint to go on from in a run folder, None if it has none."""
    folder = Path(run, "checkpoints")
    return next((folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()), None)
