"""Particles, folders and machines as nobody expects them."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from cryo2d import cli
from cryo2d.errors import EnvironmentFault
from cryo2d.io.averages import read_class_averages
from cryo2d.io.mrc import read_images, write_stack
from cryo2d.io.particles import read_particles
from cryo2d.jobs import classify
from cryo2d.simulate.particles import simulate

COUNT, PIXEL = 30, 5.0
SETTINGS = [
    *("model.max_resolution=16", "optimizer.iterations=2", "optimizer.batch_per_class=10"),
    *("hardware=cpu", "hardware.threads=1", "logger=none", "~callbacks.montage", "seed=3"),
]
CANARY = "canary0123456789canary0123456789canary01"


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Path:
    settings = {"box": 32, "pixel_size": PIXEL, "num_molecules": 2, "views": 1, "snr": 0.5}
    return simulate(tmp_path_factory.mktemp("stack"), num_particles=COUNT, seed=1, **settings)


def finish(stack: Path, folder: Path, *settings: str) -> np.ndarray:
    """Run to the end; the number of particles of each class."""
    folder.mkdir(exist_ok=True)
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        cfg = compose("classify", overrides=[f"data.path={stack}", *SETTINGS, *settings])
    classify.run(cfg, folder)
    averages = read_class_averages(folder)
    table, _ = read_particles(folder / "particles.star")
    assert np.isfinite(averages.images).all()
    assert np.isfinite(table.alignment.class_posterior).all()
    counts = np.bincount(table.alignment.class_index, minlength=len(averages))
    assert counts.tolist() == averages.columns["count"].tolist()
    return counts


@pytest.mark.parametrize(("particles", "classes"), [(COUNT, 1), (1, 1), (4, 4)])
def test_few_particles_and_few_classes(stack, tmp_path, particles, classes):
    settings = f"data.max_particles={particles}", f"model.num_classes={classes}"
    counts = finish(stack, tmp_path / "run", *settings)
    assert (counts.sum(), len(counts)) == (particles, classes)


@pytest.mark.parametrize("images", ["the same", "noise", "one of them huge", "tiny"])
def test_particles_that_hold_nothing_to_classify(stack, tmp_path, images):
    rng = np.random.default_rng(1)
    before = read_images(stack.parent / "particles.mrcs").astype(np.float32)
    pictures = {
        "the same": np.repeat(before[:1], COUNT, axis=0),
        "noise": rng.normal(size=before.shape).astype(np.float32),
        "one of them huge": np.where(np.arange(COUNT)[:, None, None] == 7, 1e4, 1) * before,
        "tiny": 1e-6 * before,
    }
    (tmp_path / "particles.star").write_text(stack.read_text())
    write_stack(tmp_path / "particles.mrcs", pictures[images].astype(np.float32), PIXEL)
    counts = finish(tmp_path / "particles.star", tmp_path / "run", "model.num_classes=3")
    assert counts.sum() == COUNT


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is there")
def test_a_gpu_that_is_not_there_is_said(stack, tmp_path):
    with pytest.raises(EnvironmentFault, match="the device asked for is not there"):
        finish(stack, tmp_path / "run", "hardware=gpu", "model.num_classes=2")


def test_a_clock_that_jumps_changes_nothing(stack, tmp_path, monkeypatch):
    finish(stack, tmp_path / "as usual", "model.num_classes=2")
    years = itertools.cycle([1e9, 4e9, 0.0])
    monkeypatch.setattr("time.time", lambda: next(years))
    finish(stack, tmp_path / "jumping", "model.num_classes=2")
    for name in ("particles.star", "particles.cs", "class_averages.mrcs", "class_averages.star"):
        files = [tmp_path / folder / name for folder in ("as usual", "jumping")]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.slow
def test_folders_and_environments_do_not_matter_and_secrets_stay_there(stack, tmp_path):
    """Odd names, no home, a strict umask, an account in the environment, read-only particles."""
    folder = stack.parent
    before = {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    for path in before:
        path.chmod(0o500 if path.is_dir() else 0o400)
    place = tmp_path / "a 'folder', with \u00e4\u00f6\u00fc & \"quotes\""
    place.mkdir()
    unset = ("HOME", "USER", "LOGNAME", "WANDB_MODE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path / "no such folder"),
        "MPLCONFIGDIR": str(tmp_path),
        "WANDB_API_KEY": CANARY,
        "CRYO2D_PASSWORD": CANARY,
        "WANDB_SILENT": "true",
    }
    words = [f"data.path={stack}", *SETTINGS, "model.num_classes=2", "logger=[csv,tensorboard]"]
    done = subprocess.run(
        [sys.executable, "-m", "cryo2d", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.umask(0o077),
    )
    assert done.returncode == 0, done.stderr
    files = [path for path in place.rglob("*") if path.is_file()]
    assert "manifest.json" in {path.name for path in files}
    assert not [path for path in files if path.stat().st_mode & 0o077]
    assert {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))} == before
    assert CANARY not in done.stdout + done.stderr
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
