"""A file that ends a run before its time."""

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

STOPPED = 143
"""Exit code of a run that was told to stop."""


class Abort(Callback):
    """Leaves the run, as at a signal, once a file appears in its folder.

    The checkpoint of the last finished iteration stays to go on from.
    """

    def __init__(self, file: str) -> None:
        """Set the name of the file.

        Args:
            file: its name in the folder of the run.
        """
        self.file = file

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before anything is computed."""
        self._look(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look after every batch."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        # the other processes of a run end with the first
        if trainer.is_global_zero and Path(trainer.default_root_dir, self.file).exists():
            log.warning("Stopped by the file %s.", self.file)
            raise SystemExit(STOPPED)
