"""The state of the run after an iteration, written so that a crash cannot spoil it."""

import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.io.atomic import flush_names
from cryo2d.training.callbacks.pace import Pace, is_last
from cryo2d.training.checkpoint import (
    IN_MEMORY,
    CheckpointFiles,
    DamagedCheckpointError,
    read_state,
)

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
NEXT, LAST, PREVIOUS = (f"{name}.safetensors" for name in ("next", "last", "previous"))


class IterationCheckpoint(Checkpoint):
    """Keeps two iterations as ``last`` and ``previous`` in the folder ``checkpoints``.

    One epoch is one iteration, so ``trainer.fit(ckpt_path=newest_checkpoint(run))`` goes on after
    the last of them. What is not yet on the disk is held in memory, and written when the run ends
    before its time; only who ends it with no warning loses that.
    """

    def __init__(self, every: int = 1, seconds: float = 5.0) -> None:
        """Set how often.

        Args:
            every: iterations between two checkpoints; the last iteration is always kept.
            seconds: least time between two that are written; those between are held in memory.
        """
        self.every = every
        self.pace = Pace(seconds)
        # read by Lightning where it looks for a checkpoint to load
        self.best_model_path = ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the iteration that has just ended. Every process has to come here."""
        if (trainer.current_epoch + 1) % self.every and not is_last(trainer):
            return
        folder = Path(trainer.default_root_dir, FOLDER)
        # the first process alone holds and writes: no other needs to know which
        written = self.pace.passes(trainer)
        trainer.save_checkpoint(folder / NEXT, storage_options=None if written else IN_MEMORY)
        if written and trainer.is_global_zero:
            promote(folder)
        self.best_model_path = str(folder / LAST)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what is held in memory alone, whatever ends the run."""
        files = trainer.strategy.checkpoint_io
        try:
            if isinstance(files, CheckpointFiles) and files.write_held():
                promote(Path(trainer.default_root_dir, FOLDER))
        except EnvironmentFault as fault:
            log.warning("The last iterations are lost: %s", fault)


def promote(folder: Path) -> None:
    """Make the next generation the last; some generation is whole at any moment.

    Raises:
        EnvironmentFault: if the names cannot be changed.
    """
    last = folder / LAST
    try:
        if last.exists():
            os.replace(last, folder / PREVIOUS)
        os.replace(folder / NEXT, last)
        flush_names(folder)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {last}: {error.strerror or error}") from error


def has_checkpoint(run: str | Path) -> bool:
    """Whether a run has left anything to go on from."""
    return any(Path(run, FOLDER, name).is_file() for name in (NEXT, LAST, PREVIOUS))


def newest_checkpoint(run: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that is as it was written, and what it holds.

    Returns:
        None if there is none at all.

    Raises:
        InputError: if there are some and all of them are damaged.
    """
    problems = []
    for name in (NEXT, LAST, PREVIOUS):
        path = Path(run, FOLDER, name)
        if not path.is_file():
            continue
        try:
            state = read_state(path)
        except DamagedCheckpointError as error:
            expected = "a checkpoint as it was written"
            action = "give another run, or start anew"
            problems.append(Problem(str(path), str(error), expected, action))
            continue
        for problem in problems:
            log.warning("%s is damaged: %s. Going on from %s.", problem.file, problem.found, name)
        return path, state
    if problems:
        raise InputError(problems)
    return None
