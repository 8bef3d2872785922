"""Helical tubes: RELION's columns and cryoSPARC's ``filament`` slot.

``rlnHelicalTubeID`` counts the tubes of a micrograph from 1, ``filament/filament_uid`` is unique;
``rlnHelicalTrackLengthAngst`` and ``filament/position_A`` are the way along the tube. The prior of
psi, which lays the tube along x, is minus the pose, as RELION's own importer has it.
"""

from collections.abc import Callable

import numpy as np

from cryo2d.io.columns import StarColumns

SLOT = "filament/"
UID, POSE = SLOT + "filament_uid", SLOT + "filament_pose"
POSITION, STEP = SLOT + "position_A", SLOT + "inter_box_dist_A"
TUBE, PRIOR, TRACK = "rlnHelicalTubeID", "rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst"
UPRIGHT_TILT, EITHER_WAY = 90.0, 0.5


def slot_of_star(
    star: StarColumns, micrograph: np.ndarray | None, uid: Callable[[bytes], int]
) -> dict[str, np.ndarray]:
    """Fields of the slot from the columns of a star; none if it has no (readable) tubes.

    Args:
        star: columns of ``n`` particles.
        micrograph: name ``[n]``, or None.
        uid: 64-bit hash of a text.
    """
    tube = _numbers(star, TUBE)
    if tube is None:
        return {}
    names = np.full(len(tube), "") if micrograph is None else micrograph.astype(str)
    keys, codes = _tubes(names, tube)
    uids = np.array([uid(f"{name}/{number:g}".encode()) for name, number in keys], np.uint64)
    fields = {UID: uids[codes]}
    prior, track = _numbers(star, PRIOR), _numbers(star, TRACK)
    if prior is not None:
        fields[POSE] = np.radians(-prior).astype("<f4")
    if track is not None:
        fields[POSITION] = track.astype("<f4")
        fields[STEP] = _steps(codes, track).astype("<f4")
    return fields


def columns_of_slot(array: np.ndarray, micrograph: np.ndarray | None) -> dict[str, np.ndarray]:
    """Columns of a star from the fields of the slot ``[n]``; none if it is not there.

    Args:
        array: structured array ``[n]``.
        micrograph: name ``[n]``, or None.
    """
    names = array.dtype.names or ()
    if UID not in names:
        return {}
    count = len(array)
    where = np.zeros(count, np.int64)
    if micrograph is not None:
        _, where = np.unique(micrograph.astype(str), return_inverse=True)
    _, tube = np.unique(array[UID], return_inverse=True)
    pairs, codes = np.unique(np.stack([where, tube]), axis=1, return_inverse=True)
    first = np.searchsorted(pairs[0], pairs[0])
    number = np.arange(pairs.shape[1]) - first + 1
    columns = {TUBE: number[codes.ravel()].astype(np.float64)}
    if POSE in names:
        columns["rlnAngleTiltPrior"] = np.full(count, UPRIGHT_TILT)
        columns[PRIOR] = -np.degrees(array[POSE].astype(np.float64))
        columns["rlnAnglePsiFlipRatio"] = np.full(count, EITHER_WAY)
    if POSITION in names:
        position = array[POSITION].astype(np.float64)
        start = np.full(pairs.shape[1], np.inf)
        np.minimum.at(start, codes.ravel(), position)
        columns[TRACK] = position - start[codes.ravel()]
    return columns


def _numbers(star: StarColumns, label: str) -> np.ndarray | None:
    if label not in star.rows.labels:
        return None
    try:
        values = star.rows.column(label).astype(np.float64)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _tubes(names: np.ndarray, tube: np.ndarray) -> tuple[list[tuple[str, float]], np.ndarray]:
    """Every tube once, as micrograph and number, and the tube of each particle ``[n]``."""
    texts, where = np.unique(names, return_inverse=True)
    numbers, which = np.unique(tube, return_inverse=True)
    pairs, codes = np.unique(where * len(numbers) + which, return_inverse=True)
    keys = [(str(texts[p // len(numbers)]), float(numbers[p % len(numbers)])) for p in pairs]
    return keys, codes


def _steps(codes: np.ndarray, track: np.ndarray) -> np.ndarray:
    """Median way between two picks that follow each other on the same tube ``[n]`` (Angstrom)."""
    order = np.lexsort((track, codes))
    same = codes[order][1:] == codes[order][:-1]
    between = np.diff(track[order])[same]
    return np.full(len(track), np.median(between) if len(between) else 0.0)
