"""One program at a time in the folder of a run."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryo2d.errors import InputError, Problem

FILE = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN)

log = logging.getLogger(__name__)

_held: list[Path] = []


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others out of a folder until the block ends.

    The system holds the lock, and lets go of it when the process dies, however it dies: there are
    no stale ones.

    Args:
        folder: of the run.

    Raises:
        InputError: if another program is at work there.
    """
    with (folder / FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in TAKEN:
                log.warning("%s cannot be locked (%s).", folder, error.strerror)
            else:
                file.seek(0)
                found = f"in use by {file.read().strip() or 'another program'}"
                action = "wait until it has ended, or end it"
                expected = "a folder that no other program writes to"
                raise InputError([Problem(str(folder), found, expected, action)]) from error
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        _held.append(folder.resolve())
        try:
            yield
        finally:
            _held.remove(folder.resolve())


def held(folder: Path) -> bool:
    """Whether this program keeps others out of a folder."""
    return folder.resolve() in _held
