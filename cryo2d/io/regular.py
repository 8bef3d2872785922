"""Files as they should be: regular, open to us, and patient with network file systems.

A pipe would hang, a device never end. What a network file system refuses for a moment (EIO, ESTALE,
a time-out) is asked for again after a pause; what the machine lacks (descriptors, memory) is the
machine's fault and not the file's.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryo2d.errors import EnvironmentFault, InputError, Problem

Result = TypeVar("Result")

TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})
PAUSES = (0.4, 0.8, 1.6)
"""Seconds to wait before each further try."""

FIRST_BYTES = 1 << 16

_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def patiently(action: Callable[[], Result]) -> Result:
    """Do something with a file; again, after a pause, where a network file system fails for once.

    Raises:
        OSError: if the last try fails as well, or for any other reason at once.
    """
    for pause in PAUSES:
        try:
            return action()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
        time.sleep(pause)
    return action()


def open_regular(path: str | Path, expected: str) -> int:
    """Open a regular file for reading.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Returns:
        Its descriptor.

    Raises:
        InputError: if it cannot be opened or is no regular file.
        OSError: if a network file system fails.
        EnvironmentFault: if the machine has no descriptor left.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except ValueError as error:
        raise _refused(path, f"a name that no file can have ({error})", expected) from error
    except OSError as error:
        if error.errno in TRANSIENT:
            raise
        raise fault(path, error, expected) from error
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    if not regular:
        os.close(descriptor)
        raise _refused(path, _kind(path), expected)
    return descriptor


def read_regular(
    path: str | Path, expected: str, *, stop: Callable[[bytes], bool] = lambda _: False
) -> bytes:
    """All bytes of a regular file.

    Args:
        path: the file.
        expected: what it should be, for the message.
        stop: whether the first bytes tell that the others need not be read.

    Raises:
        InputError: if it cannot be read or is no regular file.
        EnvironmentFault: if the machine has no descriptor left.
    """

    def read() -> bytes:
        with open(open_regular(path, expected), "rb") as file:
            first = file.read(FIRST_BYTES)
            return first if stop(first) else first + file.read()

    try:
        return patiently(read)
    except OSError as error:
        raise fault(path, error, expected) from error


def fault(path: str | Path, error: OSError, expected: str) -> InputError | EnvironmentFault:
    """What to raise for a file that the system does not give us."""
    reason = error.strerror or str(error)
    if error.errno in _LACKING:
        message = f"cannot open {path}: {reason}. Do: raise the limit (ulimit -n) or close programs"
        return EnvironmentFault(message)
    if error.errno == errno.ENOENT:
        return _refused(path, "no such file", expected)
    return _refused(path, f"a file that cannot be opened or read ({reason})", expected)


def _kind(path: str | Path) -> str:
    """What something that is not a regular file is."""
    return "a folder" if os.path.isdir(path) else "something that is not a regular file"


def _refused(path: str | Path, found: str, expected: str) -> InputError:
    action = "check the path and its permissions"
    return InputError([Problem(str(path), found, expected, action)])
