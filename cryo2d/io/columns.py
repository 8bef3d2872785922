"""The untouched columns of an input file, carried so that they survive to the output."""

from dataclasses import dataclass, replace

import numpy as np

from cryo2d.io.rows import TextRows

STAR_PREFIX = "star/"
"""Fields of a .cs that carry the text of a star column: ``star/rlnCtfMaxResolution``."""

CS_PREFIX = "cs."
"""Columns of a star that carry a field of a .cs: ``_cs.alignments3D/pose[0]``."""


@dataclass(frozen=True)
class StarColumns:
    """What a star file said, as text.

    Attributes:
        rows: the particle rows.
        optics: the rows of the optics block, or None before RELION 3.1.
        blocks: the text of every other block, verbatim, from its ``data_`` line on.
    """

    rows: TextRows
    optics: TextRows | None = None
    blocks: tuple[bytes, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the particle rows; carried .cs fields under their own name."""
        return tuple(label.removeprefix(CS_PREFIX) for label in self.rows.labels)

    def take(self, rows: np.ndarray) -> "StarColumns":
        """The same file with some of the particles."""
        return replace(self, rows=self.rows.take(rows))


@dataclass(frozen=True)
class CsColumns:
    """What a .cs file said.

    Attributes:
        array: structured array ``[n]``; passthrough fields are joined in.
    """

    array: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Fields; carried star columns under their own label."""
        return tuple(name.removeprefix(STAR_PREFIX) for name in self.array.dtype.names or ())

    def take(self, rows: np.ndarray) -> "CsColumns":
        """The same file with some of the particles."""
        return replace(self, array=self.array[rows])
