"""Find the image stacks that a metadata file names, and check them before anything is computed."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.mrc import MrcHeader, is_compressed, read_header

log = logging.getLogger(__name__)

HEADER_THREADS = 8
PIXEL_SIZE_TOLERANCE = 0.05
LARGEST_BOX = 8192
SHOWN_NAMES = 20


@dataclass(frozen=True)
class FoundStacks:
    """Where the stacks of a metadata file lie.

    Attributes:
        paths: one per name; the name itself where no file was found.
        missing: indices of the names without a file.
        problems: what to tell the user about them.
    """

    paths: tuple[str, ...]
    missing: tuple[int, ...]
    problems: tuple[Problem, ...]


def search_folders(source: str | Path, *, with_current: bool = True) -> tuple[Path, ...]:
    """Folders in which a relative stack name is looked for, in order.

    Args:
        source: the metadata file.
        with_current: whether the current folder is one of them.

    Returns:
        The folder of the file, the current folder, then each parent of the file's folder.
    """
    folder = Path(source).absolute().parent
    current = [Path.cwd()] if with_current else []
    return tuple(dict.fromkeys([folder, *current, *folder.parents]))


def find_stacks(source: str | Path, names: Sequence[str]) -> FoundStacks:
    """Resolve the stack names of a metadata file.

    The first of these that is a file is taken: the name as given if it is absolute; relative to
    the folder of the metadata file; to the current folder; to each parent of the metadata file's
    folder, nearest first (the project folder of RELION and cryoSPARC is one of them); and at last
    a file of the same base name beside the metadata file, unless two stacks would share it.

    Args:
        source: the metadata file.
        names: stack names as it gives them.

    Returns:
        Resolved paths and what is missing.
    """
    folders = search_folders(source)
    shared = Counter(os.path.basename(name) for name in names)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = list(pool.map(lambda name: find_one(name, folders), names))
    missing, ambiguous = [], []
    for i, (name, path) in enumerate(zip(names, found, strict=True)):
        base = os.path.basename(name)
        if path is not None:
            continue
        if not _is_file(folders[0] / base):
            missing.append(i)
        elif shared[base] > 1:
            missing.append(i)
            ambiguous.append(name)
        else:
            found[i] = folders[0] / base
    paths = [name if path is None else str(path) for name, path in zip(names, found, strict=True)]
    lost = [names[i] for i in missing if names[i] not in ambiguous]
    problems = _missing_problems(str(source), lost, len(names), folders)
    problems += [_ambiguous(str(source), name) for name in ambiguous]
    return FoundStacks(tuple(paths), tuple(missing), tuple(problems))


def _is_file(path: Path | str) -> bool:
    """Whether this is a regular file; a name that no file can have is none."""
    try:
        return os.path.isfile(path)
    except ValueError:
        return False


def find_one(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file of this name: as given if absolute, else in the first folder that has it."""
    if not name:
        return None
    if os.path.isabs(name):
        return Path(name) if _is_file(name) else None
    return next((f / name for f in folders if _is_file(f / name)), None)


def _missing_problems(
    source: str, names: Sequence[str], total: int, folders: Sequence[Path]
) -> list[Problem]:
    """One problem for all missing stacks: how many, the first of them, where we looked."""
    if not names:
        return []
    shown = ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
    found = f"{len(names)} of {total} image stacks missing: {shown}"
    places = ", ".join(map(str, folders))
    expected = (
        f"each stack as given if absolute, in one of the folders {places}, "
        f"or under its base name in {folders[0]}"
    )
    action = "copy or link the stacks there, run from the project folder, or correct the names"
    return [Problem(source, found, expected, action)]


def _ambiguous(source: str, name: str) -> Problem:
    found = f"stack {name}, which shares its base name with another stack"
    expected = "a file at its own path, since the base name alone is ambiguous"
    return Problem(source, found, expected, "restore the folders of the stacks")


@dataclass(frozen=True)
class StackHeaders:
    """Headers of the stacks that could be read.

    Attributes:
        headers: one per stack; None where it cannot be read.
        problems: what is wrong with the others.
    """

    headers: tuple[MrcHeader | None, ...]
    problems: tuple[Problem, ...]


def read_headers(paths: Sequence[str], missing: Sequence[int] = ()) -> StackHeaders:
    """Read and check the headers of all stacks: square, even, of a size and a mode we know.

    Args:
        paths: resolved stacks.
        missing: indices to leave out.
    """
    skip = set(missing)
    todo = [i for i in range(len(paths)) if i not in skip]
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        results = list(pool.map(_header_or_problems, [paths[i] for i in todo]))
    headers: list[MrcHeader | None] = [None] * len(paths)
    problems: list[Problem] = []
    for i, result in zip(todo, results, strict=True):
        if isinstance(result, MrcHeader):
            headers[i] = result
            problems += _box_problems(result)
        else:
            problems += result
    _warn([header for header in headers if header is not None])
    return StackHeaders(tuple(headers), tuple(problems))


def _warn(headers: Sequence[MrcHeader]) -> None:
    """Say what is odd about the stacks that are used all the same, once for each kind."""
    plain = [h for h in headers if not is_compressed(h.path)]
    kinds: Sequence[tuple[str, list[MrcHeader], Callable[[MrcHeader], str]]] = (
        ("lack the MAP stamp", [h for h in headers if not h.stamped], lambda _: ""),
        (
            "have a wrong byte order stamp; the other order fits their size",
            [h for h in headers if h.swapped],
            lambda h: f" ({'little' if h.byte_order == '<' else 'big'}-endian)",
        ),
        (
            "go on after their last image, which is ignored",
            [h for h in plain if h.trailing],
            lambda h: f" ({h.trailing} bytes)",
        ),
        (
            "hold fewer images than their header says",
            [h for h in plain if h.available < h.nz],
            lambda h: f" ({h.available} of {h.nz}; {h.size} bytes of {h.declared_bytes})",
        ),
        (
            "hold bytes (MRC mode 0), taken as -128 to 127 unless data.int8_signed=false",
            [h for h in headers if h.mode == 0],
            lambda h: " (which says that it has 0 to 255)" if h.unsigned else "",
        ),
    )
    for text, found, about in kinds:
        if found:
            # one that has most to say about itself
            first = max(found, key=lambda h: bool(about(h)))
            log.warning("stacks that %s: %d, as %s%s", text, len(found), first.path, about(first))


def _header_or_problems(path: str) -> MrcHeader | tuple[Problem, ...]:
    try:
        return read_header(path)
    except InputError as error:
        return error.problems


def _box_problems(header: MrcHeader) -> list[Problem]:
    size = f"images of {header.nx} x {header.ny} pixels"
    if header.nx != header.ny:
        action = "extract the particles again in square boxes"
        return [Problem(header.path, size, "square images", action)]
    if header.nx > LARGEST_BOX:
        action = "check that this is a stack of particles"
        return [Problem(header.path, size, f"at most {LARGEST_BOX} pixels", action)]
    if header.nx % 2:
        action = "extract or crop the particles to an even box"
        return [Problem(header.path, size, "an even box size", action)]
    return []


def compare_pixel_sizes(headers: Sequence[MrcHeader | None], pixel_size: float) -> None:
    """Warn where the headers of the stacks disagree with the metadata, which win."""
    known = [h for h in headers if h is not None and np.isfinite(h.pixel_size)]
    off = [h for h in known if abs(h.pixel_size / pixel_size - 1) > PIXEL_SIZE_TOLERANCE]
    if off:
        log.warning(
            "stacks whose headers disagree with the pixel size %.4g A of the metadata, which is "
            "used: %d, as %s with %.4g A",
            *(pixel_size, len(off), off[0].path, off[0].pixel_size),
        )


def output_names(paths: Sequence[str], names: Sequence[str], folder: Path) -> list[str]:
    """Names by which a file in ``folder`` can call its stacks so that they are found again.

    A name stays as given where it leads to the same stack from there, whatever the current folder:
    it is absolute, or relative to the output folder or one of its parents (RELION and cryoSPARC
    name stacks relative to the project folder). Otherwise it becomes the absolute path. A stack
    that was not found keeps its name.

    Args:
        paths: resolved stacks.
        names: the same as the input names them.
        folder: where the output goes.
    """
    folders = search_folders(folder / "output", with_current=False)
    written = []
    for path, name in zip(paths, names, strict=True):
        again = find_one(name, folders)
        same = again is not None and _is_file(path) and os.path.samefile(again, path)
        keep = same or not _is_file(path)
        written.append(name if keep else os.path.abspath(path))
    return written
