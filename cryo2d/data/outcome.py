"""Where every particle of the input ends: classified, rejected as a duplicate, or excluded."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryo2d.data.duplicates import Duplicates, aligned_centres, find_duplicates
from cryo2d.errors import Problem
from cryo2d.io.carried import quoted
from cryo2d.io.columns import STAR_PREFIX, CsColumns, StarColumns
from cryo2d.io.particles import AlignmentColumns, Excluded, Locations, ParticleTable
from cryo2d.io.rows import TextRows, from_columns
from cryo2d.io.stacks import output_names
from cryo2d.types import Assignments

NEVER_VISITED = "no iteration visited it: run at least one full iteration"
LARGEST_MICROGRAPH = 1e7  # pixel
_OTHERWISE = ", or leave duplicates in with post.remove_duplicates=false"


@dataclass(frozen=True)
class Outcome:
    """The particles of a finished run, each in exactly one of three tables.

    Attributes:
        keep: rows of the run's table that are classified ``[n]`` (bool).
        classified: particles with class and pose.
        rejected: duplicates, with the image that stays in their place as ``cryo2dKeptImage``.
        excluded: particles that could not be used, with ``cryo2dReason`` and their place in the
            input.
        notes: what the reader of the results has to know.
    """

    keep: np.ndarray
    classified: ParticleTable
    rejected: ParticleTable
    excluded: ParticleTable
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Rows of the input."""
        return len(self.classified) + len(self.rejected) + len(self.excluded)


@dataclass(frozen=True)
class DuplicateRule:
    """When two particles are one.

    Attributes:
        remove: None for yes, if there are pick locations and the data are no filaments.
        min_separation: nearer ones are duplicates (Angstrom).
        micrograph_pixel_size: in place of the file's (Angstrom).
    """

    remove: bool | None = None
    min_separation: float = 20.0
    micrograph_pixel_size: float | None = None

    def wanted(self, table: ParticleTable) -> bool:
        """Whether duplicates of this table are to be removed."""
        if self.remove is None:
            return table.locations is not None and not table.is_filament
        return self.remove


def alignment_columns(found: Assignments, half: np.ndarray) -> AlignmentColumns:
    """Assignments as columns of the particle table.

    Args:
        found: final assignments ``[n]``.
        half: half-set, 0 or 1 ``[n]``.
    """
    values = {f.name: getattr(found, f.name).cpu().numpy() for f in fields(found)}
    return AlignmentColumns(half=half, error=found.error.cpu().numpy(), **values)


def settle(
    table: ParticleTable,
    excluded: Excluded,
    found: Assignments,
    half: np.ndarray,
    rule: DuplicateRule,
    folder: Path,
) -> Outcome:
    """Sort all particles into classified, rejected and excluded.

    Args:
        table: particles of the run ``[n]``.
        excluded: particles that were set aside before.
        found: final assignments ``[n]``.
        half: half-set, 0 or 1 ``[n]``.
        rule: for duplicates.
        folder: where the tables will be written, which decides how they name their stacks.

    Raises:
        UnknownPositionError: duplicates are asked for and positions are not known.
    """
    aligned = table.with_alignment(alignment_columns(found, half))
    visited = np.isfinite(found.class_posterior.cpu().numpy())
    keep = visited.copy()
    kept_row, notes = _reject(aligned, keep, rule)
    if not visited.all():
        notes.append(f"{(~visited).sum():,} particles were never visited and have no class.")
    duplicate = visited & ~keep
    survivors = image_names(table.take(kept_row[duplicate]), folder)
    rejected = with_text_column(aligned.take(duplicate), "cryo2dKeptImage", survivors)
    unvisited = table.take(~visited)
    return Outcome(
        keep=keep,
        classified=aligned.take(keep),
        rejected=rejected,
        excluded=with_reasons(extended(excluded, unvisited, [NEVER_VISITED] * len(unvisited))),
        notes=tuple(notes),
    )


def _reject(
    aligned: ParticleTable, keep: np.ndarray, rule: DuplicateRule
) -> tuple[np.ndarray, list[str]]:
    """Clear ``keep`` of duplicates; the row kept in place of each row ``[n]``, and notes."""
    kept_row = np.arange(len(aligned))
    place = aligned.locations
    if not rule.wanted(aligned) or not keep.any():
        return kept_row, []
    if place is None:
        return kept_row, ["Duplicates were not searched: the input has no pick locations."]
    if rule.remove is None and not np.isfinite(_micrograph_pixel_size(place, rule)).all():
        return kept_row, [
            "Duplicates were not searched: the pixel size of the micrographs is not known. "
            "Give post.micrograph_pixel_size."
        ]
    notes, known = [], keep.copy()
    if rule.remove is None:
        known &= _is_known(place.x, place.y)
    if not known[keep].all():
        count = int(keep.sum() - known.sum())
        notes.append(f"{count:,} particles without coordinates were not compared with others.")
    rows, before = np.flatnonzero(known), int(keep.sum())
    duplicates = duplicates_of(aligned.take(rows), rule)
    kept_row[rows] = rows[duplicates.survivor]
    keep[rows] = duplicates.keep
    if keep.sum() < before / 2:
        notes.append(
            f"{before - keep.sum():,} of {before:,} particles were rejected as duplicates. Are the "
            "pick locations right? post.remove_duplicates=false keeps all."
        )
    return kept_row, notes


def duplicates_of(aligned: ParticleTable, rule: DuplicateRule) -> Duplicates:
    """Particles that are too near to a better one.

    The better of two has the higher class posterior, then the lower error; without them the first.

    Args:
        aligned: particles with pick locations.
        rule: smallest distance and pixel size.

    Raises:
        UnknownPositionError: a position is not known.
    """
    place, found = aligned.locations, aligned.alignment
    assert place is not None
    nothing = np.full(len(aligned), np.nan)
    posterior = None if found is None else found.class_posterior
    error = None if found is None else found.error
    return find_duplicates(
        place.micrograph,
        aligned_places(aligned, rule),
        nothing if posterior is None else posterior,
        nothing if error is None else error,
        rule.min_separation,
    )


def aligned_places(aligned: ParticleTable, rule: DuplicateRule) -> np.ndarray:
    """x and y of the centred particles on their micrographs ``[n 2]`` (Angstrom).

    Args:
        aligned: particles with pick locations; without shifts they lie at their picks.
        rule: pixel size.

    Raises:
        UnknownPositionError: a position is not known.
    """
    place, found = aligned.locations, aligned.alignment
    assert place is not None
    shift = None if found is None else found.shift
    if shift is None:
        shift = np.zeros((len(aligned), 2))
    elif image_rows_run_up(aligned):
        shift = shift * np.array([1.0, -1.0])
    return aligned_centres(place.x, place.y, _micrograph_pixel_size(place, rule), shift)


def location_problems(table: ParticleTable, rule: DuplicateRule) -> list[Problem]:
    """Why duplicates cannot be found among the particles, before anything is computed."""
    place = table.locations
    if place is None:
        columns = "rlnMicrographName, rlnCoordinateX, rlnCoordinateY, or location/* of a .cs"
        action = "give the file that has them (data.passthrough for a .cs)"
        return [Problem(table.source, "no pick locations", columns, f"{action}{_OTHERWISE}")]
    problems = []
    for values, what, action in (
        (
            _micrograph_pixel_size(place, rule),
            "unknown pixel size of the micrograph",
            f"give post.micrograph_pixel_size{_OTHERWISE}",
        ),
        (
            np.where(_is_known(place.x, place.y), 0.0, np.nan),
            "a pick without coordinates",
            f"correct or remove these particles{_OTHERWISE}",
        ),
    ):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            row = int(table.source_row[wrong[0]])
            expected = "the place of every pick in Angstrom"
            problems.append(Problem(table.source, what, expected, action, row, len(wrong)))
    return problems


def _is_known(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether there can be a particle at these places of a micrograph ``[n]`` (bool)."""
    with np.errstate(invalid="ignore"):
        return (np.abs(x) < LARGEST_MICROGRAPH) & (np.abs(y) < LARGEST_MICROGRAPH)


def _micrograph_pixel_size(place: Locations, rule: DuplicateRule) -> np.ndarray:
    given = rule.micrograph_pixel_size
    return place.pixel_size if given is None else np.full(len(place.x), given)


def image_rows_run_up(table: ParticleTable) -> bool:
    """Whether rows of the images run against y of the locations.

    Rows of an image run as those of the micrograph it was cut from. The table has y of a
    cryoSPARC micrograph turned over, to run down as in RELION, but its images are as they were.
    """
    if isinstance(table.columns, CsColumns):
        # a .cs made from a star carries the star's columns
        return STAR_PREFIX + "rlnCoordinateY" not in (table.columns.array.dtype.names or ())
    return table.columns is not None and "location/center_y_frac" in table.columns.names


def extended(excluded: Excluded, table: ParticleTable, reasons: Sequence[str]) -> Excluded:
    """The excluded particles and some more of the same input, with a reason for each."""
    parts = [part for part in (excluded.table, table) if len(part)]
    whole = joined(*parts) if len(parts) == 2 else [*parts, excluded.table][0]
    return Excluded(whole, (*excluded.reasons, *reasons))


def with_reasons(excluded: Excluded) -> ParticleTable:
    """The excluded particles with the reason and their place in the input as columns."""
    table = excluded.table
    table = with_text_column(table, "cryo2dReason", np.array(excluded.reasons, dtype=object))
    source = np.full(len(table), table.source, dtype=object)
    table = with_text_column(table, "cryo2dSourceFile", source)
    return with_text_column(table, "cryo2dSourceRow", table.source_row.astype(str))


def image_names(table: ParticleTable, folder: Path) -> np.ndarray:
    """``000042@stack.mrcs`` of each particle as files in a folder call it ``[n]`` (str)."""
    stacks = output_names(table.stacks, table.stack_names, folder)
    pairs = zip(table.image_index.tolist(), table.stack_id.tolist(), strict=True)
    names = [f"{image + 1:06d}@{stacks[stack]}" for image, stack in pairs]
    return np.array(names, dtype=object)


def with_text_column(table: ParticleTable, label: str, values: np.ndarray) -> ParticleTable:
    """The table with one more input column, which every output format then carries.

    Args:
        table: ``[n]``.
        label: name as in a star file, without the underscore.
        values: text ``[n]``.
    """
    texts = [str(value).encode() for value in values]
    columns = table.columns
    if isinstance(columns, CsColumns):
        return replace(table, columns=CsColumns(_with_field(columns.array, label, texts)))
    if columns is None:
        columns = StarColumns(from_columns({}))
    old = columns.rows.columns(columns.rows.labels)
    new = {**old, label: np.array(texts, dtype=bytes)}
    rows = from_columns({name: quoted(text) for name, text in new.items()})
    return replace(table, columns=replace(columns, rows=rows))


def _with_field(array: np.ndarray, label: str, texts: Sequence[bytes]) -> np.ndarray:
    column = np.array(texts, dtype=bytes)
    name = STAR_PREFIX + label
    kept = [field for field in array.dtype.names or () if field != name]
    dtype = [*((field, array.dtype[field]) for field in kept), (name, column.dtype)]
    wider = np.empty(len(array), dtype=dtype)
    for field in kept:
        wider[field] = array[field]
    wider[name] = column
    return wider


def joined(first: ParticleTable, second: ParticleTable) -> ParticleTable:
    """The particles of two tables taken from one: same file, stacks and optics groups."""
    assert first.stacks == second.stacks
    assert first.optics_names == second.optics_names
    shared = {"source", "stacks", "stack_names", "optics_names", "box", "aligned", "relocated"}
    values = {
        f.name: _joined_field(getattr(first, f.name), getattr(second, f.name))
        for f in fields(first)
        if f.name not in shared
    }
    return replace(first, **values)


def _joined_field(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return None
    if isinstance(first, TextRows):
        one, other = first.columns(first.labels), second.columns(first.labels)
        both = {name: np.concatenate([one[name], other[name]]) for name in first.labels}
        return from_columns({name: quoted(text) for name, text in both.items()})
    if isinstance(first, StarColumns):
        return replace(first, rows=_joined_field(first.rows, second.rows))
    if is_dataclass(first) and not isinstance(first, type):
        values = {
            f.name: _joined_field(getattr(first, f.name), getattr(second, f.name))
            for f in fields(first)
        }
        return replace(first, **values)
    return np.concatenate([first, second])
