"""A disk that is full at the N-th write, whichever that is."""

import errno
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
from fake_run import FakeData, FakeModule

from cryo2d.errors import EnvironmentFault
from cryo2d.io.averages import read_class_averages
from cryo2d.training.callbacks.averages import Averages
from cryo2d.training.callbacks.checkpoint import IterationCheckpoint, newest_checkpoint
from cryo2d.training.callbacks.export import Export
from cryo2d.training.callbacks.metrics import Metrics, read_rows
from cryo2d.training.checkpoint import CheckpointFiles

EPOCHS = 2
STEP = 4
"""Every fourth write is tried; with 1 all of them are."""


class Disk:
    """Counts what is made durable, and is full from the N-th time on."""

    def __init__(self, full_at: int) -> None:
        self.full_at, self.count, self.fsync = full_at, 0, os.fsync

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        if self.full_at and self.count >= self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.fsync(descriptor)


def run(folder: Path, disk: Disk) -> None:
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[Averages(), Metrics(curves_every=0), IterationCheckpoint(), Export()],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        plugins=[CheckpointFiles({})],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryo2d.io.atomic.os.fsync", disk)
        trainer.fit(FakeModule(total=EPOCHS), datamodule=FakeData())


def test_the_last_good_state_stays_and_nothing_claims_success(tmp_path):
    disk = Disk(0)
    run(tmp_path / "whole", disk)
    assert (tmp_path / "whole" / "manifest.json").is_file()
    total, reached = disk.count, set()
    assert total > 8 * STEP
    for full_at in range(1, total + 1, STEP):
        folder = tmp_path / str(full_at)
        with pytest.raises(EnvironmentFault, match=r"cannot write .*: No space left on device"):
            run(folder, Disk(full_at))
        found = newest_checkpoint(folder)
        reached.add(None if found is None else found[1]["epoch"])
        # whatever is there is whole
        if found is not None:
            assert len(read_rows(folder / "metrics.csv")) > found[1]["epoch"]
            assert read_class_averages(folder).iteration > found[1]["epoch"]
        assert list(folder.rglob(".*.part")) == []
        # it is written last: only where its own name could not be flushed may it be there
        assert not (folder / "manifest.json").exists() or full_at == total
    assert reached == {None, *range(EPOCHS)}
