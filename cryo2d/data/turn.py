"""One process at a time does what all of them want done; the others wait, and then find it."""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
PAUSE = 0.2


@contextmanager
def turn(
    path: Path, done: Callable[[], bool], work: Callable[[], object], patience: float
) -> Iterator[None]:
    """Wait for one's turn, or until it is done, or nobody seems to be doing it.

    The system holds the lock and takes it back from a process that dies, however it dies. One that
    lives and does nothing (stopped, cut off from its network) is not waited for either.

    Args:
        path: file to lock; removed at the end.
        done: whether there is nothing left to do.
        work: something that changes while the work goes on.
        patience: longest time without such a change (s).
    """
    descriptor = None
    seen, since, told = work(), time.monotonic(), False
    while not done():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _taken(descriptor, path):
            break
        if not told:
            told = True
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            log.info("Waiting for what %s is doing.", holder or "another process")
        os.close(descriptor)
        descriptor = None
        now = work()
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            log.warning("%s is locked and nothing happens: waited %.0f s.", path, patience)
            break
        time.sleep(PAUSE)
    try:
        yield
    finally:
        if descriptor is not None:
            # still locked: whoever waits then finds that it is no longer the file of that name
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _taken(descriptor: int, path: Path) -> bool:
    """Whether the file is ours now; it is also where it cannot be locked at all."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            return False
        log.warning("%s cannot be locked (%s): others may do the same work.", path, error.strerror)
        return True
    try:
        same = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        same = False
    if same:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return same
