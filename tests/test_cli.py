import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from cryo2d import __version__, cli
from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.jobs import handbook
from cryo2d.jobs.apart import apart
from cryo2d.jobs.lock import held, locked

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Iterator[Command]:
    """Runs a command line in an empty folder; ``run`` stands in for the job classify."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*argv: str, run: Callable = lambda cfg, run_dir: None) -> tuple[int, str, str]:
        monkeypatch.setitem(sys.modules, "cryo2d.jobs.classify", SimpleNamespace(run=run))
        monkeypatch.setattr(sys, "argv", ["cryo2d", *argv])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capsys.readouterr())

    yield call
    handlers, level, handler = before
    for name in (None, "cryo2d.traceback", "hydra"):
        for opened in set(logging.getLogger(name).handlers) - set(handlers):
            logging.getLogger(name).removeHandler(opened)
            opened.close()
    root.handlers[:], root.level = handlers, level
    signal.signal(signal.SIGTERM, handler)


def failing(error: BaseException) -> Callable:
    def run(cfg: DictConfig, run_dir: Path) -> None:
        raise error

    return run


def test_a_run_has_a_folder_and_its_settings(command, tmp_path):
    seen = {}

    def run(cfg: DictConfig, run_dir: Path) -> None:
        seen.update(cfg=cfg, run_dir=run_dir, cwd=Path.cwd())
        logging.getLogger("cryo2d.jobs.classify").info("said")
        logging.getLogger("other").info("noise")

    code, out, err = command("model.icuf=3", run=run)
    assert (code, err) == (0, "")
    assert out == "said\n"
    run_dir = seen["run_dir"]
    assert run_dir.parent == tmp_path / "outputs" / "classify"
    assert seen["cwd"] == tmp_path
    stored = OmegaConf.load(run_dir / "config.yaml")
    assert stored.model.icuf == 3
    assert isinstance(stored.seed, int)
    assert stored.seed == seen["cfg"].seed
    assert (run_dir / ".hydra" / "overrides.yaml").read_text() == "- model.icuf=3\n"
    assert "noise" in (run_dir / "classify.log").read_text()


def test_every_run_has_its_own_folder(command, tmp_path):
    for _ in range(3):
        assert command()[0] == 0
    assert len(list((tmp_path / "outputs" / "classify").iterdir())) == 3


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_who_comes_second_into_a_folder_leaves_nothing_there(command, tmp_path, kind):
    folder, flags = tmp_path / "named", ["-m"] if kind == "sweep" else []
    folder.mkdir()
    words = [*flags, f"hydra.{kind}.dir={folder}"]
    with locked(folder):
        # the other has begun, and written nothing yet by which it could be known
        code, _, err = command(*words)
        assert code == 2
        assert "in use by process" in err
        assert [path.name for path in folder.iterdir()] == [".lock"]
        assert command(words[-1], "--cfg", "job")[0] == 0
    assert command(*words, "model.icuf=3")[0] == 0
    assert not held(folder)
    code, _, err = command(*words)
    assert code == 2
    assert "the folder of a run" in err


def test_a_folder_that_another_has_used_meanwhile_is_left_as_it_is(command, tmp_path, monkeypatch):
    folder = tmp_path / "named"

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        # the other has ended between the check and the lock
        (path / ".hydra").mkdir()
        (path / ".hydra" / "overrides.yaml").write_text("- model.icuf=3\n")
        (path / "config.yaml").touch()
        yield

    monkeypatch.setattr(cli, "locked", late)
    code, _, err = command(f"hydra.run.dir={folder}", "model.icuf=4")
    assert code == 2
    assert "the folder of a run" in err
    assert (folder / ".hydra" / "overrides.yaml").read_text() == "- model.icuf=3\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError([Problem("a.star", "x", "y", "z")]), 2, "a.star: found x"),
        (EnvironmentFault("no room"), 3, "no room"),
        (MemoryError(), 3, "out of memory"),
        (OSError(28, "No space left on device", "a.mrcs"), 3, "a.mrcs: No space left"),
        (OSError(28, "No space left on device"), 3, "the folder of the run (hydra.run.dir): No"),
        (InstantiationException("no such argument"), 2, "no such argument"),
        (
            ValueError("CategoricalDistribution does not support dynamic value space."),
            2,
            "study_name",
        ),
        (KeyError("boom"), 4, "internal error: KeyError: 'boom'"),
        (OSError(2, "No such file", "a"), 4, "internal error"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(143), 143, ""),
    ],
)
def test_exit_codes(command, tmp_path, error, code, says):
    got, out, err = command(run=failing(error))
    assert got == code
    assert says in err
    assert "Traceback" not in out + err
    if isinstance(error, Exception):
        (log,) = tmp_path.rglob("classify.log")
        assert "Traceback" in log.read_text()


def test_the_cause_inside_an_object_that_hydra_builds_is_reported(command):
    def run(cfg: DictConfig, run_dir: Path) -> None:
        try:
            raise EnvironmentFault("no such device")
        except EnvironmentFault as cause:
            raise InstantiationException("Error in call to target") from cause

    assert command(run=run)[0::2] == (3, "cryo2d: no such device\n")


def test_debug_shows_the_traceback(command):
    assert "Traceback" in command("debug=true", run=failing(KeyError("boom")))[2]


def test_lightnings_exit_on_interrupt_is_130(command):
    def run(cfg: DictConfig, run_dir: Path) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert command(run=run)[0] == 130


def test_sigterm_is_143(command):
    assert command(run=lambda cfg, run_dir: os.kill(os.getpid(), signal.SIGTERM))[0] == 143


def test_nothing_holds_up_the_end_that_a_queue_asks_for(tmp_path):
    program = (
        "import os, signal, time\n"
        "from cryo2d import cli\n"
        "cli.LONGEST_END = 0.2\n"
        "signal.signal(signal.SIGTERM, cli._terminate)\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "finally:\n"
        "    time.sleep(300)\n"
    )
    assert python(tmp_path, "-c", program, code=143) == ""


def test_a_refused_command_line_leaves_nothing_behind(command, tmp_path):
    code, out, err = command("+model.num_clases=3", "model.ctf=half")
    assert (code, out) == (2, "")
    assert "did you mean model.num_classes?" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_fails_shows_no_traceback(command, tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def run(cfg: DictConfig, run_dir: Path) -> None:
        def write() -> None:
            raise OSError(28, "No space left on device")

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    code, out, err = command(run=run)
    assert (code, out, err) == (0, "", "")
    (log,) = tmp_path.rglob("classify.log")
    assert "Traceback" in log.read_text()
    assert "No space left" in log.read_text()


def test_an_unknown_job_suggests_one(command):
    code, _, err = command("clasify", "model.icuf=3")
    assert code == 2
    assert "did you mean classify?" in err


@pytest.mark.parametrize("argv", [["simulate"], ["--config-name", "simulate"]])
def test_the_job_may_be_named_as_hydra_does(command, argv):
    code, out, _ = command(*argv, "--cfg", "job")
    assert code == 0
    assert out.startswith("simulation:")


def test_flags_and_settings_in_any_order(command):
    code, out, _ = command("model.icuf=3", "--cfg", "job", "seed=4", "--package", "model.icuf")
    assert (code, out) == (0, "3\n")


def test_a_sweep_runs_on_after_a_failure(command, tmp_path):
    def run(cfg: DictConfig, run_dir: Path) -> float:
        if cfg.model.icuf == 1:
            raise EnvironmentFault("no room")
        (run_dir / "done").touch()
        return 1.0

    assert command("-m", "model.icuf=1,2,4", run=run)[0] == 3
    (sweep,) = (tmp_path / "outputs" / "classify" / "multirun").iterdir()
    assert sorted(path.parent.name for path in sweep.rglob("done")) == ["1", "2"]
    assert [path.parent.name for path in sweep.rglob("failure.json")] == ["0"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_run_of_a_sweep_that_is_killed_costs_only_itself(command, tmp_path, number):
    def run(cfg: DictConfig, run_dir: Path) -> float:
        if cfg.model.icuf == 2:
            os.kill(os.getpid(), number)
        (run_dir / "done").write_text(str(os.getpid()))
        return 1.0

    code, _, err = command("-m", "model.icuf=1,2,4", run=run)
    assert code == 3
    assert f"ended by {number.name}, as for lack of memory" in err
    (sweep,) = (tmp_path / "outputs" / "classify" / "multirun").iterdir()
    done = {path.parent.name: path.read_text() for path in sweep.rglob("done")}
    assert set(done) == {"0", "2"}
    assert len({*done.values(), str(os.getpid())}) == 3


def test_a_sweep_that_is_stopped_stops_its_run(command, tmp_path):
    def run(cfg: DictConfig, run_dir: Path) -> None:
        try:
            os.kill(os.getppid(), signal.SIGTERM)
            threading.Event().wait(60)
        finally:
            (run_dir / "stopped").touch()

    assert command("-m", "model.icuf=1,2", run=run)[0] == 143
    assert [path.parent.name for path in tmp_path.rglob("stopped")] == ["0"]


def test_what_a_run_returns_and_how_it_ends_comes_out_of_its_process():
    assert apart("classify", lambda: 1.5) == 1.5
    assert apart("classify", lambda: None) is None
    with pytest.raises(SystemExit) as stop:
        apart("classify", lambda: sys.exit(143))
    assert stop.value.code == 143
    with pytest.raises(SystemExit) as stop:
        apart("classify", lambda: 1 / 0)
    assert stop.value.code == 4


def test_version_and_help(command):
    assert command("--version") == (0, f"cryo2d {__version__}\n", "")
    code, out, _ = command("--help")
    assert code == 0
    jobs = [path.stem for path in cli.config_dir().glob("*.yaml")]
    assert [job for job in jobs if f"\n  {job} " not in out] == []
    assert "hparams_search=optuna" in out
    assert "hardware=slurm               Runs of a sweep as jobs of a SLURM cluster\n" in out
    code, out, _ = command("simulate", "--help")
    assert code == 0
    assert "simulation.snr=0.1" in out
    assert "experiment=quick" not in out


def test_settings_are_listed(command):
    code, out, err = command("settings", "job=compare")
    assert (code, err) == (0, "")
    assert "min_stability=0   (a number at least 0 and at most 1)\n    Particles with" in out
    assert command("--settings")[1] == command("settings")[1]
    code, out, _ = command("settings", "align", "filaments")
    assert [line.split("=")[0] for line in out.splitlines() if line[0] != " "] == [
        "model.align_filaments"
    ]
    assert command("settings", "job=clasify")[0] == 2


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--num_classes", "50"], "without dashes: model.num_classes=VALUE"),
        (["--model.icuf=3"], "without dashes: model.icuf=3"),
        (["model.icuf", "=", "3"], "model.icuf=VALUE, without spaces"),
        (["-m", "--cfg", "job"], "found --multirun and --cfg; expected one of them"),
    ],
)
def test_habits_from_other_programs_are_told_apart(command, argv, says):
    code, _, err = command(*argv)
    assert code == 2
    assert says in err


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("cryo2d model.num_c", "model.num_classes="),
        ("cryo2d classify model.num_c", "model.num_classes="),
        ("cryo2d simulate simulation.junk_", "simulation.junk_fraction="),
        ("cryo2d hardware=c", "hardware=cpu"),
    ],
)
def test_the_shell_completes(command, monkeypatch, line, completed):
    monkeypatch.setenv("COMP_LINE", line)
    assert command("-sc", "query=bash")[:2] == (0, f"{completed}\n")


def test_the_shell_learns_to_complete(command):
    code, out, _ = command("-sc", "install=bash")
    assert code == 0
    assert "-F hydra_bash_completion cryo2d" in out


def python(folder: Path, *argv: str, code: int = 0) -> str:
    """What a fresh interpreter prints that finds the package under test and ends with a code."""
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_the_command_line_starts_without_torch(tmp_path):
    program = (
        "import atexit, sys\n"
        "from cryo2d.cli import main\n"
        "heavy = {'torch', 'pytorch_lightning', 'pandas', 'matplotlib', 'wandb'}\n"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))))\n"
        "sys.argv = ['cryo2d', '--cfg', 'job']\n"
        "main()\n"
    )
    assert python(tmp_path, "-c", program).splitlines()[-1] == "heavy: []"


def test_python_m_is_the_same_program(tmp_path):
    assert python(tmp_path, "-m", "cryo2d", "--version") == f"cryo2d {__version__}\n"


@pytest.mark.parametrize("job", handbook.job_names(cli.config_dir()))
def test_the_settings_of_every_job_can_be_looked_at(job, command):
    # needed ones may still be missing
    code, out, _ = command(job, "--cfg", "job")
    assert code == 0
    assert "debug: false" in out
    code, _, err = command(job, "--cfg", "job", "no_such_setting=1")
    assert code == 2
    assert "no_such_setting" in err
