"""cryoSPARC particles (.cs) as particle tables.

Its micrograph coordinates are fractions with the origin at the lower left; RELION's are pixels
with the origin at the upper left, which is the frame of :class:`Locations`. Poses are in radian
and shifts in pixels of ``psize_A``, both with RELION's sign.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.carried import carried_optics
from cryo2d.io.checks import Draft, ctf_problem, select_ctf
from cryo2d.io.columns import STAR_PREFIX, CsColumns
from cryo2d.io.cs import check_uid, read_cs
from cryo2d.io.loop import factorize
from cryo2d.io.table import AlignmentColumns, CtfColumns, Locations, ParticleTable

log = logging.getLogger(__name__)

CTF_FIELDS = {
    "defocus_u": ("ctf/df1_A", 1.0),
    "defocus_v": ("ctf/df2_A", 1.0),
    "defocus_angle": ("ctf/df_angle_rad", 1.0),
    "voltage": ("ctf/accel_kv", 1.0),
    "spherical_aberration": ("ctf/cs_mm", 1e7),
    "amplitude_contrast": ("ctf/amp_contrast", 1.0),
    "phase_shift": ("ctf/phase_shift_rad", 1.0),
    "b_factor": ("ctf/bfactor", 1.0),
}
"""CTF quantity: field, and factor from cryoSPARC's unit to ours."""

OPTIONAL_CTF = {"phase_shift", "b_factor"}
ALIGNMENT = "alignments2D/"
ALIGNMENT_VALUES = (
    *("class_posterior", "class_ess", "pose_ess", "shift_ess", "error", "image_pow"),
    *("cross_cor", "slice_pow", "alpha", "alpha_min", "outlier"),
)
"""Fields of the alignment that have the name of the column they become."""

MICROGRAPH_SIZES = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
IMAGE_FIELDS = ("blob/path", "blob/idx", "blob/shape", "blob/psize_A")


def plain_path(path: str) -> str:
    """A path without the ``>`` that cryoSPARC puts before imported files."""
    return path.removeprefix(">")


def read_cs_draft(
    path: str | Path,
    passthrough: Sequence[str | Path],
    pixel_size: float | None,
    require_ctf: bool,
) -> Draft:
    """Read a .cs file of particles.

    Raises:
        InputError: if it cannot be read, joined, or has no particle images.
    """
    array = read_cs(path, passthrough)
    with np.errstate(invalid="ignore"):
        # a signalling NaN is a NaN like others
        return _draft(array, path, bool(passthrough), pixel_size, require_ctf)


def _draft(
    array: np.ndarray, path: str | Path, joined: bool, pixel_size: float | None, require_ctf: bool
) -> Draft:
    source = str(path)
    names = set(array.dtype.names or ())
    _check_usable(array, path, joined, pixel_size is not None)
    problems = [*_shape_problems(array, source), *_index_problems(array, source)]
    codes, values = factorize(array["blob/path"])
    stacks = tuple(plain_path(os.fsdecode(v)) for v in values.tolist())
    size = array["blob/psize_A"] if pixel_size is None else np.full(len(array), pixel_size)
    size = size.astype(np.float64)
    optics, groups = _optics(array, size)
    box = np.zeros(len(groups), np.int64)
    box[optics] = array["blob/shape"][:, 0]
    sign = array["blob/sign"] if "blob/sign" in names else np.ones(len(array))
    inverted = int((sign < 0).sum())
    if inverted:
        log.info("%s: %d particles have blob/sign -1 and are inverted", source, inverted)
    ctf, missing = _ctf(array)
    if missing and require_ctf:
        problems.append(ctf_problem(source, missing))
    table = ParticleTable(
        source=source,
        source_row=np.arange(1, len(array) + 1),
        stacks=stacks,
        stack_names=stacks,
        stack_id=codes,
        image_index=array["blob/idx"].astype(np.int64),
        optics_names=groups,
        box=box,
        optics=optics,
        pixel_size=size,
        sign=np.where(sign < 0, -1, 1).astype(np.float32),
        ctf=ctf,
        locations=_locations(array),
        alignment=_alignment(array, size),
        columns=CsColumns(array),
    )
    columns = {name: field for name, (field, _) in CTF_FIELDS.items()}
    return Draft(table, tuple(problems), {**columns, "pixel_size": "blob/psize_A"})


def _check_usable(array: np.ndarray, path: str | Path, joined: bool, sized: bool) -> None:
    """Refuse a table without rows, images or uid, or with fields of the wrong type."""
    source = str(path)
    problems = []
    if not len(array):
        action = "check the job that wrote the file"
        problems.append(Problem(source, "no particles (0 rows)", "particles", action))
    fields = IMAGE_FIELDS[:-1] if sized else IMAGE_FIELDS
    needed = [field for field in fields if field not in (array.dtype.names or ())]
    if needed:
        problems.append(_no_images(path, needed, joined))
    if problems:
        raise InputError(problems)
    check_layout(array.dtype, source)
    check_uid(array, source)


def _no_images(path: str | Path, needed: Sequence[str], joined: bool) -> Problem:
    action = "give the .cs of a particle output"
    folder = Path(path).absolute().parent
    beside = sorted(p.name for p in folder.glob("*passthrough*.cs")) if not joined else []
    if beside:
        action = f"give the passthrough file as well; beside it lies {', '.join(beside[:3])}"
    return Problem(str(path), f"no fields {', '.join(needed)}", "the images of particles", action)


def _shape_problems(array: np.ndarray, source: str) -> list[Problem]:
    shape = array["blob/shape"]
    if shape.ndim != 2 or shape.shape[1] != 2:
        action = "give 2D particles"
        return [Problem(source, f"blob/shape of {shape.shape[1:]} numbers", "2", action)]
    wrong = np.flatnonzero(shape[:, 0] != shape[:, 1])
    if not len(wrong):
        return []
    row = int(wrong[0])
    found = f"blob/shape {shape[row].tolist()}"
    action = "extract the particles again in square boxes"
    return [Problem(source, found, "square images", action, row + 1, len(wrong))]


def _index_problems(array: np.ndarray, source: str) -> list[Problem]:
    wrong = np.flatnonzero(array["blob/idx"] < 0)
    if not len(wrong):
        return []
    row = int(wrong[0])
    found = f"blob/idx {array['blob/idx'][row]}"
    return [Problem(source, found, "0 or more", "export again", row + 1, len(wrong))]


def check_layout(layout: np.dtype, source: str) -> None:
    """Refuse fields whose type or length is not what cryoSPARC writes.

    Raises:
        InputError: naming all of them.
    """
    expected = {
        **dict.fromkeys(["blob/path", "location/micrograph_path"], ("S", ())),
        **dict.fromkeys(["uid", "blob/idx"], ("ui", ())),
        **dict.fromkeys([ALIGNMENT + "class", ALIGNMENT + "split"], ("ui", ())),
        **dict.fromkeys(["blob/shape", "location/micrograph_shape"], ("ui", (2,))),
        "alignments2D/shift": ("f", (2,)),
        **dict.fromkeys(["blob/psize_A", "blob/sign", "ctf/exp_group_id"], ("uif", ())),
        **dict.fromkeys((field for field, _ in CTF_FIELDS.values()), ("uif", ())),
        **dict.fromkeys((ALIGNMENT + name for name in ALIGNMENT_VALUES), ("uif", ())),
        **dict.fromkeys([ALIGNMENT + "pose", ALIGNMENT + "psize_A"], ("f", ())),
        **dict.fromkeys(["location/center_x_frac", "location/center_y_frac"], ("f", ())),
        **dict.fromkeys(["location/micrograph_psize_A", "location/exp_group_id"], ("uif", ())),
    }
    problems = []
    for name, (kinds, shape) in expected.items():
        if name in (layout.names or ()):
            held = layout[name]
            if held.base.kind not in kinds or held.shape != shape:
                found = f"field {name} of type {held.base} and shape {held.shape}"
                wanted = f"type {' or '.join(kinds)}, shape {shape}"
                problems.append(Problem(source, found, wanted, "export it again from cryoSPARC"))
    if problems:
        raise InputError(problems)


def _optics(array: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Group by exposure group and the microscope's constants; group ``[n]`` and names."""
    names = array.dtype.names or ()
    fields = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")
    columns = [array[f].astype(np.float64) for f in fields if f in names]
    group = next((f for f in ("ctf/exp_group_id", "location/exp_group_id") if f in names), None)
    ids = np.nan_to_num(array[group].astype(np.float64) if group else np.zeros(len(array)))
    shape = array["blob/shape"][:, 0].astype(np.float64)
    keys = np.stack([ids, shape, size, *columns], axis=1)
    change = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1)))
    distinct, codes = np.unique(keys[change], axis=0, return_inverse=True)
    lengths = np.diff(np.append(change, len(keys)))
    number = [f"opticsGroup{int(v) + 1}" for v in distinct[:, 0]]
    unique = len(set(number)) == len(number)
    labels = number if unique else [f"{n}_{i + 1}" for i, n in enumerate(number)]
    return np.repeat(codes.ravel(), lengths).astype(np.int32), tuple(labels)


def _ctf(array: np.ndarray) -> tuple[CtfColumns | None, list[str]]:
    values: dict[str, np.ndarray | None] = {}
    missing = []
    for name, (field, factor) in CTF_FIELDS.items():
        if field in (array.dtype.names or ()):
            values[name] = array[field].astype(np.float64) * factor
        else:
            values[name] = np.zeros(len(array)) if name in OPTIONAL_CTF else None
            missing += [] if name in OPTIONAL_CTF else [field]
    return select_ctf(values), missing


def _locations(array: np.ndarray) -> Locations | None:
    names = array.dtype.names or ()
    needed = ("micrograph_path", "micrograph_shape", "center_x_frac", "center_y_frac")
    if any(f"location/{name}" not in names for name in needed):
        return _carried_locations(array)
    codes, values = factorize(array["location/micrograph_path"])
    texts = [plain_path(os.fsdecode(v)) for v in values.tolist()]
    shape = array["location/micrograph_shape"].astype(np.int64)
    x = array["location/center_x_frac"].astype(np.float64) * shape[:, 1]
    y = (1 - array["location/center_y_frac"].astype(np.float64)) * shape[:, 0]
    size = np.full(len(array), np.nan)
    if "location/micrograph_psize_A" in names:
        stored = array["location/micrograph_psize_A"].astype(np.float64)
        size = np.where(stored > 0, stored, np.nan)
    return Locations(np.array([*texts, None], dtype=object)[codes], x, y, size, shape)


def _carried_locations(array: np.ndarray) -> Locations | None:
    """Those of the star that a .cs was made from: unknown micrograph sizes leave no slot."""
    labels = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY")
    prefixed = {name for name in array.dtype.names or () if name.startswith(STAR_PREFIX)}
    texts = {name.removeprefix(STAR_PREFIX): array[name] for name in prefixed}
    if any(label not in texts for label in labels):
        return None
    size = next((texts[label] for label in MICROGRAPH_SIZES if label in texts), None)
    group = texts.get("rlnOpticsGroup")
    block = carried_optics(array) if size is None else None
    if block is not None and group is not None:
        optics = block.columns(block.labels)
        stated = next((optics[label] for label in MICROGRAPH_SIZES if label in optics), None)
        if stated is not None and "rlnOpticsGroup" in optics:
            found = dict(zip(optics["rlnOpticsGroup"].tolist(), stated.tolist(), strict=True))
            distinct, codes = np.unique(group, return_inverse=True)
            size = np.array([found.get(one, b"nan") for one in distinct.tolist()])[codes]
    codes, values = factorize(texts["rlnMicrographName"])
    micrographs = [os.fsdecode(value) for value in values.tolist()]
    try:
        x, y = (texts[label].astype(np.float64) for label in labels[1:])
        known = np.full(len(array), np.nan) if size is None else size.astype(np.float64)
    except ValueError:
        return None
    micrograph = np.array([*micrographs, None], dtype=object)[codes]
    known = np.where(known > 0, known, np.nan)
    return Locations(micrograph, x, y, known, np.zeros((len(array), 2), np.int64))


def _alignment(array: np.ndarray, pixel_size: np.ndarray) -> AlignmentColumns | None:
    names = {n.removeprefix(ALIGNMENT) for n in array.dtype.names or () if n.startswith(ALIGNMENT)}
    if not {"pose", "shift"} <= names:
        return None
    unit = array[ALIGNMENT + "psize_A"].astype(np.float64) if "psize_A" in names else pixel_size
    unit = np.where(unit > 0, unit, pixel_size)
    values = {
        name: array[ALIGNMENT + name].astype(np.float64)
        for name in ALIGNMENT_VALUES
        if name in names
    }
    class_index, split = (
        array[ALIGNMENT + name].astype(np.int64) if name in names else None
        for name in ("class", "split")
    )
    return AlignmentColumns(
        class_index=class_index,
        psi=array[ALIGNMENT + "pose"].astype(np.float64),
        shift=array[ALIGNMENT + "shift"].astype(np.float64) * unit[:, None],
        half=split,
        **values,
    )
