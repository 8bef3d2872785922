"""An interrupted run goes on in its folder, with its particles and settings, or says why not."""

import fcntl
import logging
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from cryo2d import cli
from cryo2d.errors import InputError
from cryo2d.jobs import classify, record, settings_file
from cryo2d.simulate.particles import simulate
from cryo2d.training.callbacks.checkpoint import LAST, PREVIOUS, IterationCheckpoint
from cryo2d.training.callbacks.export import Export

SIMULATION = {"num_particles": 60, "box": 32, "pixel_size": 5.0, "num_molecules": 2, "snr": 0.5}
SETTINGS = [
    *("model.num_classes=3", "model.max_resolution=16", "optimizer.iterations=2"),
    *("optimizer.batch_per_class=10", "hardware=cpu", "hardware.threads=1", "logger=none"),
    "~callbacks.montage",
]
RESULTS = ("particles.star", "particles.cs", "class_averages.mrcs", "class_averages.star")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("stack"), **SIMULATION, views=1, seed=1)


@pytest.fixture(scope="module")
def whole(stack, tmp_path_factory) -> Path:
    """The same run, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        cfg = compose("classify", overrides=[f"data.path={stack}", *SETTINGS, "seed=3"])
    classify.run(cfg, folder)
    return folder


@pytest.fixture
def command(monkeypatch, capfd, tmp_path) -> Iterator[Command]:
    """Runs a command line in a folder of its own: exit code, and what it printed."""
    root = logging.getLogger()
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = root.handlers[:], root.level, [signal.getsignal(number) for number in numbers]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)

    def call(*argv: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cryo2d", *argv])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capfd.readouterr())

    yield call
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[:2]
    for number, handler in zip(numbers, before[2], strict=True):
        signal.signal(number, handler)


def interrupt(command: Command, stack: Path, after: int, *typed: str) -> Path:
    """A run that a signal ends after so many iterations; its folder."""
    folder = Path("run").absolute()
    write = IterationCheckpoint.on_train_epoch_end

    def end(callback, trainer, module):
        if after:
            write(callback, trainer, module)
        if trainer.current_epoch + 1 >= after:
            signal.raise_signal(signal.SIGUSR1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IterationCheckpoint, "on_train_epoch_end", end)
        words = [f"data.path={stack}", *SETTINGS, *(typed or ["seed=3"]), f"hydra.run.dir={folder}"]
        code, _, err = command(*words)
    assert code == 143
    assert "stopped by SIGUSR1" in err
    assert (f"resume={folder}" in err) == bool(after)
    return folder


def test_it_goes_on_in_its_folder_to_the_same_files(command, stack, whole):
    folder = interrupt(command, stack, 2)
    # no settings are typed again: they are those of the run
    code, out, _ = command(f"resume={folder}")
    assert code == 0
    assert "after iteration 2" in out
    assert [(folder / n).read_bytes() == (whole / n).read_bytes() for n in RESULTS] == [True] * 4
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert (kept["seed"], kept["model"]["num_classes"], kept["resume"]) == (3, 3, None)
    assert "- seed=3" in (folder / ".hydra" / "overrides.yaml").read_text()
    code, _, err = command(f"resume={folder}")
    assert (code, "a finished run" in err) == (2, True)


def test_one_that_ended_in_its_output_is_handed_over_all_the_same(
    command, stack, whole, monkeypatch
):
    folder = Path("run").absolute()

    def end(export, trainer, module):
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(Export, "on_fit_end", end)
        words = [f"data.path={stack}", *SETTINGS, "seed=3", f"hydra.run.dir={folder}"]
        assert command(*words)[0] == 143
    assert not (folder / "manifest.json").exists()
    assert command(f"resume={folder}")[0] == 0
    assert [(folder / n).read_bytes() == (whole / n).read_bytes() for n in RESULTS] == [True] * 4


def test_before_the_first_checkpoint_it_begins_again_with_the_same_seed(command, stack):
    folder = interrupt(command, stack, 0, "seed=null")
    seed = yaml.safe_load((folder / "config.yaml").read_text())["seed"]
    code, out, _ = command(f"resume={folder}")
    assert (code, "begins again" in out) == (0, True)
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == seed


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(command, stack, whole):
    folder = interrupt(command, stack, 2)
    newest = folder / "checkpoints" / LAST
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, _ = command(f"resume={folder}")
    assert code == 0
    assert f"{LAST} is damaged" in out
    assert f"{PREVIOUS} after iteration 1" in out
    assert [(folder / n).read_bytes() == (whole / n).read_bytes() for n in RESULTS] == [True] * 4


def test_what_would_not_be_the_same_run_is_refused(command, stack, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(stack.parent, moved)
    folder = interrupt(command, moved / "particles.star", 1)
    code, _, err = command(f"resume={folder}", "model.num_classes=5", "seed=4")
    assert code == 2
    assert "found model.num_classes=5; expected model.num_classes=3, as in" in err
    assert "found seed=4; expected seed=3" in err
    lines = (moved / "particles.star").read_text().splitlines(keepends=True)
    (moved / "particles.star").write_text("".join(lines[:-1]))
    code, _, err = command(f"resume={folder}")
    assert code == 2
    assert "particles.star: found sha256" in err
    # wherever they are by now
    code, _, err = command(f"resume={folder}", f"data.path={stack}")
    assert code == 0, err


def test_only_one_program_writes_to_a_folder(command, stack):
    folder = interrupt(command, stack, 1)
    with (folder / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = command(f"resume={folder}")
    assert code == 2
    assert "in use by process" in err
    assert command(f"resume={folder}")[0] == 0


LAYERS = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *LAYERS])
"""A thousand bytes that stand for four hundred million words."""


class Touch:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


EVIL = [
    "+callbacks.evil._target_=pathlib.Path.touch",
    "optimizer.regularizer={_target_: os.mkdir, path: canary}",
    "+callbacks.evil={_target_: os.mkdir, path: canary}",
    "data.path=${oc.env:HOME}",
]


@pytest.mark.parametrize("override", EVIL)
def test_nothing_that_a_folder_names_is_built_or_looked_up(command, tmp_path, override):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([override]))
    (folder / "checkpoints").mkdir()
    code, _, err = command(f"resume={folder}")
    assert code == 2
    assert "expected plain values in the folder of a run" in err
    assert not (tmp_path / "canary").exists()


def test_settings_of_hydra_in_a_folder_are_left_out(tmp_path):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    typed = ["hydra.searchpath=[file:///evil]", "hydra/launcher=x", "seed=3", "model.icuf=3"]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(typed))
    again = settings_file.completed([f"resume={folder}", "seed=4"])
    assert again == ["model.icuf=3", f"resume={folder}", "seed=4"]


@pytest.fixture
def methods(tmp_path, monkeypatch) -> Path:
    """A folder of somebody's own classes and presets, where Python finds them."""
    (tmp_path / "own_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from pytorch_lightning import Callback\n"
        "from cryo2d.em.anneal import PowerLaw\n"
        "class Steps(PowerLaw):\n"
        "    def __call__(self, iteration):\n"
        "        return 0.7\n"
        "class Note(Callback):\n"
        "    def on_train_epoch_end(self, trainer, module):\n"
        "        with Path(trainer.default_root_dir, 'note').open('a') as file:\n"
        "            file.write(f'{module.summary.step_size:g} ')\n"
    )
    preset = tmp_path / "own_conf" / "experiment" / "own.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(
        "# @package _global_\n"
        "optimizer: {step_size: {_target_: own_methods.Steps}}\n"
        "callbacks: {note: {_target_: own_methods.Note}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield preset.parents[1]
    sys.modules.pop("own_methods", None)


def test_classes_of_ones_own_are_composed_again_from_ones_own_files(command, stack, methods):
    own = ("--config-dir", str(methods), "experiment=own")
    folder = interrupt(command, stack, 1, "seed=3", *own)
    # the folder says experiment=own, and not what that is
    code, _, err = command(f"resume={folder}")
    assert (code, "experiment=own" in err) == (2, True)
    code, _, err = command(f"resume={folder}", *own[:2])
    assert code == 0, err
    # the last iteration is a full one
    assert (folder / "note").read_text() == "0.7 0.7 1 "


def test_classes_that_were_typed_are_typed_again_or_left_out(command, stack, methods):
    steps = "optimizer.step_size._target_=own_methods.Steps"
    note = "+callbacks.note._target_=own_methods.Note"
    folder = interrupt(command, stack, 1, "seed=3", steps, note)
    code, _, err = command(f"resume={folder}")
    assert code == 2
    assert f"found {steps}; expected plain values in the folder of a run" in err
    assert "or ~callbacks.note to leave it out" in err
    # another step size would not be the same run
    code, _, err = command(f"resume={folder}", "optimizer.step_size.floor=0.1", "~callbacks.note")
    assert (code, f"found {steps}" in err) == (2, True)
    code, _, err = command(f"resume={folder}", steps, "~callbacks.note")
    assert code == 0, err
    assert (folder / "note").read_text() == "0.7 "


def test_a_pickle_is_no_checkpoint(command, stack, tmp_path):
    folder = interrupt(command, stack, 1)
    for name in (LAST, PREVIOUS):
        evil = pickle.dumps(Touch(tmp_path / "canary"))
        (folder / "checkpoints" / name).write_bytes(evil)
    code, _, err = command(f"resume={folder}")
    assert (code, "no checkpoint" in err) == (2, True)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir [canary]",
        "data: {invert: !!python/name:os.system }",
        "data: {path: '${oc.env:HOME}'}",
        "- a list",
        "{",
        "\x00",
        pytest.param("data: " + "[" * 10_000, id="deep"),
        pytest.param("data: " + "x" * (1 << 19), id="long"),
        pytest.param(BOMB, id="bomb"),
    ],
)
def test_settings_that_are_no_plain_values_are_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml: found"):
        settings_file.read_settings(tmp_path)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "config.yaml").rename(tmp_path / ".hydra" / "overrides.yaml")
    if text != "- a list":
        with pytest.raises(InputError, match=r"overrides\.yaml: found"):
            settings_file.read_overrides(tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff", "[" * 100_000])
def test_a_damaged_record_is_refused(text, tmp_path):
    (tmp_path / record.FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"run\.json: found"):
        record.read(tmp_path)
