"""The .cs files of cryoSPARC: a numpy structured array, joined with its passthrough by ``uid``."""

import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.io.csdat import STREAM_MAGIC, DamagedStreamError, parse_stream
from cryo2d.io.regular import fault, open_regular, patiently

NUMPY_MAGIC = b"\x93NUMPY"
LFS_MAGIC = b"version https://git-lfs"
MAX_HEADER_BYTES = 1 << 20
"""Some twenty thousand fields: numpy parses the header as Python, for a second and 200 MB."""

EXPECTED = "a .cs file"
UID = "uid"
# What numpy's parser of Python literals raises, apart from ValueError.
UNREADABLE_HEADER = (
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError),
    *(OverflowError, KeyError, IndexError, AttributeError),
)


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

    def read() -> tuple[bytes, np.ndarray | None]:
        with open(open_regular(path, EXPECTED), "rb") as file:
            magic = file.read(len(LFS_MAGIC))
            file.seek(0)
            if magic.startswith(NUMPY_MAGIC):
                return magic, _read_numpy(file, path)
            if magic.startswith(STREAM_MAGIC):
                return magic, parse_stream(file.read(), path)
            return magic, None

    try:
        magic, array = patiently(read)
    except OSError as error:
        raise fault(path, error, EXPECTED) from error
    except DamagedStreamError as error:
        found = f"a compressed .cs that cannot be read: {error}"
        raise _refuse(str(path), found, EXPECTED, "copy it again, or export it again") from error
    except MemoryError as error:
        raise EnvironmentFault(f"not enough memory for {path}") from error
    if array is not None:
        _check_names(array, str(path))
        return array
    if magic.startswith(LFS_MAGIC):
        found, action = "a Git LFS pointer, not the data", "fetch the file with git lfs pull"
    elif magic.startswith(b"\x80"):
        found, action = "a Python pickle", "export the particles from cryoSPARC again"
    else:
        found, action = f"a file starting with {magic[:12]!r}", "check the path"
    raise _refuse(str(path), found, "a .cs file, starting with \\x93NUMPY or \\x95CSDAT", action)


def _check_names(array: np.ndarray, path: str) -> None:
    """Refuse names of fields that no other file could hold."""
    odd = [name for name in array.dtype.names or () if not is_plain(name)]
    if odd:
        found, expected = f"field {odd[0][:40]!a}", "field names of printable ASCII"
        raise _refuse(path, found, expected, "export it again")


def is_plain(name: str) -> bool:
    """Whether both formats can name a column so."""
    return name.isascii() and name.isprintable() and bool(name.strip())


def _read_numpy(file: IO[bytes], path: Path) -> np.ndarray:
    shape, dtype = _layout(file, path)
    if dtype.hasobject:
        found = "a field of Python objects, which would have to be unpickled"
        raise _refuse(str(path), found, "numbers and strings", "export it again from cryoSPARC")
    if dtype.names is None or len(shape) != 1 or not dtype.itemsize:
        found = f"a plain array of shape {shape}"
        raise _refuse(str(path), found, "a table with named fields", "check the path")
    begin = file.tell()
    held = file.seek(0, 2) - begin
    need = shape[0] * dtype.itemsize
    if held >= need >= 0:
        file.seek(begin)
        data = np.empty(need, np.uint8)
        held = file.readinto(data)  # type: ignore[attr-defined]
    if not held >= need >= 0:
        found = f"{held // dtype.itemsize} of {shape[0]} rows"
        raise _refuse(str(path), found, "all rows", "copy the file again: it is cut short")
    return data.view(dtype)


def _layout(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that the header of a numpy file states."""
    try:
        version = np.lib.format.read_magic(file)
        length = {(1, 0): 2, (2, 0): 4}.get(version)
        if length is None:
            raise ValueError(f"numpy format {version}")
        at = file.tell()
        declared = int.from_bytes(file.read(length), "little")
        if declared > MAX_HEADER_BYTES:
            raise ValueError(f"{declared} bytes of header, at most {MAX_HEADER_BYTES} are read")
        file.seek(at)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, _, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
    except UNREADABLE_HEADER as error:
        first = str(error).partition("\n")[0][:120] or repr(error)
        found = f"a damaged header ({first})"
        raise _refuse(str(path), found, EXPECTED, "export it again") from error
    return shape, dtype


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
    assert not array.dtype.hasobject
    array = np.ascontiguousarray(array)
    described = np.lib.format.header_data_from_array_1_0(array)
    try:
        np.lib.format.write_array_header_1_0(file, described)
    except ValueError:
        # The names of very many fields do not fit the header of the older version.
        np.lib.format.write_array_header_2_0(file, described)
    # numpy's own writing of the values does not say why it failed
    file.write(array.reshape(-1).view(np.uint8).data)
