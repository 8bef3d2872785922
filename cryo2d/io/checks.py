"""Checks that every particle file passes before anything is computed, whatever its format."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.mrc_header import MrcHeader
from cryo2d.io.stacks import compare_pixel_sizes, find_stacks, read_headers
from cryo2d.io.table import CtfColumns, Excluded, ParticleTable

log = logging.getLogger(__name__)

PIXEL_SIZE_RANGE = (0.05, 100.0)
SAME_PIXEL_SIZE = 1e-3
"""Relative difference up to which two pixel sizes count as one."""

_FULL_TURN = 2 * np.pi
CTF_RANGES: Mapping[str, tuple[float, float, float, str]] = {
    "defocus_u": (-1e6, 1e6, 1.0, "A"),
    "defocus_v": (-1e6, 1e6, 1.0, "A"),
    "defocus_angle": (-2 * _FULL_TURN, 2 * _FULL_TURN, 180 / np.pi, "degrees"),
    "voltage": (30.0, 1000.0, 1.0, "kV"),
    "spherical_aberration": (0.0, 20e7, 1e-7, "mm"),
    "amplitude_contrast": (0.0, 1.0, 1.0, ""),
    "phase_shift": (-_FULL_TURN, _FULL_TURN, 180 / np.pi, "degrees"),
    "b_factor": (-1e5, 1e5, 1.0, "A^2"),
}
"""Lowest and highest value in our units, and the factor and name of the unit users see."""


@dataclass(frozen=True)
class Draft:
    """A particle table as its file describes it: stacks not looked for, values not checked.

    Attributes:
        table: ``stacks`` still hold the names of the file.
        problems: what is already known to be wrong.
        columns: name in the file of each CTF quantity and of the pixel size, for messages.
    """

    table: ParticleTable
    problems: tuple[Problem, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)


def row_problem(
    table: ParticleTable, wrong: np.ndarray, values: np.ndarray, column: str, expected: str
) -> list[Problem]:
    """One problem for all rows of a mask ``[n]``, naming the first of them."""
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return []
    first = int(rows[0])
    found = f"{values[first]:.6g} in {column}"
    action = "correct the values, or remove these particles"
    row = int(table.source_row[first])
    return [Problem(table.source, found, expected, action, row=row, count=len(rows))]


def range_problems(draft: Draft) -> list[Problem]:
    """Values outside what any microscope can do; NaN is left to :func:`unusable`."""
    table, problems = draft.table, []
    if table.ctf is not None:
        for name, (low, high, factor, unit) in CTF_RANGES.items():
            values = getattr(table.ctf, name)
            slack = 1e-6 * (high - low)
            wrong = (values < low - slack) | (values > high + slack)
            expected = f"{low * factor:g} to {high * factor:g} {unit}".strip()
            column = draft.columns.get(name, name)
            problems += row_problem(table, wrong, values * factor, column, expected)
    low, high = PIXEL_SIZE_RANGE
    inside = (table.pixel_size >= low) & (table.pixel_size <= high)
    column = draft.columns.get("pixel_size", "the pixel size")
    problems += row_problem(table, ~inside, table.pixel_size, column, f"{low:g} to {high:g} A")
    return problems


def mixture_problems(table: ParticleTable) -> list[Problem]:
    """Refuse optics groups of different box or pixel size: averages would need resampling."""
    if not len(table):
        return []
    groups = np.arange(len(table.optics_names))
    first = np.array([int(np.argmax(table.optics == g)) for g in groups], int)
    sizes = table.pixel_size[first]
    if not (sizes > 0).all():
        # Already a problem of its own.
        return []
    inside = table.pixel_size / sizes[table.optics] - 1
    boxes = table.box[table.box > 0]
    same_pixel = (
        np.ptp(sizes) <= SAME_PIXEL_SIZE * sizes.max()
        and not (np.abs(inside) > SAME_PIXEL_SIZE).any()
    )
    if same_pixel and not (len(boxes) and np.ptp(boxes)):
        return []
    listed = "; ".join(
        f"{table.optics_names[g]}: {_box_text(int(table.box[g]))}, {sizes[g]:.4g} A/px"
        for g in groups[:20].tolist()
    )
    found = f"optics groups of different box or pixel size ({listed})"
    expected = "one box and one pixel size, since one average cannot hold several"
    action = "extract or rescale the particles to one box and pixel size, or split the file"
    return [Problem(table.source, found, expected, action)]


def _box_text(box: int) -> str:
    return f"{box} px" if box else "unknown box"


def check(
    draft: Draft,
    *,
    require_stacks: bool = True,
    max_particles: int | None = None,
    max_bad_fraction: float = 1.0,
) -> tuple[ParticleTable, Excluded]:
    """Find the stacks of a draft, check everything, set aside what cannot be used.

    Args:
        draft: the table as read.
        require_stacks: whether a missing stack is a problem; if not, its name stays as given.
        max_particles: keep only so many of the usable particles, the first ones.
        max_bad_fraction: part of the particles that may be unusable.

    Returns:
        The usable particles and the others.

    Raises:
        InputError: with every problem found.
    """
    table = draft.table
    problems = [*draft.problems, *range_problems(draft)]
    found = find_stacks(table.source, table.stack_names)
    headers = read_headers(found.paths, found.missing)
    if require_stacks:
        problems += [*found.problems, *headers.problems]
    available = np.array([-1 if h is None else h.available for h in headers.headers], np.int64)
    boxes = np.array([0 if h is None else h.nx for h in headers.headers], np.int64)
    table = replace(table, stacks=found.paths)
    table, more = _with_boxes(table, boxes)
    problems += more or mixture_problems(table)
    if problems:
        raise InputError(problems)
    compare_pixel_sizes(headers.headers, float(table.pixel_size[0]))
    _warn_of_duplicates(table)
    _warn_of_overfocus(table)
    reasons = unusable(table, available)
    short = [h for h in headers.headers if h is not None and h.available < h.nz]
    refuse_many(
        table.source, len(table), reasons, max_bad_fraction, [_cut_problem(h) for h in short]
    )
    rows = np.array(sorted(reasons), np.int64)
    if len(rows):
        text = "%s: %d of %d particles cannot be used and are left out; the first: %s"
        log.warning(text, table.source, len(rows), len(table), reasons[int(rows[0])])
    keep = np.ones(len(table), bool)
    keep[rows] = False
    excluded = Excluded(table.take(rows), tuple(reasons[int(row)] for row in rows))
    usable = table if not len(rows) else table.take(keep)
    if max_particles is not None and len(usable) > max_particles:
        usable = usable.take(np.arange(max_particles))
    return usable, excluded


def refuse_many(
    source: str,
    total: int,
    reasons: Mapping[int, str],
    most: float,
    causes: Sequence[Problem] = (),
) -> None:
    """Refuse particles of which too many cannot be used.

    Args:
        source: where they are from.
        total: number of particles.
        reasons: why some of them cannot be used, by row.
        most: part of them that may be unusable.
        causes: what else is known to be wrong with the files.

    Raises:
        InputError: if there are more, or no other particles.
    """
    count = len(reasons)
    if not count or (count < total and count <= most * total):
        return
    first = reasons[min(reasons)]
    if count == total:
        action = "see the reason" if not causes else "copy the stacks again"
        problem = Problem(source, f"no usable particle; the first: {first}", "usable ones", action)
    else:
        found = f"{count} of {total} particles that cannot be used; the first: {first}"
        expected = f"at most {100 * most:g} % of them"
        action = "repair the files, or set data.max_bad_fraction=1 to go on without these particles"
        problem = Problem(source, found, expected, action)
    raise InputError([problem, *causes])


def _cut_problem(header: MrcHeader) -> Problem:
    found = f"{header.size} bytes, {header.available} of {header.nz} images"
    action = "copy the file again: it is cut short"
    return Problem(header.path, found, f"{header.declared_bytes} bytes", action)


def _with_boxes(table: ParticleTable, boxes: np.ndarray) -> tuple[ParticleTable, list[Problem]]:
    """Take the box of each optics group from its stacks; they must agree."""
    if not len(table) or not boxes.any():
        return table, []
    box = table.box.copy()
    pairs = np.unique(np.stack([table.optics, table.stack_id]), axis=1)
    seen: dict[int, set[int]] = {}
    for group, stack in pairs.T.tolist():
        if boxes[stack]:
            seen.setdefault(group, set()).add(int(boxes[stack]))
    for group, sizes in seen.items():
        if box[group] and box[group] not in sizes:
            log.warning(
                "%s: optics group %s says box %d, its stacks have %s, which is used",
                *(table.source, table.optics_names[group], box[group], sorted(sizes)),
            )
        box[group] = min(sizes)
    mixed = {g: sorted(sizes) for g, sizes in seen.items() if len(sizes) > 1}
    listed = "; ".join(f"{table.optics_names[g]}: {sizes} px" for g, sizes in mixed.items())
    found = f"stacks of different box within one optics group ({listed})"
    action = "extract the particles again in one box"
    problems = [Problem(table.source, found, "one box", action)] if mixed else []
    return replace(table, box=box), problems


def _warn_of_duplicates(table: ParticleTable) -> None:
    places = table.stack_id.astype(np.int64) << 40 | table.image_index
    if (np.diff(places) > 0).all():
        return
    extra = len(places) - len(np.unique(places))
    if extra:
        log.warning("%s names images more than once: %d rows too many", table.source, extra)


def _warn_of_overfocus(table: ParticleTable) -> None:
    """Underfocus is positive here; some programs give it with the other sign."""
    if table.ctf is None:
        return
    count = int(((table.ctf.defocus_u < 0) & (table.ctf.defocus_v < 0)).sum())
    if count:
        log.warning("%s: the defocus of %d particles is negative: overfocus", table.source, count)


def unusable(table: ParticleTable, available: np.ndarray) -> dict[int, str]:
    """Rows that cannot be used, with the reason.

    Args:
        table: the particles ``[n]``.
        available: images that each stack holds; -1 where unknown.
    """
    reasons: dict[int, str] = {}
    if table.ctf is not None:
        for name in CTF_RANGES:
            for row in np.flatnonzero(~np.isfinite(getattr(table.ctf, name))).tolist():
                reasons[row] = f"the CTF is incomplete: {name} is not a number"
    held = available[table.stack_id]
    for row in np.flatnonzero((held >= 0) & (table.image_index >= held)).tolist():
        stack = table.stacks[table.stack_id[row]]
        image = table.image_index[row] + 1
        reasons[row] = f"image {image} lies beyond the end of {stack}, which has {held[row]}"
    return reasons


def pose_problems(table: ParticleTable) -> list[Problem]:
    """Why the particles cannot be used in the poses they came with."""
    poses = table.poses
    if poses is None:
        expected = (
            "rlnAnglePsi with rlnOriginXAngst, rlnOriginYAngst (or rlnOriginX, rlnOriginY), "
            "or alignments2D/pose with alignments2D/shift"
        )
        action = "give the particles of an earlier classification, or set model.align=true"
        return [Problem(table.source, "no poses", expected, action)]
    named = {"rotation": poses.psi, "x shift": poses.shift[:, 0], "y shift": poses.shift[:, 1]}
    return [
        problem
        for name, values in named.items()
        for problem in row_problem(table, ~np.isfinite(values), values, f"the {name}", "a number")
    ]


def ctf_problem(source: str, missing: list[str]) -> Problem:
    """What to say of a file without (all) CTF columns."""
    found = f"no CTF columns {', '.join(missing)}"
    action = "run CTF estimation and export its result, or set model.ctf=none"
    return Problem(source, found, "CTF parameters of every particle", action)


def select_ctf(values: Mapping[str, np.ndarray | None]) -> CtfColumns | None:
    """CTF columns where all of them are there."""
    if any(v is None for v in values.values()):
        return None
    return CtfColumns(**{k: np.asarray(v, np.float64) for k, v in values.items()})
