"""Picks moved to where the aligned particles lie, ready for extraction anew."""

from dataclasses import dataclass, replace

import numpy as np

from cryo2d.data.outcome import DuplicateRule, aligned_places, image_rows_run_up
from cryo2d.errors import Problem
from cryo2d.io.columns import CsColumns
from cryo2d.io.particles import ParticleTable

SHIFT_3D, PIXEL_3D = "alignments3D/shift", "alignments3D/psize_A"


@dataclass(frozen=True)
class Recentred:
    """Particles with new picks.

    Attributes:
        table: the particles; picks are whole pixels of the micrograph, shifts what is left.
        distance: by how much each pick moved ``[n]`` (Angstrom).
        outside: picks that no longer lie on their micrograph, where its size is known ``[n]``.
    """

    table: ParticleTable
    distance: np.ndarray
    outside: np.ndarray


def pick_problems(table: ParticleTable, micrograph_pixel_size: float | None) -> list[Problem]:
    """Why the picks of the particles cannot be moved."""
    place, found = table.locations, table.alignment
    source = table.source
    if place is None:
        columns = "rlnMicrographName, rlnCoordinateX, rlnCoordinateY, or location/* of a .cs"
        action = "give the file that has them (data.passthrough for a .cs)"
        return [Problem(source, "no pick locations", columns, action)]
    problems = []
    if found is None or found.shift is None:
        expected = "rlnOriginXAngst and rlnOriginYAngst, or alignments2D/shift"
        problems.append(
            Problem(source, "no shifts", expected, "give the particles of a classification")
        )
    unknown = ~np.isfinite(place.x + place.y)
    if micrograph_pixel_size is None:
        unknown |= ~np.isfinite(place.pixel_size)
    if unknown.any():
        row = int(table.source_row[np.argmax(unknown)])
        what = "a pick without coordinates, or on a micrograph of unknown pixel size"
        action = "give micrograph_pixel_size, or remove these particles"
        problems.append(
            Problem(source, what, "the place of every pick", action, row, int(unknown.sum()))
        )
    return problems


def recentred(table: ParticleTable, micrograph_pixel_size: float | None = None) -> Recentred:
    """Move every pick by the shift of its particle.

    The particle lies at the pick minus the shift. The pick goes to the pixel of the micrograph
    nearest to it, and the shift becomes what is left: new shift = shift + new pick - old pick, in
    the direction of the image's rows. Shifts of a 3D alignment in a .cs change by the same.

    Args:
        table: particles with locations and shifts, see :func:`pick_problems`.
        micrograph_pixel_size: in place of the file's (Angstrom).
    """
    place, found = table.locations, table.alignment
    assert place is not None
    assert found is not None
    assert found.shift is not None
    size = place.pixel_size
    if micrograph_pixel_size is not None:
        size = np.full(len(table), micrograph_pixel_size)
    rule = DuplicateRule(micrograph_pixel_size=micrograph_pixel_size)
    new = np.round(aligned_places(table, rule) / size[:, None])
    step = (new - np.stack([place.x, place.y], axis=1)) * size[:, None]
    in_image = step * np.array([1.0, -1.0]) if image_rows_run_up(table) else step
    known = (place.shape > 0).all(axis=1)
    inside = (new >= 0).all(axis=1) & (new < place.shape[:, ::-1]).all(axis=1)
    moved = replace(place, x=new[:, 0], y=new[:, 1])
    table = table.with_alignment(replace(found, shift=found.shift + in_image))
    table = _with_3d_shift(table.with_locations(moved), in_image)
    return Recentred(table, np.linalg.norm(step, axis=1), known & ~inside)


def _with_3d_shift(table: ParticleTable, step: np.ndarray) -> ParticleTable:
    columns = table.columns
    if not isinstance(columns, CsColumns) or SHIFT_3D not in (columns.array.dtype.names or ()):
        return table
    array = columns.array.copy()
    size = table.pixel_size
    if PIXEL_3D in (array.dtype.names or ()):
        size = np.where(array[PIXEL_3D] > 0, array[PIXEL_3D], size)
    array[SHIFT_3D] = array[SHIFT_3D] + step / size[:, None]
    return replace(table, columns=CsColumns(array))
