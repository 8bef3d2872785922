"""The .cs files of cryoSPARC: a numpy structured array, joined with its passthrough by ``uid``."""

import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from cryo2d.errors import EnvironmentFault, InputError, Problem

NUMPY_MAGIC = b"\x93NUMPY"
STREAM_MAGIC = b"\x95CSDAT"
LFS_MAGIC = b"version https://git-lfs"
MAX_HEADER_BYTES = 16 << 20
UID = "uid"


def _refuse(path: str, found: str, expected: str, action: str) -> InputError:
    return InputError([Problem(path, found, expected, action)])


def read_cs(path: str | Path, passthrough: Sequence[str | Path] = ()) -> np.ndarray:
    """Read a .cs file and join its passthrough files.

    Args:
        path: the file.
        passthrough: files with further fields of the same particles, in any order.

    Returns:
        Structured array ``[n]``; where two files have a field, the first one's is kept.

    Raises:
        InputError: if a file is no .cs or is damaged, if a ``uid`` appears twice, or if the
            particles of the files differ.
    """
    array = read_array(path)
    for other in passthrough:
        array = join(array, read_array(other), str(path), str(other))
    return array


def read_array(path: str | Path) -> np.ndarray:
    """Read one .cs file, either of the numpy kind or of the compressed stream kind.

    Raises:
        InputError: saying what the file is instead.
    """
    path = Path(path)
    if not path.is_file():
        found = "no such file" if not path.exists() else "something that is not a regular file"
        raise _refuse(str(path), found, "a .cs file", "check the path")
    try:
        with path.open("rb") as file:
            magic = file.read(len(LFS_MAGIC))
            file.seek(0)
            if magic.startswith(NUMPY_MAGIC):
                return _read_numpy(file, path)
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
        raise _refuse(str(path), found, "a .cs file", "check its permissions") from error
    if magic.startswith(STREAM_MAGIC):
        return _read_stream(path)
    if magic.startswith(LFS_MAGIC):
        found, action = "a Git LFS pointer, not the data", "fetch the file with git lfs pull"
    elif magic.startswith(b"\x80"):
        found, action = "a Python pickle", "export the particles from cryoSPARC again"
    else:
        found, action = f"a file starting with {magic[:12]!r}", "check the path"
    raise _refuse(str(path), found, "a .cs file, starting with \\x93NUMPY or \\x95CSDAT", action)


def _read_numpy(file: IO[bytes], path: Path) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"numpy format {version}")
        shape, _, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError) as error:
        found = f"a damaged header ({str(error).splitlines()[0][:120] if str(error) else error!r})"
        raise _refuse(str(path), found, "a .cs file", "export it again") from error
    if dtype.hasobject:
        found = "a field of Python objects, which would have to be unpickled"
        raise _refuse(str(path), found, "numbers and strings", "export it again from cryoSPARC")
    if dtype.names is None or len(shape) != 1:
        found = f"a plain array of shape {shape}"
        raise _refuse(str(path), found, "a table with named fields", "check the path")
    begin = file.tell()
    held = file.seek(0, 2) - begin
    need = shape[0] * dtype.itemsize
    if held < need:
        found = f"{held // max(dtype.itemsize, 1)} of {shape[0]} rows"
        raise _refuse(str(path), found, "all rows", "copy the file again: it is cut short")
    file.seek(begin)
    data = np.empty(need, np.uint8)
    file.readinto(data)  # type: ignore[attr-defined]
    return data.view(dtype)


def _read_stream(path: Path) -> np.ndarray:
    try:
        # Slow to import, and needed for this kind of file alone.
        from cryosparc.dataset import Dataset
        from cryosparc.errors import DatasetLoadError
    except ImportError as error:
        message = f"{path} is a compressed .cs: pip install cryosparc-tools to read it"
        raise EnvironmentFault(message) from error
    try:
        return Dataset.load(str(path)).to_records(fixed=True)
    except (DatasetLoadError, ValueError, TypeError, OSError) as error:
        found = f"a compressed .cs that cannot be read ({str(error)[:120]})"
        raise _refuse(str(path), found, "a .cs file", "export it again") from error


def join(array: np.ndarray, other: np.ndarray, path: str, other_path: str) -> np.ndarray:
    """Add the fields of another table of the same particles, matched by ``uid``.

    Args:
        array: structured array ``[n]``.
        other: structured array of the same particles in any order.
        path: name of the first file, for messages.
        other_path: name of the second file.

    Raises:
        InputError: if a file has no ``uid``, has one twice, or their particles differ; the message
            counts the unmatched particles of both.
    """
    for table, name in ((array, path), (other, other_path)):
        check_uid(table, name)
    order = np.argsort(other[UID])
    place = np.searchsorted(other[UID], array[UID], sorter=order).clip(max=max(len(other) - 1, 0))
    rows = order[place] if len(other) else np.zeros(len(array), int)
    matched = other[UID][rows] == array[UID] if len(other) else np.zeros(len(array), bool)
    lonely = int((~matched).sum())
    extra = len(other) - int(matched.sum())
    if lonely or extra:
        found = (
            f"{lonely} of {len(array)} particles of {path} not in it, "
            f"{extra} of its {len(other)} not in that"
        )
        action = "give the passthrough file of the same job and output group"
        raise _refuse(other_path, found, "the same particles (uid) in both files", action)
    known = set(array.dtype.names or ())
    added = [name for name in other.dtype.names or () if name not in known]
    return with_fields(array, {name: other[name][rows] for name in added})


def check_uid(array: np.ndarray, path: str) -> None:
    """Refuse a table without ``uid`` or with one of them twice."""
    if UID not in (array.dtype.names or ()):
        raise _refuse(path, "no field uid", "a .cs file of particles", "check the file")
    ordered = np.sort(array[UID])
    repeated = int((ordered[1:] == ordered[:-1]).sum())
    if repeated:
        action = "remove the duplicates in cryoSPARC and export again"
        raise _refuse(path, f"{repeated} uid repeated", "each uid once", action)


def with_fields(array: np.ndarray, fields: dict[str, np.ndarray]) -> np.ndarray:
    """A structured array with more fields; one of the same name is replaced in its place.

    Args:
        array: structured array ``[n]``.
        fields: for each name the values ``[n]`` or ``[n m]``.
    """
    names = list(dict.fromkeys([*(array.dtype.names or ()), *fields]))
    columns = {name: fields[name] if name in fields else array[name] for name in names}
    return build(columns, len(array))


def build(columns: dict[str, np.ndarray], count: int) -> np.ndarray:
    """A structured array of the given columns, each ``[n]`` or ``[n m]``."""
    layout = [(k, _storable(v.dtype), v.shape[1:]) for k, v in columns.items()]
    array = np.empty(count, np.dtype(layout))
    for name, values in columns.items():
        array[name] = values
    return array


def _storable(dtype: np.dtype) -> np.dtype:
    """Strings of no length are not allowed in a file."""
    return np.dtype("S1") if dtype == np.dtype("S") or dtype.itemsize == 0 else dtype


def write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Write a structured array as .cs: the numpy kind, which every cryoSPARC reads."""
    array = np.ascontiguousarray(array)
    try:
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    except ValueError:
        # The names of very many fields do not fit the header of the older version.
        np.lib.format.write_array(file, array, version=(2, 0), allow_pickle=False)
