"""Checkpoints of a run: whole, in time, and of the last finished iteration."""

import errno
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from fake_run import fit

from cryo2d.errors import EnvironmentFault, InputError
from cryo2d.training.callbacks.checkpoint import (
    LAST,
    NEXT,
    PREVIOUS,
    IterationCheckpoint,
    newest_checkpoint,
)
from cryo2d.training.callbacks.metrics import Metrics, read_rows
from cryo2d.training.checkpoint import read_state


def epoch(folder: Path, name: str) -> int:
    return read_state(folder / "checkpoints" / name)["epoch"]


def test_resume_equals_the_uninterrupted_run(tmp_path: Path):
    whole = fit(tmp_path / "whole", [IterationCheckpoint(), Metrics()])
    fit(tmp_path / "parts", [IterationCheckpoint(), Metrics()], epochs=2)
    last, _ = newest_checkpoint(tmp_path / "parts")
    resumed = fit(tmp_path / "parts", [IterationCheckpoint(), Metrics()], resume=last)
    assert resumed.steps.batches == 2
    assert resumed.level.item() == whole.level.item() == 3
    assert [row["iteration"] for row in read_rows(tmp_path / "parts" / "metrics.csv")] == [0, 1, 2]


def test_two_generations_and_no_litter(tmp_path: Path):
    assert newest_checkpoint(tmp_path) is None
    fit(tmp_path, [IterationCheckpoint(seconds=0)])
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [LAST, PREVIOUS]
    assert (epoch(tmp_path, LAST), epoch(tmp_path, PREVIOUS)) == (2, 1)


@pytest.mark.parametrize("left", [(LAST,), (PREVIOUS,), (NEXT, PREVIOUS)])
def test_whatever_a_crash_leaves_serves(left: tuple[str, ...], tmp_path: Path):
    """The names are changed in two steps; a crash may come between any of them."""
    fit(tmp_path, [IterationCheckpoint(seconds=0)])
    folder = tmp_path / "checkpoints"
    if NEXT in left:
        (folder / LAST).rename(folder / NEXT)
    for path in folder.iterdir():
        if path.name not in left:
            path.unlink()
    found, _ = newest_checkpoint(tmp_path)
    assert found.name == left[0]
    assert fit(tmp_path, [IterationCheckpoint()], resume=found).level.item() == 3


def damages(good: bytes) -> Iterator[bytes]:
    """The file cut anywhere, with a bit changed anywhere, and other files altogether."""
    for place in np.linspace(0, len(good) - 1, 60).astype(int).tolist():
        yield good[:place]
        yield good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
    yield from (good + b"0", b"", b"<html>", good[8:], pickle.dumps({"epoch": 1}))


def test_a_damaged_generation_is_noticed_and_the_one_before_it_taken(tmp_path: Path, caplog):
    fit(tmp_path, [IterationCheckpoint(seconds=0)])
    path = tmp_path / "checkpoints" / LAST
    good = path.read_bytes()
    for damaged in damages(good):
        path.write_bytes(damaged)
        found, state = newest_checkpoint(tmp_path)
        assert (found.name, state["epoch"]) == (PREVIOUS, 1)
    assert f"{LAST} is damaged" in caplog.text
    (tmp_path / "checkpoints" / PREVIOUS).write_bytes(good[:-1])
    with pytest.raises(InputError, match=f"{LAST}: found it is cut.*\n.*{PREVIOUS}: found"):
        newest_checkpoint(tmp_path)


def test_failed_write_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fit(tmp_path, [IterationCheckpoint()], epochs=1)
    before = (tmp_path / "checkpoints" / LAST).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cryo2d.io.atomic.os.fsync", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        fit(tmp_path, [IterationCheckpoint()], epochs=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [LAST]
    assert (tmp_path / "checkpoints" / LAST).read_bytes() == before


def test_every_second_iteration_and_always_the_last(tmp_path: Path):
    fit(tmp_path, [IterationCheckpoint(every=2, seconds=0)])
    assert (epoch(tmp_path, LAST), epoch(tmp_path, PREVIOUS)) == (2, 1)


class End(pl.Callback):
    """Ends a run in the middle of an iteration."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        self.after, self.error = after, error

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.after and batch_idx == 0:
            pl_module.level.data += 100
            raise self.error


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, RuntimeError])
def test_who_ends_a_run_gets_its_last_finished_iteration(error, tmp_path: Path):
    """And nothing of the one that was not finished."""
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        fit(tmp_path, [IterationCheckpoint(seconds=1000), End(3, error)], epochs=5)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == [LAST, PREVIOUS]
    assert (epoch(tmp_path, LAST), epoch(tmp_path, PREVIOUS)) == (2, 0)
    assert read_state(folder / LAST)["state_dict"]["level"] == 3
    resumed = fit(tmp_path, [IterationCheckpoint()], epochs=5, resume=folder / LAST)
    assert resumed.level.item() == 5


def test_one_that_was_written_is_not_written_again(tmp_path: Path):
    with pytest.raises(SystemExit):
        fit(tmp_path, [IterationCheckpoint(seconds=0), End(2, SystemExit)], epochs=3)
    assert (epoch(tmp_path, LAST), epoch(tmp_path, PREVIOUS)) == (1, 0)


def test_a_disk_that_is_full_at_the_end_hides_no_fault(tmp_path: Path, monkeypatch, caplog):
    class Fill(End):
        def on_train_batch_end(self, *arguments):
            if arguments[0].current_epoch == self.after:
                monkeypatch.setattr("cryo2d.io.atomic.os.fsync", full)
            super().on_train_batch_end(*arguments)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [IterationCheckpoint(seconds=1000), Fill(2, ZeroDivisionError)])
    assert "The last iterations are lost" in caplog.text
    assert epoch(tmp_path, LAST) == 0
