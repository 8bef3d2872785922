"""Read and write particle metadata, whatever the format.

``read_particles`` takes RELION star files, cryoSPARC .cs files and bare MRC stacks; it looks at
what the file holds, not only at its name. ``write_particles`` writes either format from either, and
what one of them has no place for travels along as extra columns (:mod:`cryo2d.io.carried`).
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io import cs_output, star_output
from cryo2d.io.checks import Draft, check, pose_problems
from cryo2d.io.columns import CsColumns, StarColumns
from cryo2d.io.cryosparc import read_cs_draft
from cryo2d.io.cs import NUMPY_MAGIC, STREAM_MAGIC
from cryo2d.io.mrc import read_header
from cryo2d.io.regular import read_regular
from cryo2d.io.relion import StarReader
from cryo2d.io.table import (
    AlignmentColumns,
    CtfColumns,
    Excluded,
    Locations,
    ParticleTable,
    PoseColumns,
)

log = logging.getLogger(__name__)

__all__ = [
    "AlignmentColumns",
    "CsColumns",
    "CtfColumns",
    "Excluded",
    "Locations",
    "ParticleTable",
    "PoseColumns",
    "StarColumns",
    "pose_problems",
    "read_particles",
    "write_particles",
]

STACK_NAMES = (".mrc", ".mrcs", ".mrc.gz", ".mrcs.gz", ".mrc.bz2", ".mrcs.bz2", ".map", ".ccp4")


def read_particles(
    path: str | Path,
    *,
    passthrough: Sequence[str | Path] = (),
    pixel_size: float | None = None,
    require_ctf: bool = True,
    require_stacks: bool = True,
    max_particles: int | None = None,
    max_bad_fraction: float = 1.0,
) -> tuple[ParticleTable, Excluded]:
    """Read a particle file and check everything that can be checked without reading images.

    A stack named in the file is taken as given if its path is absolute; else it is looked for in
    the folder of the file, in the current folder, in each parent of the file's folder, nearest
    first; and at last under its base name beside the file.

    Args:
        path: a .star, a .cs, or an .mrc(s) stack.
        passthrough: for a .cs, files with further fields of the same particles.
        pixel_size: of the images (Angstrom), in place of the file's.
        require_ctf: whether CTF parameters must be there.
        require_stacks: whether the image stacks must be there; without, only metadata are checked.
        max_particles: keep only the first so many usable particles.
        max_bad_fraction: part of the particles that may be unusable.

    Returns:
        The usable particles, and those that are not: image beyond the end of its stack, or a CTF
        value that is not a number.

    Raises:
        InputError: with every problem found.
    """
    path = Path(path)
    draft = _read_draft(path, passthrough, pixel_size, require_ctf)
    return check(
        draft,
        require_stacks=require_stacks,
        max_particles=max_particles,
        max_bad_fraction=max_bad_fraction,
    )


def _read_draft(
    path: Path, passthrough: Sequence[str | Path], pixel_size: float | None, require_ctf: bool
) -> Draft:
    head = read_regular(path, "a .star, .cs or .mrcs file", stop=lambda _: True)[:1024]
    if head.startswith((NUMPY_MAGIC, STREAM_MAGIC)) or path.suffix == ".cs":
        return read_cs_draft(path, passthrough, pixel_size, require_ctf)
    if passthrough:
        action = "leave passthrough out, or give the .cs file it belongs to"
        raise InputError([Problem(str(path), "passthrough files", "a .cs file for them", action)])
    if path.name.endswith(STACK_NAMES) or head[208:211] == b"MAP":
        return _stack_draft(path, pixel_size, require_ctf)
    reader = StarReader(path)
    if reader.is_perhaps_cut:
        text = "%s does not end with the empty line of a whole file: its last rows may be missing"
        log.warning(text, path)
    return reader.draft(pixel_size, require_ctf)


def _stack_draft(path: Path, pixel_size: float | None, require_ctf: bool) -> Draft:
    """A stack without metadata: every image a particle of one optics group."""
    header = read_header(path)
    problems = []
    if require_ctf:
        action = "give a .star or .cs file with CTF parameters, or set model.ctf=none"
        problems.append(Problem(str(path), "images without metadata", "CTF parameters", action))
    size = header.pixel_size if pixel_size is None else float(pixel_size)
    if not np.isfinite(size):
        action = "give data.pixel_size"
        problems.append(Problem(str(path), "no pixel size in the header", "one", action))
        size = 1.0
    count = header.nz
    if header.available < count / 2:
        found = f"{header.available} of {count} images ({header.size} bytes)"
        expected = f"{header.declared_bytes} bytes, as the header says"
        problems.append(Problem(str(path), found, expected, "copy the file again: it is cut short"))
        count = header.available
    zeros = np.zeros(count, np.int32)
    table = ParticleTable(
        source=str(path),
        source_row=np.arange(1, count + 1),
        stacks=(path.name,),
        stack_names=(path.name,),
        stack_id=zeros,
        image_index=np.arange(count),
        optics_names=("opticsGroup1",),
        box=np.array([header.nx]),
        optics=zeros,
        pixel_size=np.full(count, size),
        sign=np.ones(count, np.float32),
    )
    return Draft(table, tuple(problems), {"pixel_size": "the header of the stack"})


def write_particles(path: str | Path, table: ParticleTable, *, averages: str | None = None) -> None:
    """Write a particle table, atomically: old file or new file, never half of one.

    Every column of the input is kept; only a run's results (``with_alignment``) replace columns.
    Stacks keep the name the input gives them where it leads to the same file from the output's
    folder or one of its parents, and become absolute paths otherwise, so that the output can be
    read back from anywhere.

    Args:
        path: ending in .star (RELION 3.1) or .cs.
        table: the particles.
        averages: path of the class averages, named in a block of a .star.

    Raises:
        ValueError: another ending.
        EnvironmentFault: if the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix == ".star":
        star_output.write_star(path, table, averages)
    elif suffix == ".cs":
        cs_output.write_cs(path, table)
    else:
        found = f"an output ending in {suffix!r}"
        raise InputError([Problem(str(path), found, ".star or .cs", "change the name")])
