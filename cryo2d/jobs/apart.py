"""A run of a sweep in a process of its own: what kills it costs the others nothing."""

import importlib
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

EXIT_BUG = 4


class KilledError(Exception):
    """The process of a run was killed, as for lack of memory."""


def apart(job: str, work: Callable[[], float | None]) -> float | None:
    """Call a function in a copy of this process, and wait for it.

    The modules of the job are loaded before, once for all its runs; nothing of them may have been
    called here, since threads and devices are not copied.

    Args:
        job: whose module is needed.
        work: returns a number or nothing.

    Returns:
        What it returns.

    Raises:
        KilledError: if a signal ended the process.
        SystemExit: with its exit code, if it has ended by itself with another than 0.
    """
    importlib.import_module(f"cryo2d.jobs.{job}")
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # of threads in the process, which wait for work
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(reading)
        _answer(writing, work)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
    except BaseException:
        # told to stop: so is the run, which leaves a checkpoint
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise KilledError(f"its process was ended by {name}, as for lack of memory")
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(code)
    found = json.loads(told)
    return None if found is None else float(found)


def _answer(writing: int, work: Callable[[], float | None]) -> NoReturn:
    """Do the work, write down what it returns, and end; the parent's exit handlers are its own."""
    code = EXIT_BUG
    try:
        found = work()
        os.write(writing, json.dumps(None if found is None else float(found)).encode())
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001 - this process must not go on as its parent would
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
