"""A stack that arrives in pieces while it is classified; time is the test's own."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from arriving import Pieces, TestClock
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cryo2d import cli
from cryo2d.data import feed
from cryo2d.errors import InputError
from cryo2d.io.particles import read_particles
from cryo2d.jobs import live
from cryo2d.simulate.particles import simulate
from cryo2d.training.callbacks.metrics import read_rows
from cryo2d.training.checkpoint import read_state
from cryo2d.training.live import STOP

SIZE, CLASSES, OPENING = 40, 4, 6
SETTINGS = [
    f"model.num_classes={CLASSES}",
    "model.max_resolution=16",
    f"optimizer.iterations={OPENING}",
    "optimizer.batch_per_class=10",
    "hardware=cpu",
    "hardware.threads=1",
    "logger=none",
    "seed=3",
    f"live.first={2 * SIZE}",
    "live.idle=1000",
    "live.patience=200",
    "live.poll=10",
    "post.remove_duplicates=false",
    "~callbacks.montage",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    settings = {"box": 32, "pixel_size": 5.0, "num_molecules": 2, "views": 2, "snr": 0.5}
    folder = tmp_path_factory.mktemp("whole")
    return simulate(
        folder, num_particles=6 * SIZE, num_micrographs=1, num_optics_groups=1, seed=1, **settings
    )


@pytest.fixture
def pieces(whole, tmp_path) -> Pieces:
    found = Pieces(whole, tmp_path / "watched", SIZE)
    found.deliver(0)
    found.deliver(1)
    return found


@pytest.fixture
def clock(monkeypatch) -> TestClock:
    made = TestClock()
    monkeypatch.setattr(feed, "SystemClock", lambda: made)
    return made


def run(watch: Path, folder: Path, *settings: str) -> float:
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        cfg = compose("live", overrides=[*SETTINGS, f"watch={watch}", *settings])
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return live.run(cfg, folder)


def rows_of(folder: Path, name: str) -> int:
    path = folder / f"{name}.star"
    return len(starfile.read(path, always_dict=True)["particles"]) if path.is_file() else 0


def nap(clock: TestClock, seconds: float = 10) -> list:
    """Events of so long without any."""
    return [lambda: None] * round(seconds)


def test_particles_are_classified_as_they_come(pieces, clock, tmp_path):
    """A late optics group, a stack cut short that is whole later, one that never is."""
    done = tmp_path / "run"

    def late() -> None:
        assert (done / "class_averages.mrcs").is_file()
        page = (done / "report.html").read_text()
        assert "location.reload()" in page
        pieces.deliver(2, group="late")
        pieces.stack(3, cut=100)
        pieces.star(3)
        pieces.stack(4, cut=4 * 32 * 32 * 5)
        pieces.star(4)

    clock.events = [*nap(clock), late, *nap(clock, 50), lambda: pieces.stack(3)]
    run(pieces.folder, done)
    table, excluded = read_particles(done / "particles.star")
    assert len(excluded.table) == 0
    assert rows_of(done, "excluded") == 5
    assert len(table) + 5 == 5 * SIZE
    reasons = starfile.read(done / "excluded.star", always_dict=True)["particles"]["cryo2dReason"]
    assert reasons.str.contains("beyond the end of").all()
    assert sorted(table.optics_names) == ["group1", "late"]
    assert (np.bincount(table.optics) == [4 * SIZE - 5, SIZE]).all()
    assert np.unique(table.alignment.class_index).max() < CLASSES
    listed = json.loads((done / "manifest.json").read_text())
    assert listed["particles"]["classified"] == 5 * SIZE - 5
    assert "location.reload()" not in (done / "report.html").read_text()
    rows = read_rows(done / "metrics.csv")
    assert [row["full"] for row in rows] == [0.0] * (len(rows) - 1) + [1.0]
    assert rows[-1]["particles"] == 5 * SIZE - 5
    assert len(rows) > OPENING + 3
    state = read_state(done / "checkpoints/last.safetensors")
    noise = state["state_dict"]["model.noise"]
    held = state["optimizer_states"][0]["state"][0]
    assert held["particles"].tolist() == [4 * SIZE - 5, SIZE]
    # beyond what the particles show it is the same noise
    assert torch.allclose(noise[0, 4:], noise[1, 4:], rtol=0.25)


def test_a_signal_ends_it_with_its_output_and_it_goes_on_later(pieces, clock, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    clock.events = [
        *nap(clock),
        lambda: pieces.deliver(2),
        *nap(clock, 20),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
    ]
    first, second = tmp_path / "first", tmp_path / "second"
    run(pieces.folder, first, "live.idle=null")
    assert signal.getsignal(signal.SIGTERM) is before
    rows = read_rows(first / "metrics.csv")
    assert not any(row["full"] for row in rows)
    assert rows_of(first, "particles") + rows_of(first, "excluded") == 3 * SIZE
    state = read_state(first / "checkpoints/last.safetensors")
    counts = state["LiveParticles"]["counts"]
    # how long a source is waited for may change; what the classes depend on may not
    clock.events = [*nap(clock), lambda: [pieces.deliver(i, group="late") for i in (3, 4)]]
    clock.events += [*nap(clock, 20), lambda: (second / STOP).touch()]
    with pytest.raises(InputError, match=r"live.visits=7; expected live.visits=3"):
        run(pieces.folder, tmp_path / "refused", f"resume={first}", "live.visits=7")
    run(pieces.folder, second, f"resume={first}", "live.idle=null")
    after = read_rows(second / "metrics.csv")
    assert after[0]["iteration"] == len(rows)
    assert after[-1]["full"] == 1
    assert rows_of(second, "particles") == 5 * SIZE
    state = read_state(second / "checkpoints/last.safetensors")
    again = state["LiveParticles"]["counts"]
    assert len(again) == 5 * SIZE
    assert (again[: len(counts)] >= counts).all()
    names = starfile.read(second / "particles.star", always_dict=True)["optics"]
    assert "late" in names["rlnOpticsGroupName"].tolist()


def test_a_star_that_grows_until_a_file_ends_the_job(pieces, clock, tmp_path):
    grows = pieces.star(0, 1, name="grows.star")
    for number in (2, 3):
        pieces.stack(number)
    clock.events = [*nap(clock), lambda: pieces.star(0, 1, 2, 3, name="grows.star")]
    clock.events += [*nap(clock), lambda: (tmp_path / "run" / STOP).touch()]
    run(grows, tmp_path / "run", "live.visits=1", "live.idle=null")
    assert rows_of(tmp_path / "run", "particles") == 4 * SIZE
    assert read_rows(tmp_path / "run/metrics.csv")[-1]["full"] == 1


def test_there_is_a_largest_number_of_particles(pieces, clock, tmp_path):
    run(pieces.folder, tmp_path / "run", f"data.max_particles={2 * SIZE}", "live.idle=null")
    assert len(read_rows(tmp_path / "run/metrics.csv")) == OPENING + 1


def test_a_source_without_particles_is_named(tmp_path, clock):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no particles"):
        run(tmp_path / "empty", tmp_path / "run", "live.idle=50")
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Waiting for the first {2 * SIZE} particles" in page


@pytest.mark.parametrize(
    "setting",
    [
        "model.align=false",
        "data.cache=folder",
        "model.align_filaments=true",
        "watch=x.cs",
        "data.path=x",
        "hardware.devices=2",
    ],
)
def test_what_needs_all_particles_is_refused(pieces, clock, tmp_path, setting):
    with pytest.raises(InputError, match=setting.split("=")[1]):
        run(pieces.folder, tmp_path / "run", setting)
