"""From a particle stack to the output folder through the command line, in a process of its own."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from hydra import compose, initialize_config_dir
from reference import rebuilt

from cryo2d import cli
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.io.averages import read_class_averages
from cryo2d.io.mrc import read_images
from cryo2d.io.particles import read_particles
from cryo2d.jobs import reconstruct
from cryo2d.simulate.particles import simulate
from cryo2d.training.datamodule import ctf_params

COUNT, VIEWS, CLASSES = 420, 6, 8
SIMULATION = {
    "num_particles": COUNT,
    "box": 40,
    "pixel_size": 5.0,
    "num_molecules": 3,
    "views": 2,
    "snr": 0.5,
    "junk_fraction": 0.05,
    "neighbours": 0.0,
    "num_micrographs": 6,
    "shift_sigma": 5.0,
    "seed": 1,
}
SETTINGS = [
    f"model.num_classes={CLASSES}",
    "model.max_resolution=14",
    "optimizer.iterations=8",
    "optimizer.batch_per_class=40",
    "hardware=cpu",
    "hardware.threads=1",
    "logger=csv",
    "seed=6",
]
WRITTEN = {
    "particles.star",
    "particles.cs",
    "class_averages.mrcs",
    "class_averages.star",
    "class_averages.cs",
    "classes.png",
    "frc.png",
    "noise.png",
    "posteriors.png",
    "report.html",
    "metrics.csv",
    "config.yaml",
    "manifest.json",
    "checkpoints/last.safetensors",
    ".hydra/overrides.yaml",
}


def benchmark(name: str, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """A command of tests/benchmarks with so many words, in a folder of its own."""
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "benchmarks" / name), *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(cli.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def classify(
    stack: Path, folder: Path, *settings: str, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "cryo2d",
            f"data.path={stack}",
            f"hydra.run.dir={folder}",
            *SETTINGS,
            *settings,
        ],
        cwd=folder.parent,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(cli.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )


def rows_of(path: Path) -> int:
    if not path.is_file():
        return 0
    blocks = starfile.read(path, always_dict=True)
    return len(blocks["particles"])


def image_rows(path: Path) -> np.ndarray:
    """0-based images in the stack of the particles of a star."""
    names = starfile.read(path, always_dict=True)["particles"]["rlnImageName"]
    return np.array([int(name.split("@")[0]) - 1 for name in names])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("stack"), **SIMULATION)


@pytest.fixture(scope="module")
def run(
    stack: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("outputs") / "run"
    return folder, classify(stack, folder)


def test_the_folder_is_complete(run):
    folder, done = run
    assert done.returncode == 0, done.stderr
    assert [name for name in sorted(WRITTEN) if not (folder / name).is_file()] == []
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["particles"]["total"] == COUNT
    assert str(folder / "report.html") in done.stdout
    with (folder / "metrics.csv").open() as table:
        assert len(list(csv.DictReader(table))) == 9


def test_reconstruction_from_its_poses_gives_the_averages_again(run, tmp_path):
    folder, _ = run
    first = read_class_averages(folder)
    settings = [f"run={folder}", f"average.pixel_size={first.pixel_size}", "hardware.threads=1"]
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        reconstruct.run(compose("reconstruct", [*settings, "seed=1"]), tmp_path)
    second = read_class_averages(tmp_path)
    assert second.images.shape == first.images.shape
    # smaller classes share too much with others, to which a reconstruction gives particles whole
    for k in np.flatnonzero(first.columns["count"] > 30):
        alike = np.corrcoef(first.images[k].ravel(), second.images[k].ravel())[0, 1]
        assert alike > 0.97, k


def test_rows_in_are_rows_out(run):
    folder, _ = run
    names = ("particles.star", "rejected.star", "excluded.star")
    images = np.concatenate([image_rows(folder / n) for n in names if (folder / n).is_file()])
    assert sorted(images.tolist()) == list(range(COUNT))
    counts = json.loads((folder / "manifest.json").read_text())["particles"]
    assert counts == {
        "total": COUNT,
        "classified": rows_of(folder / "particles.star"),
        "rejected": rows_of(folder / "rejected.star"),
        "excluded": rows_of(folder / "excluded.star"),
    }


def test_averages_are_pictures_in_angstrom(run):
    folder, _ = run
    with mrcfile.open(folder / "class_averages.mrcs") as file:
        averages, pixel = file.data.copy(), float(file.voxel_size.x)
    assert averages.shape[0] == CLASSES
    assert averages.shape[1] * pixel == pytest.approx(40 * 5.0, rel=1e-3)
    assert np.isfinite(averages).all()
    assert averages.std() > 0


def purity(classes: np.ndarray, labels: np.ndarray) -> float:
    largest = [np.bincount(labels[classes == k]).max() for k in np.unique(classes)]
    return sum(largest) / len(labels)


def test_views_are_found(run, stack):
    folder, _ = run
    truth = np.load(stack.parent / "truth.npz")
    particles = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    rows = image_rows(folder / "particles.star")
    good = truth["kind"][rows] == 0
    view = truth["view"][rows][good]
    classes = particles["rlnClassNumber"].to_numpy()[good]
    assert set(classes) <= set(range(1, CLASSES + 1))
    found = purity(classes, view)
    shuffled = purity(np.random.default_rng(0).permutation(classes), view)
    assert found > 0.7
    assert found > shuffled + 0.3
    owned = {np.bincount(view[classes == k]).argmax() for k in np.unique(classes)}
    assert len(owned) >= VIEWS - 1


def test_rotations_are_found(run, stack):
    folder, _ = run
    truth = np.load(stack.parent / "truth.npz")
    particles = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    rows = image_rows(folder / "particles.star")
    error = []
    asymmetric = (truth["names"][truth["species"]] == "ribosome")[rows] & (truth["kind"][rows] == 0)
    for number in np.unique(particles["rlnClassNumber"]):
        own = (particles["rlnClassNumber"] == number).to_numpy() & asymmetric
        view = truth["view"][rows]
        if not own.any():
            continue
        own &= view == np.bincount(view[own]).argmax()
        # one rotation of the class is free
        turn = np.radians(particles["rlnAnglePsi"].to_numpy()[own] - truth["psi"][rows][own])
        turned = np.exp(1j * turn)
        error.extend(np.abs(np.angle(turned / turned.mean())))
    assert len(error) > 50
    assert np.degrees(np.median(error)) < 6.0


def test_the_written_poses_rebuild_the_written_averages(run, stack):
    """Files alone: class, angle and origin of each particle, taken by the stated convention."""
    folder, _ = run
    rows = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    images = read_images(stack.parent / "particles.mrcs")[image_rows(folder / "particles.star")]
    table, _ = read_particles(str(folder / "particles.star"))
    ctf = ctf_params(table.ctf, len(table))
    averages = read_images(folder / "class_averages.mrcs")
    box = averages.shape[-1]
    psi = np.radians(rows["rlnAnglePsi"].to_numpy())
    shift = rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() / SIMULATION["pixel_size"]
    row, column = np.indices((box, box)) - box // 2
    inside = np.hypot(row, column) < 0.35 * box  # beside the particles averages are flat

    def likeness(k: int, turn: float = 1.0, move: float = 1.0) -> float:
        own = np.flatnonzero(rows["rlnClassNumber"] == k + 1)
        built = rebuilt(
            images[own].astype(float),
            ctf[torch.from_numpy(own)],
            SIMULATION["pixel_size"],
            turn * psi[own],
            move * shift[own],
        )
        small = fourier_resize(torch.from_numpy(built)[None], box)[0].numpy()
        return float(np.corrcoef(small[inside], averages[k][inside])[0, 1])

    counts = np.bincount(rows["rlnClassNumber"] - 1, minlength=CLASSES)
    large = np.flatnonzero(counts >= 40)
    assert len(large) >= 4
    right = np.array([likeness(k) for k in large])
    assert right.min() > 0.9  # the averages weigh particles by their posterior
    assert right.mean() > np.mean([likeness(k, turn=-1.0) for k in large]) + 0.2
    assert right.mean() > np.mean([likeness(k, move=-1.0) for k in large]) + 0.05


@pytest.mark.slow
def test_unusable_images_are_excluded_and_listed(stack, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(stack.parent, broken)
    with mrcfile.open(broken / "particles.mrcs", "r+") as file:
        file.data[5, 3, 3] = np.nan
        file.data[17] = 2.5
    folder = tmp_path / "run"
    done = classify(
        broken / "particles.star",
        folder,
        "optimizer.iterations=1",
        "optimizer.full_iterations=1",
        "logger=none",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(image_rows(folder / "excluded.star").tolist()) == [5, 17]
    text = (folder / "excluded.star").read_text()
    assert "NaN" in text
    assert "constant" in text
    counts = json.loads((folder / "manifest.json").read_text())["particles"]
    assert counts["excluded"] == 2
    assert counts["classified"] + counts["rejected"] == COUNT - 2


@pytest.mark.slow
def test_a_run_that_signals_end_again_and_again_leaves_what_an_undisturbed_one_leaves(tmp_path):
    """Every file, byte for byte; in a process of its own, which makes forks of itself."""
    words = ["--kills", "4", "--signals", "KILL", "TERM", "USR1", "--iterations", "3"]
    done = benchmark("kill_storm.py", tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "different: nothing" in done.stdout


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """At its settings, in an iteration, in its output; with room it goes on to the same files."""
    done = benchmark("full_disk.py", tmp_path, "--moments", "3", "--iterations", "2")
    if "hint: unshare" in done.stderr:
        pytest.skip("no disk can be mounted here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "different: nothing" in done.stdout


@pytest.mark.slow
def test_a_file_that_may_not_grow(stack, tmp_path):
    """A limit of the system, as a quota: any user can be given one."""
    folder, limit = tmp_path / "run", (30_000, 30_000)
    done = classify(stack, folder, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 3, done.stderr
    assert f"cannot write {folder}" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "manifest.json").exists()
    assert list(folder.rglob(".*.part")) == []


@pytest.mark.slow
def test_bad_input_is_refused_before_computing(tmp_path):
    done = classify(tmp_path / "missing.star", tmp_path / "run")
    assert done.returncode == 2
    assert "missing.star" in done.stderr
    assert "Traceback" not in done.stderr
