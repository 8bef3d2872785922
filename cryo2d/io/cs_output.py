"""A particle table as a cryoSPARC .cs file.

Every field of the input is kept. What the table knows is written to cryoSPARC's own fields, with
its types and units; an input field stays bit for bit where it says the same. ``uid`` is kept, or
made from the image's place so that the same particle always gets the same one.
"""

import os
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError
from cryo2d.io.atomic import atomic_write
from cryo2d.io.carried import cs_from_star, star_in_cs
from cryo2d.io.columns import STAR_PREFIX, CsColumns, StarColumns
from cryo2d.io.cryosparc import ALIGNMENT, ALIGNMENT_VALUES, CTF_FIELDS, plain_path
from cryo2d.io.cs import UID, build, with_fields, write_array
from cryo2d.io.digits import general
from cryo2d.io.filament import UID as FILAMENT
from cryo2d.io.filament import slot_of_star
from cryo2d.io.loop import factorize
from cryo2d.io.mrc import read_header
from cryo2d.io.stacks import find_one, output_names, search_folders
from cryo2d.io.table import Locations, ParticleTable

CLOSE = 2e-6
STAR_STEP = 1e-6
"""Results have six decimals in a star."""

FULL_TURN = 2 * np.pi
ANGLES = {"ctf/df_angle_rad", "ctf/phase_shift_rad", ALIGNMENT + "pose"}
DEFAULTS: dict[str, tuple[str, tuple[int, ...], float]] = {
    "ctf/scale": ("<f4", (), 1),
    "ctf/scale_const": ("<f4", (), 0),
    "ctf/shift_A": ("<f4", (2,), 0),
    "ctf/tilt_A": ("<f4", (2,), 0),
    "ctf/trefoil_A": ("<f4", (2,), 0),
    "ctf/tetra_A": ("<f4", (4,), 0),
    "ctf/anisomag": ("<f4", (4,), 0),
}
"""Fields of a complete ``ctf`` slot that a star has no columns for, in their neutral value."""

_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def write_cs(path: str | Path, table: ParticleTable) -> None:
    """Write a particle table as .cs, atomically.

    Raises:
        EnvironmentFault: if the file cannot be written.
    """
    array = cs_array(table, Path(path).absolute().parent)
    with atomic_write(path) as file:
        write_array(file, array)


def cs_array(table: ParticleTable, folder: Path) -> np.ndarray:
    """The structured array ``[n]`` of a table, for a file in ``folder``."""
    base = _base(table)
    fields = _blob(table, base, folder) | _ctf(table, base)
    if table.locations is not None:
        fields |= _location(table.locations, table, base)
    if table.alignment is not None and (table.aligned or not isinstance(table.columns, CsColumns)):
        fields |= _alignment(table, base)
    if isinstance(table.columns, StarColumns) and FILAMENT not in (base.dtype.names or ()):
        micrograph = None if table.locations is None else table.locations.micrograph
        fields |= slot_of_star(table.columns, micrograph, _text_uid)
    if UID not in (base.dtype.names or ()):
        fields = {UID: image_uids(table)} | fields
    new = ALIGNMENT if table.aligned else "-"
    kept = {
        name: values if name.startswith(new) else _keep_equal(base, name, values)
        for name, values in fields.items()
    }
    if isinstance(table.columns, StarColumns):
        kept |= star_in_cs(table.columns, len(table))
    if table.relocated and table.locations is not None:
        known = {*kept, *(base.dtype.names or ())}
        for label, values in (("X", table.locations.x), ("Y", table.locations.y)):
            name = f"{STAR_PREFIX}rlnCoordinate{label}"
            kept |= {name: general(values)} if name in known else {}
    return with_fields(base, kept)


def _base(table: ParticleTable) -> np.ndarray:
    """The .cs fields that the table came with."""
    if isinstance(table.columns, CsColumns):
        return table.columns.array
    star = table.columns
    carried = cs_from_star(star, table.source) if isinstance(star, StarColumns) else None
    if carried is None:
        return build({}, len(table))
    names = carried.dtype.names or ()
    if UID in names and len(np.unique(carried[UID])) < len(carried):
        # rows were copied in the star; cryoSPARC wants each particle once
        return with_fields(carried, {UID: image_uids(table)})
    return carried


def _keep_equal(base: np.ndarray, name: str, values: np.ndarray) -> np.ndarray:
    """The values, bit for bit those of the input where they agree with it."""
    if name not in (base.dtype.names or ()):
        return values
    old = base[name]
    if old.shape != values.shape or old.dtype.kind != values.dtype.kind:
        return values
    if old.dtype.kind != "f":
        return old if (old == values).all() else values
    wide = values.astype(np.float64)
    difference = np.abs(old - wide)
    if name in ANGLES:
        difference = np.minimum(difference % FULL_TURN, -difference % FULL_TURN)
    scale = np.maximum(np.abs(wide), 1.0 if name in ANGLES else 0.0)
    slack = STAR_STEP if name.startswith(ALIGNMENT) else 0.0
    same = (difference <= CLOSE * scale + slack) | (np.isnan(old) & np.isnan(wide))
    return np.where(same, old, values.astype(old.dtype))


def _blob(table: ParticleTable, base: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    written = output_names(table.stacks, table.stack_names, folder)
    paths = np.array([os.fsencode(name) for name in written], dtype=bytes)[table.stack_id]
    if "blob/path" in (base.dtype.names or ()):
        # Paths of imported files begin with ">", which is no part of the name: keep it.
        codes, values = factorize(base["blob/path"])
        plain = [os.fsencode(plain_path(os.fsdecode(value))) for value in values.tolist()]
        if (np.array(plain, dtype=bytes)[codes] == paths).all():
            paths = base["blob/path"]
    box = table.box[table.optics].astype("<u4")
    return {
        "blob/path": paths,
        "blob/idx": table.image_index.astype("<u4"),
        "blob/shape": np.stack([box, box], axis=1),
        "blob/psize_A": table.pixel_size.astype("<f4"),
        "blob/sign": table.sign.astype("<f4"),
    }


def _ctf(table: ParticleTable, base: np.ndarray) -> dict[str, np.ndarray]:
    if table.ctf is None:
        return {}
    known = base.dtype.names or ()
    fields: dict[str, np.ndarray] = {}
    new = not any(name.startswith("ctf/") for name in known)
    if new:
        fields["ctf/type"] = np.full(len(table), b"imported")
        fields["ctf/exp_group_id"] = table.optics.astype("<u4")
        for name, (kind, shape, value) in DEFAULTS.items():
            fields[name] = np.full((len(table), *shape), value, kind)
    for name, (field, factor) in CTF_FIELDS.items():
        values = getattr(table.ctf, name)
        if new or field in known or values.any():
            fields[field] = (values / factor).astype("<f4")
    return fields


def _location(place: Locations, table: ParticleTable, base: np.ndarray) -> dict[str, np.ndarray]:
    """Pick locations, for particles whose micrograph has a known size; y runs up in cryoSPARC."""
    known = base.dtype.names or ()
    shape = place.shape
    if "location/micrograph_shape" in known:
        shape = base["location/micrograph_shape"].astype(np.int64)
    if not (shape > 0).all():
        shape = _micrograph_shapes(place, table.source)
    if not (shape > 0).all():
        return {}
    micrographs, codes = np.unique(place.micrograph.astype(str), return_inverse=True)
    encoded = np.array([os.fsencode(name) for name in micrographs.tolist()], dtype=bytes)
    uids = np.array([_text_uid(name) for name in encoded.tolist()], np.uint64)
    fields = {
        "location/micrograph_path": encoded[codes],
        "location/micrograph_shape": shape.astype("<u4"),
        "location/center_x_frac": (place.x / shape[:, 1]).astype("<f4"),
        "location/center_y_frac": (1 - place.y / shape[:, 0]).astype("<f4"),
    }
    if "location/micrograph_path" in known:
        # A name may stand there with the ">" of an imported file, which the table leaves out.
        del fields["location/micrograph_path"], fields["location/micrograph_shape"]
    else:
        fields["location/micrograph_uid"] = uids[codes]
        fields["location/exp_group_id"] = table.optics.astype("<u4")
    if np.isfinite(place.pixel_size).all():
        fields["location/micrograph_psize_A"] = place.pixel_size.astype("<f4")
    return fields


def _micrograph_shapes(place: Locations, source: str) -> np.ndarray:
    """Rows and columns of the micrographs whose files can be found ``[n 2]``, else 0."""
    folders = search_folders(source)
    names, codes = np.unique(place.micrograph.astype(str), return_inverse=True)
    shapes = np.zeros((len(names), 2), np.int64)
    for i, name in enumerate(names.tolist()):
        found = find_one(name, folders)
        if found is None:
            # One unknown micrograph leaves the whole slot out: no need to look for the others.
            break
        try:
            header = read_header(found)
        except InputError:
            break
        shapes[i] = header.ny, header.nx
    return np.where(place.shape > 0, place.shape, shapes[codes])


def _alignment(table: ParticleTable, base: np.ndarray) -> dict[str, np.ndarray]:
    found = table.alignment
    assert found is not None
    if found.psi is None or found.shift is None:
        return {}
    unit = table.pixel_size
    if not table.aligned and ALIGNMENT + "psize_A" in (base.dtype.names or ()):
        old = base[ALIGNMENT + "psize_A"].astype(np.float64)
        unit = np.where(old > 0, old, unit)
    fields = {
        "pose": (found.psi % FULL_TURN).astype("<f4"),
        "shift": (found.shift / unit[:, None]).astype("<f4"),
        "psize_A": unit.astype("<f4"),
    }
    if found.class_index is not None:
        fields["class"] = found.class_index.clip(0).astype("<u4")
    if found.half is not None:
        fields["split"] = found.half.clip(0).astype("<u4")
    for name in ALIGNMENT_VALUES:
        values = getattr(found, name)
        if values is not None:
            fields[name] = values.astype("<f4")
    if table.aligned:
        zero = np.zeros(len(table), "<f4")
        fields["error_min"] = _least_error(table)
        fields["resid_pow"] = fields.get("error", zero)
        fields["weight"] = zero + 1
    return {ALIGNMENT + name: values for name, values in fields.items()}


def _least_error(table: ParticleTable) -> np.ndarray:
    """Chi-squared at the best contrast scale: image_pow - cross_cor^2 / (4 slice_pow) ``[n]``."""
    found = table.alignment
    assert found is not None
    if found.image_pow is None or found.cross_cor is None or found.slice_pow is None:
        return np.zeros(len(table), "<f4")
    power = np.where(found.slice_pow > 0, 4 * found.slice_pow, np.inf)
    return (found.image_pow - found.cross_cor**2 / power).astype("<f4")


def _text_uid(text: bytes) -> int:
    """64-bit FNV-1a hash."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64: spread whole numbers over 64 bits, one to one."""
    mixed = values + np.uint64(_MIX[0])
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX[1])
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX[2])
    return mixed ^ (mixed >> np.uint64(31))


def image_uids(table: ParticleTable) -> np.ndarray:
    """An identifier per particle ``[n]`` (uint64), from the stack's name and the image's number.

    The same image in two rows gets two identifiers.
    """
    stack = np.array([_text_uid(os.fsencode(n)) for n in table.stack_names] or [0], np.uint64)
    uid = _mixed(stack[table.stack_id] + table.image_index.astype(np.uint64))
    while True:
        _, first = np.unique(uid, return_index=True)
        if len(first) == len(uid):
            return uid
        again = np.ones(len(uid), bool)
        again[first] = False
        uid[again] = _mixed(uid[again] + np.cumsum(again)[again].astype(np.uint64))
