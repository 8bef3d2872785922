"""The particle table: what every file format is read into and written from."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from cryo2d.io.columns import CsColumns, StarColumns

HELICAL_COLUMNS = frozenset(
    {
        "rlnHelicalTubeID",
        "rlnHelicalTrackLength",
        "rlnHelicalTrackLengthAngst",
        "filament/filament_uid",
    }
)


@dataclass(frozen=True)
class _ParticleColumns:
    """Frozen dataclass of arrays that share their first axis; any of them may be None."""

    def take(self, rows: np.ndarray) -> Self:
        """The same columns for some of the rows (indices or a mask)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{k: None if v is None else v[rows] for k, v in values.items()})


@dataclass(frozen=True)
class CtfColumns(_ParticleColumns):
    """Contrast transfer function parameters, float64 ``[n]`` each.

    Attributes:
        defocus_u: defocus along ``defocus_angle`` (Angstrom, positive is underfocus).
        defocus_v: defocus across it (Angstrom).
        defocus_angle: azimuth of ``defocus_u`` from the x axis (radian).
        voltage: acceleration voltage (kilovolt).
        spherical_aberration: Cs (Angstrom).
        amplitude_contrast: fraction, 0 to 1.
        phase_shift: extra phase of a phase plate (radian).
        b_factor: envelope exp(-B s^2 / 4) (Angstrom^2); 0 for none.
    """

    defocus_u: np.ndarray
    defocus_v: np.ndarray
    defocus_angle: np.ndarray
    voltage: np.ndarray
    spherical_aberration: np.ndarray
    amplitude_contrast: np.ndarray
    phase_shift: np.ndarray
    b_factor: np.ndarray


@dataclass(frozen=True)
class AlignmentColumns(_ParticleColumns):
    """What a 2D classification found for each particle, ``[n]`` each but ``shift``.

    A column is None where the file read does not have it.

    Attributes:
        class_index: best class, 0-based (int64).
        psi: in-plane rotation image -> class (radian).
        shift: x and y shift image -> class, before the rotation ``[n 2]`` (Angstrom).
        half: half-set, 0 or 1 (int64).
        class_posterior: posterior probability of the best class.
        class_ess: effective number of classes, 1 / sum p^2.
        pose_ess: effective number of rotations.
        shift_ess: effective number of shifts.
        error: chi-squared of the best pose.
        image_pow: sum |X|^2 / sigma^2.
        cross_cor: 2 Re <X, CTF A> / sigma^2.
        slice_pow: sum |CTF A|^2 / sigma^2.
        alpha: contrast scale used.
        alpha_min: contrast scale that minimises the error.
        outlier: 0 for a typical particle, 1 where its class explains it no better than a free blob.
    """

    class_index: np.ndarray | None = None
    psi: np.ndarray | None = None
    shift: np.ndarray | None = None
    half: np.ndarray | None = None
    class_posterior: np.ndarray | None = None
    class_ess: np.ndarray | None = None
    pose_ess: np.ndarray | None = None
    shift_ess: np.ndarray | None = None
    error: np.ndarray | None = None
    image_pow: np.ndarray | None = None
    cross_cor: np.ndarray | None = None
    slice_pow: np.ndarray | None = None
    alpha: np.ndarray | None = None
    alpha_min: np.ndarray | None = None
    outlier: np.ndarray | None = None


@dataclass(frozen=True)
class PoseColumns(_ParticleColumns):
    """In-plane poses that the particles came with (conventions: geometry/transform.py).

    Attributes:
        psi: in-plane rotation image -> class ``[n]`` (radian).
        shift: x and y shift image -> class, before the rotation ``[n 2]`` (Angstrom).
        class_index: class they refer to, 0-based ``[n]`` (int64), or None.
    """

    psi: np.ndarray
    shift: np.ndarray
    class_index: np.ndarray | None = None


@dataclass(frozen=True)
class Locations(_ParticleColumns):
    """Where the particles were picked, in RELION's frame: origin top-left, y down.

    Attributes:
        micrograph: name of the micrograph ``[n]`` (object array of str).
        x: column of the box centre ``[n]`` (micrograph pixels).
        y: row of the box centre ``[n]`` (micrograph pixels).
        pixel_size: of the micrograph ``[n]`` (Angstrom); NaN where unknown.
        shape: rows and columns of the micrograph ``[n 2]``; 0 where unknown.
    """

    micrograph: np.ndarray
    x: np.ndarray
    y: np.ndarray
    pixel_size: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True)
class ParticleTable:
    """Particles, where their images lie, and everything their file said about them.

    Attributes:
        source: the file read.
        source_row: 1-based line of a star, 1-based row of a .cs or image of a stack ``[n]``.
        stacks: resolved paths of the image stacks.
        stack_names: the same stacks as the file names them.
        stack_id: index into ``stacks`` ``[n]`` (int32).
        image_index: 0-based image in the stack ``[n]`` (int64).
        optics_names: names of the optics groups ``[g]``.
        box: box size of each optics group ``[g]`` (pixels, int64); 0 where unknown.
        optics: 0-based optics group ``[n]`` (int32).
        pixel_size: of the images ``[n]`` (Angstrom, float64).
        sign: contrast factor to multiply the image with, 1 or -1 ``[n]`` (float32).
        ctf: CTF parameters, or None.
        locations: pick locations, or None.
        alignment: classes and poses, or None.
        aligned: whether ``alignment`` is new, that is, replaces what the file said.
        relocated: whether ``locations`` are new.
        columns: the untouched columns of the file, or None for a bare stack.
    """

    source: str
    source_row: np.ndarray
    stacks: tuple[str, ...]
    stack_names: tuple[str, ...]
    stack_id: np.ndarray
    image_index: np.ndarray
    optics_names: tuple[str, ...]
    box: np.ndarray
    optics: np.ndarray
    pixel_size: np.ndarray
    sign: np.ndarray
    ctf: CtfColumns | None = None
    locations: Locations | None = None
    alignment: AlignmentColumns | None = None
    aligned: bool = False
    relocated: bool = False
    columns: StarColumns | CsColumns | None = None

    def __len__(self) -> int:
        return int(self.source_row.shape[0])

    @property
    def is_filament(self) -> bool:
        """Whether the input has helical columns."""
        return self.columns is not None and not HELICAL_COLUMNS.isdisjoint(self.columns.names)

    @property
    def poses(self) -> PoseColumns | None:
        """Rotations and shifts of the particles, or None if either is missing."""
        found = self.alignment
        if found is None or found.psi is None or found.shift is None:
            return None
        return PoseColumns(found.psi, found.shift, found.class_index)

    def take(self, rows: np.ndarray) -> "ParticleTable":
        """The table of some particles (indices or a boolean mask ``[n]``), in that order."""
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        return replace(
            self,
            source_row=self.source_row[rows],
            stack_id=self.stack_id[rows],
            image_index=self.image_index[rows],
            optics=self.optics[rows],
            pixel_size=self.pixel_size[rows],
            sign=self.sign[rows],
            ctf=None if self.ctf is None else self.ctf.take(rows),
            locations=None if self.locations is None else self.locations.take(rows),
            alignment=None if self.alignment is None else self.alignment.take(rows),
            columns=None if self.columns is None else self.columns.take(rows),
        )

    def with_alignment(self, alignment: AlignmentColumns) -> "ParticleTable":
        """The same particles with new classes and poses, which replace those of the file."""
        return replace(self, alignment=alignment, aligned=True)

    def with_locations(self, locations: Locations) -> "ParticleTable":
        """The same particles with new pick locations, which replace those of the file."""
        return replace(self, locations=locations, relocated=True)


@dataclass(frozen=True)
class Excluded:
    """Particles that cannot be used, and why.

    Attributes:
        table: the particles.
        reasons: one sentence per particle of ``table``.
    """

    table: ParticleTable
    reasons: tuple[str, ...]
