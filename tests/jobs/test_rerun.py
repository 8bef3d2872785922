"""The same seed gives the same files, and a finished run can be done again."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from classified import configured
from omegaconf import OmegaConf

from cryo2d import cli
from cryo2d.data.fingerprint import PIECE, fingerprint
from cryo2d.errors import InputError
from cryo2d.io.mrc import read_images, write_stack
from cryo2d.io.particles import read_particles, write_particles
from cryo2d.jobs import classify, record, rerun, targets
from cryo2d.jobs.repetition import TIMES
from cryo2d.simulate.particles import simulate
from cryo2d.training.callbacks.metrics import read_rows

COUNT = 160
# What holds times or absolute paths: all else is the same bit for bit.
EXCEPTIONS = {
    ".hydra/hydra.yaml": "the folder of the run",
    "config.yaml": "the folders of its loggers",
    "classify.log": "times",
    "run.json": "the time of the start",
    ".lock": "the number and start of the process",
    "metrics.csv": "times and memory",
    "csv/metrics.csv": "the same",
    "manifest.json": "the time of the end, hashes of the others",
    "report.html": "the course of times",
}
SETTINGS = (
    "model.num_classes=4",
    "model.max_resolution=16",
    "optimizer.iterations=3",
    "optimizer.batch_per_class=25",
    "hardware=cpu",
    "hardware.threads=1",
    "seed=3",
    # which iterations they show would go by the clock
    "callbacks.montage.seconds=0",
    "callbacks.checkpoint.seconds=0",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack and two runs of one command line from one folder, each by a process of its own."""
    folder = tmp_path_factory.mktemp("project")
    simulate(folder / "stack", num_particles=COUNT, box=32, pixel_size=6.0, snr=0.5, seed=1)
    words = [*SETTINGS, "data.path=stack/particles.star"]
    other = subprocess.Popen(
        [sys.executable, "-m", "cryo2d", *words, "hydra.run.dir=first"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(cli.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    here(folder, *words, "hydra.run.dir=second")
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 0, errors
    return folder


def here(folder: Path, *argv: str) -> None:
    """Run a command line in this process, which has the libraries loaded already."""
    root, numbers = logging.getLogger(), (signal.SIGTERM, signal.SIGUSR1)
    before = root.handlers[:], root.level, [signal.getsignal(number) for number in numbers]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
        patch.setattr(sys, "argv", ["cryo2d", *argv])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[:2]
    for number, handler in zip(numbers, before[2], strict=True):
        signal.signal(number, handler)
    assert stop.value.code == 0


@pytest.fixture
def own(project: Path, tmp_path: Path) -> Path:
    """A copy of the project that a test may spoil."""
    folder = shutil.copytree(project, tmp_path / "own")
    record.add(folder / "first", folder=str(folder))
    return folder


@pytest.fixture
def copying(monkeypatch, project) -> Callable[[Path], None]:
    """In place of a classification a finished run is copied."""

    def use(source: Path) -> None:
        def fitted(cfg: object, folder: Path) -> None:
            known = record.read(source)["input"]
            shutil.copytree(source, folder, dirs_exist_ok=True)
            record.add(folder, input=known)

        monkeypatch.setattr(classify, "fitted", fitted)

    return use


def again(folder: Path, out: Path, *settings: str) -> tuple[float, dict]:
    out.mkdir()
    found = rerun.run(configured("rerun", f"run={folder}", *settings), out)
    return found, json.loads((out / "manifest.json").read_text())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_command_line_gives_the_same_files_bit_for_bit(project):
    first, second = project / "first", project / "second"
    events = {name for name in files(first) | files(second) if "events.out" in name}
    names = files(first) - events
    assert names == files(second) - events
    assert {"particles.star", "checkpoints/last.safetensors", "images/iteration_003.png"} <= names
    assert set(EXCEPTIONS) <= names
    different = {n for n in names if (first / n).read_bytes() != (second / n).read_bytes()}
    assert different <= set(EXCEPTIONS)
    rows = [read_rows(folder / "metrics.csv") for folder in (first, second)]
    for one, two in zip(*rows, strict=True):
        for name in one.keys() - set(TIMES):
            assert str(one[name]) == str(two[name]), name


def test_the_documentation_names_what_may_differ():
    page = Path(__file__).parents[2] / "docs" / "rerun.md"
    text = page.read_text(encoding="utf-8")
    assert [name for name in EXCEPTIONS if f"`{name}`" not in text] == []


def test_a_run_is_repeated(project, tmp_path, capsys):
    found, manifest = again(project / "first", tmp_path / "out")
    assert found == 1
    assert manifest["identical"]
    assert {"particles.star", "class_averages.mrcs", "metrics.csv"} <= set(manifest["same"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "agree bit for bit" in page
    facts = record.read(tmp_path / "out" / "run")
    assert facts["input"] == record.read(project / "first")["input"]
    assert facts["command"] == record.read(project / "first")["command"]
    assert facts["command"].startswith("cryo2d model.num_classes=4")


def test_how_far_results_are_apart_is_told(own, copying, tmp_path):
    other = shutil.copytree(own / "second", tmp_path / "other")
    table, _ = read_particles(other / "particles.star")
    index = table.alignment.class_index.copy()
    largest = np.bincount(index).argmax()
    index[np.flatnonzero(index == largest)[:8]] = (largest + 1) % 4
    found = table.with_alignment(type(table.alignment)(class_index=index))
    write_particles(other / "particles.star", found)
    images = read_images(other / "class_averages.mrcs", np.arange(4)).copy()
    write_stack(other / "class_averages.mrcs", np.rot90(images, axes=(1, 2)).copy(), 6.0)
    copying(other)
    ari, manifest = again(own / "first", tmp_path / "out")
    assert manifest["different"] == ["class_averages.mrcs", "particles.star"]
    assert manifest["kept"] == pytest.approx(1 - 8 / COUNT)
    assert 0.5 < ari < 1
    assert 0 < manifest["moved"] <= 8 / COUNT
    # a turned average is the same average, but for the centre of an even box
    assert manifest["least_correlation"] > 0.9
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{1 - 8 / COUNT:.2%} of the particles are in the same class" in page


def test_another_input_is_refused_unless_asked_for(own, copying, tmp_path):
    star = own / "stack" / "particles.star"
    star.write_text(star.read_text() + "\n")
    with pytest.raises(InputError, match=r"particles\.star: found sha256 .*changed_input=true"):
        again(own / "first", tmp_path / "out")
    copying(own / "second")
    _, manifest = again(own / "first", tmp_path / "asked", "changed_input=true")
    assert manifest["identical"]
    page = (tmp_path / "asked" / "report.html").read_text()
    assert "The input has changed: particles.star." in page


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.regularizer", {"_target_": "os.system", "command": "touch owned"}),
        ("optimizer.step_size._target_", "cryo2d.cli.os.system"),
        ("callbacks.export.ranker", {"_target_": "cryo2d.jobs.record.begin"}),
        ("callbacks.more", {"list": [{"_target_": "subprocess.run"}]}),
        ("data.path", "${oc.env:HOME}"),
    ],
)
def test_classes_of_others_are_not_built(own, copying, tmp_path, key, value):
    path = own / "first" / "config.yaml"
    cfg = OmegaConf.load(path)
    OmegaConf.update(cfg, key, value, force_add=True)
    OmegaConf.save(cfg, path)
    copying(own / "second")
    with pytest.raises(InputError, match="a class of cryo2d's own conf/|as runs record it"):
        again(own / "first", tmp_path / "out")


def test_a_trusted_class_is_built(own, copying, tmp_path):
    path = own / "first" / "config.yaml"
    cfg = OmegaConf.load(path)
    cfg.optimizer.step_size["_target_"] = "my_methods.Linear"
    OmegaConf.save(cfg, path)
    copying(own / "second")
    with pytest.raises(InputError, match=r"trusted=\[my_methods\.Linear\]"):
        again(own / "first", tmp_path / "refused")
    found = again(own / "first", tmp_path / "out", "trusted=[my_methods.Linear]")
    assert found[1]["identical"]


def test_what_conf_names_is_registered():
    names = targets.registered(cli.config_dir())
    assert {"cryo2d.em.anneal.PowerLaw", "pytorch_lightning.Trainer"} <= names
    assert not any(name.startswith(("os.", "subprocess")) for name in names)


def test_other_versions_and_machines_are_named():
    before = {"versions": {"torch": "1"}, "machine": {"processor": "A"}, "git": None}
    now = {"versions": {"torch": "2"}, "machine": {"processor": "A"}, "git": None}
    assert rerun.circumstances(before, now) == ["torch: 1, now 2"]
    git = {"commit": "0123456789abcdef", "changed": True}
    (line,) = rerun.circumstances(before, before | {"git": git})
    assert line == "source: installed, now commit 0123456789 with changes"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: (run / "manifest.json").unlink(), "no finished run"),
        (lambda run: (run / "config.yaml").unlink(), "no config.yaml"),
        (lambda run: record.add(run, job="reconstruct"), "a run of reconstruct"),
        (
            lambda run: (run / "config.yaml").write_text(
                (run / "config.yaml").read_text() + "more: 1\n"
            ),
            "install cryo2d",
        ),
    ],
)
def test_what_cannot_be_repeated_is_said(own, tmp_path, spoil, says):
    spoil(own / "first")
    with pytest.raises(InputError, match=says):
        again(own / "first", tmp_path / "out")


def test_a_fingerprint_knows_images_and_files_again(tmp_path):
    path = simulate(tmp_path / "a", num_particles=60, box=32, pixel_size=6.0, seed=1)
    table, _ = read_particles(path)
    first = fingerprint(table, [path])
    copy = shutil.copytree(tmp_path / "a", tmp_path / "b") / path.name
    assert fingerprint(read_particles(copy)[0], [copy]) == first
    stack = copy.parent / "particles.mrcs"
    content = bytearray(stack.read_bytes())
    assert len(content) > 2 * PIECE
    content[-1] ^= 1
    stack.write_bytes(content)
    changed = fingerprint(read_particles(copy)[0], [copy])
    assert changed["images"] != first["images"]
    assert changed[path.name] == first[path.name]
