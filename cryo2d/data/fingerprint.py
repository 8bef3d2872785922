"""A short name for the content of a run's input, by which it is known again."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryo2d.io.particles import ParticleTable

PIECE = 1 << 14
MOST_PIECES = 9
ALL_PIECES = 1000
"""Pieces of all stacks together, but at least one of each: opening thousands takes long enough."""


def fingerprint(table: ParticleTable, files: Sequence[str | Path]) -> dict[str, str]:
    """Hashes of the files that a run reads, each under a name.

    Metadata are read whole. Of every stack its length and up to nine pieces of 16 KiB count, spread
    evenly over it: enough to tell other images apart, and quick on terabytes.

    Args:
        table: the particles.
        files: further files, read whole.
    """
    used = [table.stacks[i] for i in np.unique(table.stack_id).tolist()]
    size = sum(os.stat(path).st_size for path in used)
    digest = hashlib.sha256()
    pieces = max(1, min(MOST_PIECES, ALL_PIECES // max(len(used), 1)))
    for path in used:
        _add_stack(digest, path, pieces)
    found: dict[str, str] = {}
    for path in map(Path, files):
        # files of one name from several folders share an entry
        found[path.name] = " ".join(filter(None, (found.get(path.name), _content(path))))
    count = f"{len(used):,} stack{'s' if len(used) != 1 else ''} of {size:,} bytes"
    return {**found, "images": f"{count}, sha256 {digest.hexdigest()}"}


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _add_stack(digest: "hashlib._Hash", path: str, pieces: int) -> None:
    """Length and pieces of a stack."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}:".encode())
        last = max(size - PIECE, 0)
        # one piece alone is from the middle, several begin and end with the file
        steps = [last // 2] if pieces == 1 else [last * i // (pieces - 1) for i in range(pieces)]
        for place in sorted(set(steps)):
            file.seek(place)
            digest.update(file.read(PIECE))
