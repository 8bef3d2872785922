"""``cryo2d JOB key=value ...``: finds the job and its configuration and hands both to Hydra.

Torch is imported by the job, not here: ``cryo2d --cfg job`` and tab completion answer at once.
"""

import errno
import importlib
import logging
import os
import secrets
import shlex
import signal
import sys
import threading
import traceback
from argparse import Namespace
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cryo2d import __version__
from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.io.atomic import clear_parts
from cryo2d.jobs import external, handbook, overrides, record, settings, settings_file, sweep
from cryo2d.jobs.apart import KilledError, apart
from cryo2d.jobs.handbook import DEFAULT_JOB, config_dir
from cryo2d.jobs.lock import held, locked

EXIT_INPUT, EXIT_ENVIRONMENT, EXIT_INTERNAL = 2, 3, 4
EXIT_INTERRUPT, EXIT_TERMINATED = 130, 143
# A full, failing, read-only or vanished disk, a missing permission, too many open files.
MACHINE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""By which a queue asks a job to end."""

LONGEST_END = 20.0
"""Time that a program which was asked to end may take for it (s); queues leave 30 s."""

_last_moments: list[threading.Timer] = []


def main() -> NoReturn:
    """Run the command line in ``sys.argv`` and exit with the code of :mod:`cryo2d.errors`."""
    # Hydra then raises what it would print and exit on, so that every error is reported here, once.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for number in SIGNALS:
        signal.signal(number, _terminate)
    # a log file on a full disk is no reason for a traceback on the terminal
    logging.raiseExceptions = False
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_thread
    try:
        with external.marked(sys.argv[1:]):
            _main()
    finally:
        for timer in _last_moments:
            timer.cancel()


def _main() -> NoReturn:
    """Run the command line and exit."""
    try:
        with ExitStack() as locks:
            job = _prepare(locks)
            work = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=job)
            work(perform)()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPT)
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit code 1.
        interrupted = isinstance(stop.__context__, KeyboardInterrupt)
        sys.exit(EXIT_INTERRUPT if interrupted else stop.code)
    except Exception as error:  # noqa: BLE001 - the border: every error becomes an exit code
        sys.exit(_report(error, debug="debug=true" in sys.argv))
    sys.exit(0)


def perform(cfg: DictConfig) -> float | None:
    """The task that Hydra calls: one run of one job in a folder of its own.

    Args:
        cfg: the composed configuration of the job.

    Returns:
        What the job returns: a number that a sweep compares, or nothing.

    Raises:
        SystemExit: if the job fails. As part of a sweep it leaves word and returns nothing, so that
            the other runs go on; see :class:`cryo2d.jobs.sweep.SweepEnd`.
    """
    context = HydraConfig.get()
    job, run_dir = str(context.job.config_name), Path(context.runtime.output_dir)
    if context.mode != RunMode.MULTIRUN:
        return _perform(cfg, job, run_dir)
    try:
        return apart(job, lambda: _perform(cfg, job, run_dir))
    except KilledError as error:
        sys.stderr.write(f"cryo2d: {run_dir}: {error}\n")
        _invite(run_dir)
        sweep.record_failure(run_dir, EXIT_ENVIRONMENT, str(error))
        return None


def _perform(cfg: DictConfig, job: str, run_dir: Path) -> float | None:
    """Run a job in its folder; arguments and results as ``perform``."""
    context = HydraConfig.get()
    try:
        settings.check(job, cfg)
        if context.mode == RunMode.MULTIRUN:
            sweep.share_particles(cfg, Path(context.sweep.dir))
        with nullcontext() if held(run_dir) else locked(run_dir):
            _begin(job, cfg, run_dir)
            return importlib.import_module(f"cryo2d.jobs.{job}").run(cfg, run_dir)
    except (SystemExit, KeyboardInterrupt):
        _invite(run_dir)
        raise
    except Exception as error:  # noqa: BLE001 - the border: every error becomes an exit code
        code = _report(error, debug=bool(cfg.get("debug")), log_file=run_dir / f"{job}.log")
        if code == EXIT_ENVIRONMENT:
            _invite(run_dir)
        if context.mode == RunMode.MULTIRUN:
            sweep.record_failure(run_dir, code, str(error))
            return None
        raise SystemExit(code) from error


def _begin(job: str, cfg: DictConfig, run_dir: Path) -> None:
    """Write down the settings of a run and where it comes from; one that goes on has done so."""
    clear_parts(run_dir)
    if cfg.get("resume") is None:
        if "seed" in cfg and cfg.seed is None:
            cfg.seed = secrets.randbelow(2**31)
        settings_file.write_settings(cfg, run_dir)
    if cfg.get("resume") is None or not (run_dir / record.FILE).is_file():
        record.begin(run_dir, job, HydraConfig.get().overrides.task)


def _prepare(locks: ExitStack) -> str:
    """Take the job out of ``sys.argv``, check the rest, and leave there what Hydra reads.

    ``--config-name`` names the job for processes that Lightning starts with the same arguments.

    Args:
        locks: keeps others out of the folder of the run, if it was named.

    Returns:
        The job.

    Raises:
        InputError: for an unknown job or anything wrong with its settings.
    """
    if "--version" in sys.argv:
        sys.stdout.write(f"cryo2d {__version__}\n")
        sys.exit(0)
    if sys.argv[1:2] in (["settings"], ["--settings"]):
        sys.stdout.write(handbook.answer(sys.argv[2:], config_dir()))
        sys.exit(0)
    if external.is_external(sys.argv[1:]):
        sys.argv[1:] = external.as_overrides(sys.argv[1:])
    args = _parsed()
    typed = list(args.overrides)
    flags = list(sys.argv[1:])
    for text in typed:
        flags.remove(text)
    named = bool(typed) and "=" not in typed[0] and not typed[0].startswith("~")
    job = typed.pop(0) if named else args.config_name or DEFAULT_JOB
    if args.shell_completion:
        job = _complete(job)
    _check_job(job)
    if args.help:
        page = handbook.job_help(job, config_dir()) if named else handbook.overview(config_dir())
        sys.stdout.write(page)
        sys.exit(0)
    typed = [overrides.quoted(job, text) for text in overrides.gathered(job, typed)]
    if settings_file.RESUME in settings.SETTINGS[job]:
        typed = settings_file.completed(typed)
    multirun = args.multirun or "hydra.mode=MULTIRUN" in typed
    if not (args.hydra_help or args.shell_completion):
        overrides.check(
            job,
            typed,
            config_dir(),
            extra_dir=Path(args.config_dir) if args.config_dir else None,
            multirun=multirun,
            names_only=bool(args.cfg or args.info),
        )
    given = list(typed)
    if settings_file.RESUME in settings.SETTINGS[job] and not args.multirun:
        typed += settings_file.in_place(typed)
    if not (args.cfg or args.info or args.hydra_help or args.shell_completion):
        _enter(overrides.named_folder(typed, multirun=multirun), job, given, locks)
    name = [] if args.config_name else ["--config-name", job]
    sys.argv[1:] = [*typed, *name, *flags]
    return job


def _enter(folder: Path | None, job: str, typed: list[str], locks: ExitStack) -> None:
    """Keep others out of a folder before Hydra writes to it: two programs may begin at once.

    Raises:
        InputError: if another program is at work there, or was since the settings were checked.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    locks.enter_context(locked(folder))
    overrides.check_folder(job, typed)


def _parsed() -> Namespace:
    """Flags and overrides of ``sys.argv``, as Hydra reads them.

    Raises:
        InputError: for a flag that does not exist, or two that exclude each other.
    """
    parser = get_args_parser()
    parser.prog = "cryo2d"

    def refuse(message: str) -> NoReturn:
        raise InputError([overrides.flag_problem(message)])

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_intermixed_args(sys.argv[1:])
    alone = ("run", "multirun", "cfg", "info", "shell_completion")
    asked = [f"--{name.replace('_', '-')}" for name in alone if getattr(args, name)]
    if len(asked) > 1:
        found, action = " and ".join(asked), "leave the others out"
        raise InputError([Problem(settings.COMMAND_LINE, found, "one of them", action)])
    return args


def _check_job(job: str) -> None:
    jobs = handbook.job_names(config_dir())
    if job in jobs:
        return
    if settings.is_known(DEFAULT_JOB, job):
        action = f"write {job}=VALUE, without spaces around ="
        raise InputError([Problem(settings.COMMAND_LINE, job, "key=value", action)])
    near = settings.nearest(job, tuple(jobs))
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    expected = f"one of the jobs {', '.join(jobs)}{hint}"
    action = f"name one of them, or none for {DEFAULT_JOB}"
    raise InputError([Problem(settings.COMMAND_LINE, job, expected, action)])


def _complete(job: str) -> str:
    """The job in the line that the shell wants completed, which is taken out of that line."""
    program, _, rest = os.environ.get("COMP_LINE", "").partition(" ")
    first, _, after = rest.lstrip().partition(" ")
    complete = bool(after) or (bool(first) and rest.endswith(" "))
    if complete and (config_dir() / f"{first}.yaml").is_file():
        os.environ["COMP_LINE"] = f"{program} {after}"
        return first
    return job


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave through ``finally`` blocks; what the last iteration found is on the disk already.

    Whatever they wait for: a queue that asks for the end kills after a while.
    """
    # not by sys.stderr, in the middle of whose work the signal may have come
    os.write(2, f"cryo2d: stopped by {signal.Signals(number).name}\n".encode())
    last = threading.Timer(LONGEST_END, os._exit, [EXIT_TERMINATED])
    last.daemon = True
    last.start()
    _last_moments.append(last)
    sys.exit(EXIT_TERMINATED)


def _log_thread(failed: threading.ExceptHookArgs) -> None:
    """Keep the traceback of a thread for the log file: whoever waits for it gets its error."""
    details = failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback
    logging.getLogger("cryo2d.traceback").error("a thread failed", exc_info=details)


def _invite(run_dir: Path) -> None:
    """Say how to go on with a run that has left something to go on from."""
    if any((run_dir / "checkpoints").glob("*.safetensors")):
        job = str(HydraConfig.get().job.config_name)
        words = ["cryo2d", *([] if job == DEFAULT_JOB else [job]), f"resume={run_dir}"]
        sys.stderr.write(f"cryo2d: {shlex.join(words)} goes on from its last iteration\n")


def _report(error: Exception, *, debug: bool, log_file: Path | None = None) -> int:
    """Tell the user what went wrong; the traceback goes into the log file.

    Returns:
        The exit code.
    """
    code, text = _verdict(error)
    if code == EXIT_INTERNAL:
        where = f" Its traceback is in {log_file}." if log_file else " debug=true shows where."
        text = f"internal error: {text}.{where} Please report it."
    details = "".join(traceback.format_exception(error))
    if log_file:
        logging.getLogger("cryo2d.traceback").error("%s\n%s", text, details)
    sys.stderr.write(f"cryo2d: {text}\n")
    if debug:
        sys.stderr.write(details)
    return code


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if isinstance(cause, InputError | EnvironmentFault):
            return _verdict(cause)
    if isinstance(error, InputError):
        return EXIT_INPUT, str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return EXIT_INPUT, str(InputError([overrides.composition_problem(error)]))
    if isinstance(error, EnvironmentFault):
        return EXIT_ENVIRONMENT, str(error)
    problem = sweep.sweeper_problem(error)
    if problem is not None:
        return EXIT_INPUT, str(InputError([problem]))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return EXIT_ENVIRONMENT, str(error) or "out of memory"
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        # Hydra's own writing names no file; it is to the folder of the run
        where = error.filename or "the folder of the run (hydra.run.dir)"
        return EXIT_ENVIRONMENT, f"cannot read or write {where}: {error.strerror or error}"
    return EXIT_INTERNAL, f"{type(error).__name__}: {error}"
