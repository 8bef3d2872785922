"""Write a file whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cryo2d.errors import EnvironmentFault

PART = ".part"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends well.

    The data are on the disk (fsync) before the name changes, so that a crash or a full disk
    leaves either the old file or the new one, never a torn one.

    Args:
        path: the file to write; its folder is made where it is missing.

    Yields:
        The temporary file, open for binary writing.

    Raises:
        EnvironmentFault: if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_names(path.parent)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Add bytes to a file: all of them, or none if that fails.

    What a power cut leaves may end anywhere in them: whoever reads has to look.

    Args:
        path: a file that exists.
        data: a few lines, written at once.

    Raises:
        EnvironmentFault: if they cannot be written.
    """
    try:
        with path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}") from error


def flush_names(folder: Path) -> None:
    """Make the names of the files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_parts(folder: Path) -> None:
    """Remove what programs that were killed in the middle of writing have left in a folder."""
    for path in folder.rglob(f".*{PART}"):
        path.unlink(missing_ok=True)
