"""A particle table as a RELION 3.1 star file.

Every input column is written as it was read; only the results of a run replace columns of the same
name. The microscope's constants stand in an optics block, made where the input has none.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from cryo2d.io.atomic import atomic_write
from cryo2d.io.carried import (
    TYPES_BLOCK,
    cs_in_star,
    loop_header,
    loop_text,
    quoted,
    star_from_cs,
    types_text,
)
from cryo2d.io.columns import CS_PREFIX, CsColumns, StarColumns
from cryo2d.io.digits import BLANK, fixed, general, planes, zero_padded
from cryo2d.io.filament import columns_of_slot
from cryo2d.io.relion import (
    CTF_LABELS,
    GROUP,
    IMAGE,
    MICROGRAPH,
    OLD_SHIFT_LABELS,
    RESULT_LABELS,
    SHIFT_LABELS,
)
from cryo2d.io.rows import CHUNK_ROWS, TextRows, from_columns
from cryo2d.io.stacks import output_names
from cryo2d.io.table import AlignmentColumns, ParticleTable

Column = Callable[[slice], np.ndarray]
"""Text of some rows of one column, as planes ``[w n]``."""

DECIMALS = 6
OPTICS_CONSTANTS = ("voltage", "spherical_aberration", "amplitude_contrast")
RUN_BLOCK = "cryo2d"
SUPERSEDED = ("alignments2D/",)
"""Fields of a .cs that new results replace."""

MOVED = ("location/center_",)
"""Fields of a .cs that new locations replace."""

CLOSE = 2e-6
"""Relative difference that single precision explains."""


def write_star(path: str | Path, table: ParticleTable, averages: str | None = None) -> None:
    """Write a particle table as RELION 3.1 star, atomically.

    Args:
        path: the file.
        table: the particles.
        averages: class averages to name in a ``data_cryo2d`` block.

    Raises:
        EnvironmentFault: if the file cannot be written.
    """
    star = _base(table)
    columns = _columns(table, star, Path(path).absolute().parent)
    optics = _optics(table, star)
    with atomic_write(path) as file:
        file.write(b"# written by cryo2d\n\n" + loop_text("optics", optics) + b"\n")
        kept = _kept(table, star, columns)
        labels = (*(star.rows.labels[i] for i in kept), *columns)
        file.write(loop_header("particles", labels))
        for text in _row_text(star, kept, columns, len(table)):
            file.write(text)
        file.write(b"\n")
        for block in _other_blocks(table, star, averages):
            file.write(block.rstrip() + b"\n\n")


def _other_blocks(table: ParticleTable, star: StarColumns, averages: str | None) -> Iterator[bytes]:
    """The blocks that are neither optics nor particles: those of the input, then ours."""
    replaced = {b"data_" + RUN_BLOCK.encode()} if averages is not None else set()
    if isinstance(table.columns, CsColumns):
        replaced.add(b"data_" + TYPES_BLOCK.encode())
    yield from (block for block in star.blocks if block.split(maxsplit=1)[0] not in replaced)
    if isinstance(table.columns, CsColumns):
        yield types_text(table.columns.array, _superseded(table))
    if averages is not None:
        name = quoted(np.array([os.fsencode(averages)]))
        yield loop_text(RUN_BLOCK, from_columns({"cryo2dClassAverages": name}))


def _base(table: ParticleTable) -> StarColumns:
    """The star columns the table came with, if any."""
    empty = np.zeros(0, np.int64)
    if isinstance(table.columns, StarColumns):
        return table.columns
    carried = star_from_cs(table.columns) if isinstance(table.columns, CsColumns) else None
    return carried or StarColumns(TextRows((), b"", empty, empty))


def _kept(table: ParticleTable, star: StarColumns, columns: dict[str, Column]) -> list[int]:
    """Numbers of the input columns that stay: all but those written anew or superseded."""
    stale = tuple(CS_PREFIX + field for field in _superseded(table))
    return [
        i
        for i, label in enumerate(star.rows.labels)
        if label not in columns and not (stale and label.startswith(stale))
    ]


def _superseded(table: ParticleTable) -> tuple[str, ...]:
    """Beginnings of the fields of a .cs that no longer hold."""
    places = MOVED if table.relocated else ()
    return places + SUPERSEDED if table.aligned else places


def _row_text(
    star: StarColumns, kept: list[int], columns: dict[str, Column], count: int
) -> Iterator[bytes]:
    """The rows: verbatim words of the columns kept, then the new columns."""
    breaks = np.flatnonzero(np.diff(kept) != 1) + 1
    runs = [run for run in np.split(np.array(kept, int), breaks) if len(run)]
    spans = [(int(run[0]), int(run[-1])) for run in runs]
    if not spans:
        for begin in range(0, count, CHUNK_ROWS):
            yield _lines(columns, slice(begin, min(begin + CHUNK_ROWS, count))).tobytes()
        return
    for rows, text, start, stop in star.rows.chunks():
        data = text.tobytes()
        parts: list[list[bytes]] = []
        for first, last in spans:
            bounds = zip(start[:, first].tolist(), stop[:, last].tolist(), strict=True)
            parts.append([data[a:b] for a, b in bounds])
        new = _lines(columns, rows)
        width = new.shape[1]
        block = new.tobytes()
        parts.append([block[i : i + width] for i in range(0, len(block), width)])
        yield b"".join(b" ".join(row) for row in zip(*parts, strict=True))


def _lines(columns: dict[str, Column], rows: slice) -> np.ndarray:
    """The new columns of some rows side by side, each line ended ``[c w]`` (uint8)."""
    parts = [column(rows) for column in columns.values()]
    lines = np.full(
        (rows.stop - rows.start, sum(len(part) + 1 for part in parts) + 1), BLANK, np.uint8
    )
    at = 0
    for part in parts:
        for plane in part:
            lines[:, at] = plane
            at += 1
        at += 1
    lines[:, -1] = ord("\n")
    return lines


def number(values: np.ndarray, decimals: int = DECIMALS) -> Column:
    """A column of numbers."""
    return lambda rows: fixed(values[rows], decimals)


def words(texts: np.ndarray) -> Column:
    """A column of words that are already quoted where they need it."""
    return lambda rows: planes(texts[rows])


def names(texts: tuple[str, ...] | list[str], codes: np.ndarray) -> Column:
    """A column of names by code ``[n]``."""
    lookup = quoted(np.array([os.fsencode(text) for text in texts] or [b""], dtype=bytes))
    return lambda rows: planes(lookup[codes[rows]])


def image_names(stacks: list[str], stack: np.ndarray, image: np.ndarray) -> Column:
    """A column of ``000001@stack``; in quotes where a stack has a blank in its name."""
    encoded = [b"@" + os.fsencode(name) for name in stacks]
    odd = any(len(name.split()) != 1 or b'"' in name for name in encoded)
    mark = b'"' if odd else b""
    lookup = np.array([name + mark for name in encoded] or [b""], dtype=bytes)
    digits = max(len(str(int(image.max(initial=0)) + 1)), 6)

    def column(rows: slice) -> np.ndarray:
        first = np.full((len(mark), rows.stop - rows.start), ord('"'), np.uint8)
        counted = zero_padded(image[rows] + 1, digits)
        return np.concatenate([first, counted, planes(lookup[stack[rows]])])

    return column


def _columns(table: ParticleTable, star: StarColumns, folder: Path) -> dict[str, Column]:
    """The columns to write anew, in the place of those the input has of the same name."""
    columns: dict[str, Column] = {}
    written = output_names(table.stacks, table.stack_names, folder)
    if not _same_images(table, star, written):
        columns[IMAGE] = image_names(written, table.stack_id, table.image_index)
    if not isinstance(table.columns, StarColumns):
        columns |= _metadata(table, star)
    if star.optics is None or GROUP not in star.rows.labels:
        columns[GROUP] = number(table.optics + 1, 0)
    if table.aligned and table.alignment is not None:
        found = _results(table.alignment, table.pixel_size, star.rows.labels)
        columns |= {label: number(*column) for label, column in found.items()}
    if table.relocated and table.locations is not None:
        columns |= {"rlnCoordinateX": number(table.locations.x)}
        columns |= {"rlnCoordinateY": number(table.locations.y)}
    if isinstance(table.columns, CsColumns):
        carried = cs_in_star(table.columns.array, _superseded(table))
        columns |= {label: words(texts) for label, texts in carried.items()}
    return columns


def _same_images(table: ParticleTable, star: StarColumns, written: list[str]) -> bool:
    """Whether the image names of the input can stay."""
    if isinstance(table.columns, StarColumns):
        return tuple(written) == table.stack_names and IMAGE in star.rows.labels
    if IMAGE not in star.rows.labels:
        return False
    texts = star.rows.column(IMAGE)
    stems = np.array([b"@" + os.fsencode(name) for name in written], dtype=bytes)
    ours = np.char.add(general(table.image_index + 1), stems[table.stack_id])
    return bool((np.char.lstrip(texts, b"0") == ours).all())


def _results(
    found: AlignmentColumns, pixel_size: np.ndarray, labels: tuple[str, ...]
) -> dict[str, tuple[np.ndarray, int]]:
    """Values of the alignment and their decimals; class and half-set from 1, angles in degrees."""
    results: dict[str, tuple[np.ndarray, int]] = {}
    if found.class_index is not None:
        results["rlnClassNumber"] = found.class_index + 1, 0
    if found.psi is not None:
        results["rlnAnglePsi"] = np.degrees(found.psi), DECIMALS
    if found.shift is not None:
        for axis, label in enumerate(SHIFT_LABELS):
            results[label] = found.shift[:, axis], DECIMALS
        for axis, label in enumerate(OLD_SHIFT_LABELS):
            if label in labels:
                results[label] = found.shift[:, axis] / pixel_size, DECIMALS
    if found.class_posterior is not None:
        results["rlnMaxValueProbDistribution"] = found.class_posterior, DECIMALS
    if found.half is not None:
        results["rlnRandomSubset"] = found.half + 1, 0
    for name, label in RESULT_LABELS.items():
        values = getattr(found, name)
        if values is not None:
            results[label] = values, DECIMALS
    return results


def _metadata(table: ParticleTable, star: StarColumns) -> dict[str, Column]:
    """What a .cs says in RELION's columns, where the text it carries does not say the same."""
    values: dict[str, np.ndarray] = {}
    columns: dict[str, Column] = {}
    results: dict[str, tuple[np.ndarray, int]] = {}
    labels = star.rows.labels
    if table.ctf is not None:
        for name, (label, factor) in CTF_LABELS.items():
            if name not in OPTICS_CONSTANTS:
                value = getattr(table.ctf, name) / factor
                if label in labels or not labels or value.any():
                    values[label] = value
    if table.locations is not None:
        values |= {"rlnCoordinateX": table.locations.x, "rlnCoordinateY": table.locations.y}
        if MICROGRAPH not in labels:
            texts, codes = np.unique(table.locations.micrograph.astype(str), return_inverse=True)
            columns[MICROGRAPH] = names(texts.tolist(), codes)
    if isinstance(table.columns, CsColumns):
        place = table.locations
        helical = columns_of_slot(table.columns.array, None if place is None else place.micrograph)
        values |= {label: v for label, v in helical.items() if label not in labels}
    if table.alignment is not None and not table.aligned:
        results = _results(table.alignment, table.pixel_size, labels)
    if OLD_SHIFT_LABELS[0] in labels and SHIFT_LABELS[0] not in labels:
        results = {k: v for k, v in results.items() if k not in SHIFT_LABELS}
    carried = star.rows.columns([k for k in (*values, *results) if k in labels])
    for label, value in values.items():
        if not _agrees(carried, label, value):
            columns[label] = words(general(value, exact=False))
    for label, (value, decimals) in results.items():
        if not _agrees(carried, label, value):
            columns[label] = number(value, decimals)
    return columns


def _agrees(carried: dict[str, np.ndarray], label: str, values: np.ndarray) -> bool:
    """Whether the text of a column is these values, up to single precision and full turns."""
    if label not in carried:
        return False
    try:
        texts = carried[label].astype(np.float64)
    except ValueError:
        return False
    difference = np.abs(texts - values)
    if "Angle" in label or "Phase" in label:
        difference = np.minimum(difference % 360, -difference % 360)
    scale = np.maximum(np.abs(values), 180.0 if "Angle" in label else 0.5)
    same = (difference <= CLOSE * scale) | (np.isnan(texts) & np.isnan(values))
    return bool(same.all())


def _optics(table: ParticleTable, star: StarColumns) -> TextRows:
    """The optics block of the input, completed, or one made of the table's groups."""
    groups = len(table.optics_names)
    first = np.array([int(np.argmax(table.optics == g)) for g in range(groups)], int)
    size = table.pixel_size[first] if len(table) else np.ones(groups)
    if star.optics is not None and GROUP in star.optics.labels:
        texts = star.optics.columns(star.optics.labels)
        columns = {label: quoted(text) for label, text in texts.items()}
        count = len(star.optics)
        typical = float(np.median(size)) if groups else 1.0
        stated = texts.get("rlnImagePixelSize")
        if stated is None or not _near(stated, size):
            columns["rlnImagePixelSize"] = general(np.full(count, typical))
        box = int(table.box.max(initial=0))
        if "rlnImageSize" not in columns and box:
            columns["rlnImageSize"] = general(np.full(count, box))
        columns.setdefault("rlnImageDimensionality", general(np.full(count, 2)))
        return from_columns(columns)
    columns = {
        GROUP: general(np.arange(1, groups + 1)),
        "rlnOpticsGroupName": quoted(np.array([os.fsencode(n) for n in table.optics_names])),
    }
    if table.ctf is not None and len(table):
        for name in OPTICS_CONSTANTS:
            label, factor = CTF_LABELS[name]
            columns[label] = general(_rounded(getattr(table.ctf, name)[first] / factor))
    columns["rlnImagePixelSize"] = general(_rounded(size))
    if table.locations is not None:
        original = table.locations.pixel_size
        if len(table) and (original == original[first][table.optics]).all():
            columns["rlnMicrographPixelSize"] = general(_rounded(original[first]))
    if table.box.any():
        columns["rlnImageSize"] = general(table.box)
    columns["rlnImageDimensionality"] = general(np.full(groups, 2))
    return from_columns(columns)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Seven digits, as many as single precision holds: 2.7, not 2.70000005."""
    return np.array([float(f"{v:.7g}") for v in values.tolist()])


def _near(texts: np.ndarray, size: np.ndarray) -> bool:
    """Whether every pixel size in use stands in the optics block."""
    stated = texts.astype(np.float64)
    return all(bool((np.abs(stated / s - 1) < CLOSE).any()) for s in size.tolist())


assert {f.name for f in fields(AlignmentColumns)} >= set(RESULT_LABELS)
