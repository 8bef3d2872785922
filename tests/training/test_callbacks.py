import csv
import errno
import io
import itertools
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from fake_run import CLASSES, RINGS, fit, make_summary
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cryo2d.errors import EnvironmentFault
from cryo2d.io.averages import read_class_averages
from cryo2d.training.callbacks.averages import Averages
from cryo2d.training.callbacks.metrics import Metrics, append_row, metrics_of, read_rows
from cryo2d.training.callbacks.montage import Montage
from cryo2d.training.callbacks.progress import PAUSE, Progress, clock
from cryo2d.training.callbacks.tracks import TrackClasses
from cryo2d.training.drawing.tracks import read_tracks
from cryo2d.training.loggers import WandbRun


def _loggers(folder: Path) -> list[pl.loggers.Logger]:
    return [
        CSVLogger(folder, name=None, version="csv"),
        TensorBoardLogger(folder, name=None, version="tb"),
    ]


def test_montage_and_metrics_reach_files_and_loggers(tmp_path: Path):
    callbacks = [Montage(seconds=0), TrackClasses(), Metrics()]
    fit(tmp_path, callbacks, loggers=_loggers(tmp_path))

    pictures = sorted((tmp_path / "images").iterdir())
    assert [p.name for p in pictures] == [f"iteration_{i:03d}.png" for i in range(3)]

    with (tmp_path / "csv" / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [int(row["step"]) for row in logged] == [0, 1, 2]
    assert [float(row["iteration"]) for row in logged] == [0, 1, 2]

    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("effective_classes")] == [0, 1, 2]
    images = events.Images("classes")
    assert [e.step for e in images] == [0, 1, 2]
    shown = np.asarray(Image.open(io.BytesIO(images[2].encoded_image_string)))
    np.testing.assert_array_equal(shown, np.asarray(Image.open(pictures[2])))
    names = ("posterior", "ess", "shift", "scale", "class_size")
    assert {f"distribution/{n}" for n in names} <= set(events.Tags()["histograms"])
    for name in ("frc", "noise"):
        assert [e.step for e in events.Images(name)] == [0, 1, 2]
    # the first and the last iteration
    assert [e.step for e in events.Images("tracks")] == [0, 2]
    assert read_tracks(tmp_path).iteration.tolist() == [0, 1, 2]
    assert {"log_likelihood", "unchanged", "mean_scale", "mean_shift", "memory_gb"} <= set(
        events.Tags()["scalars"]
    )

    rows = read_rows(tmp_path / "metrics.csv")
    expected = [metrics_of(make_summary(i)) for i in range(3)]
    for row, wanted in zip(rows, expected, strict=True):
        assert row.pop("memory_gb") <= wanted.pop("memory_gb") + 1e-3
        assert row == pytest.approx(wanted, rel=1e-5)
    spectra = read_rows(tmp_path / "spectra.csv")
    assert len(spectra) == 3 * RINGS
    second = make_summary(1)
    own = [row for row in spectra if row["iteration"] == 1]
    for name, values in (("frc", second.frc[0]), ("noise_1", second.noise[0])):
        assert [row[name] for row in own] == pytest.approx(values.tolist(), rel=1e-4, abs=1e-6)


def test_averages_can_be_looked_at_while_a_run_goes_on(tmp_path: Path):
    seen = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append(read_class_averages(tmp_path))
            assert not (tmp_path / "manifest.json").exists(), "the run is not finished"

    (tmp_path / "manifest.json").touch()
    fit(tmp_path, [Averages(seconds=0), Watch()])
    assert [averages.iteration for averages in seen] == [1, 2, 3]
    summary = make_summary(2)
    np.testing.assert_array_equal(seen[2].images, summary.averages)
    np.testing.assert_array_equal(seen[2].columns["count"], summary.counts)
    np.testing.assert_allclose(seen[2].rings.frc, summary.frc, atol=1e-6)


def test_metrics_of_a_run_without_resolutions():
    summary = make_summary()
    summary.class_resolution.fill_(math.inf)
    row = metrics_of(summary)
    assert math.isnan(row["median_resolution"])
    assert row["empty_classes"] == 1
    assert row["particles_per_second"] == pytest.approx(240)


def test_metrics_table_is_complete_after_a_step_back(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    for iteration, value in [(0, 1.0), (1, 2.0), (2, 3.0), (1, 5.0), (2, math.nan)]:
        append_row(path, {"iteration": float(iteration), "value": value})
    rows = read_rows(path)
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert [row["value"] for row in rows][:2] == [1, 5]
    assert math.isnan(rows[2]["value"])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_long_table_is_added_to_and_not_written_again(tmp_path: Path):
    path, rows = tmp_path / "metrics.csv", [{"iteration": float(i), "v": i / 7} for i in range(9)]
    for row in rows[:4]:
        append_row(path, row)
    place = path.stat().st_ino
    for row in rows[4:]:
        append_row(path, row)
    assert path.stat().st_ino == place
    assert path.read_text() == "".join(["iteration,v\n", *(f"{i},{i / 7:.6g}\n" for i in range(9))])


@pytest.mark.parametrize("torn", ["2", "2,0.5", "2,0.5,", "\0" * 40])
def test_half_a_row_is_none(tmp_path: Path, torn: str):
    path, rows = tmp_path / "metrics.csv", [{"iteration": float(i), "v": i / 7} for i in range(3)]
    for row in rows[:2]:
        append_row(path, row)
    with path.open("a") as file:
        file.write(torn)
    assert [row["iteration"] for row in read_rows(path)] == [0, 1]
    append_row(path, rows[2])
    assert path.read_text() == "iteration,v\n0,0\n1,0.142857\n2,0.285714\n"


def test_a_row_that_does_not_fit_on_the_disk_leaves_the_table(tmp_path: Path, monkeypatch):
    path = tmp_path / "metrics.csv"
    for iteration in range(2):
        append_row(path, {"iteration": float(iteration)})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cryo2d.io.atomic.os.fsync", full)
    with pytest.raises(EnvironmentFault, match="metrics.csv: No space left"):
        append_row(path, {"iteration": 2.0})
    assert path.read_bytes() == before


def test_collapse_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="cryo2d"):
        fit(tmp_path, [Metrics(warn_below=0.0)], epochs=1)
        assert not caplog.records
        fit(tmp_path, [Metrics(warn_below=1.0)], epochs=1)
    assert f"effective classes of {CLASSES}" in caplog.text


@pytest.mark.parametrize("kind", [WandbRun, pl.loggers.WandbLogger])
def test_wandb_offline_gets_one_picture_per_iteration(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = kind(save_dir=str(tmp_path), offline=True)
    try:
        fit(tmp_path, [Montage(seconds=0), Metrics(curves_every=0)], loggers=[logger])
    finally:
        wandb.finish()  # which Lightning's own logger leaves to the next run
        wandb.teardown()
    pictures = list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))
    assert len(pictures) == 3
    own = {p.read_bytes(): p for p in (tmp_path / "images").iterdir()}
    pixels = {np.asarray(Image.open(p)).tobytes() for p in own.values()}
    # what wandb shows is what is on disk, not a black or wrapped cast of it
    assert {np.asarray(Image.open(p)).tobytes() for p in pictures} == pixels


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_off_a_terminal_is_one_line_per_iteration(tmp_path: Path):
    stream = io.StringIO()
    fit(tmp_path, [Progress(stream=stream)])
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("iteration 1/3  20.0 A")
    assert f"of {CLASSES} classes" in lines[0]
    assert "240 particles/s" in lines[0]
    # one online iteration and one over the whole table, of 120 particles each, at 240 a second
    assert lines[0].endswith("0:01 left")
    assert lines[2].endswith("0:00 left")


def test_a_long_iteration_says_how_far_it_is(tmp_path: Path, monkeypatch):
    ticks = itertools.count(0.0, 1.1 * PAUSE)
    monkeypatch.setattr("cryo2d.training.callbacks.progress.monotonic", lambda: next(ticks))
    stream = io.StringIO()
    fit(tmp_path, [Progress(stream=stream)])
    lines = stream.getvalue().splitlines()
    inside = [line for line in lines if "of its particles" in line]
    assert len(lines) == 3 + len(inside)
    assert inside[0].startswith("iteration 1/3  ")
    assert "left" not in inside[0]  # no speed is known yet
    assert inside[-1].startswith("iteration 3/3  ")
    assert inside[-1].endswith("left")


def test_progress_on_a_terminal_rewrites_one_line(tmp_path: Path):
    stream = _Terminal()
    fit(tmp_path, [Progress(stream=stream)])
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "3/3" in text.splitlines()[-1].split("\r")[-1]


def test_disabled_progress_says_nothing(tmp_path: Path):
    stream = io.StringIO()
    bar = Progress(stream=stream)
    bar.disable()
    fit(tmp_path, [bar])
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (11090, "3:04:50")]
)
def test_clock(seconds: float, text: str):
    assert clock(seconds) == text
