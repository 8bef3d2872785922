"""Particle tables of several star files as one."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from cryo2d.io.carried import quoted
from cryo2d.io.columns import StarColumns
from cryo2d.io.relion import GROUP
from cryo2d.io.rows import TextRows, from_columns
from cryo2d.io.table import ParticleTable

GROUP_NAME = "rlnOpticsGroupName"

Key = tuple[object, ...]
"""What makes an optics group: all that its file says about it but its number."""


def optics_keys(table: ParticleTable) -> list[Key]:
    """The key of each optics group of a table ``[g]``."""
    first = [int(np.argmax(table.optics == g)) for g in range(len(table.optics_names))]
    star = table.columns
    if not isinstance(star, StarColumns) or star.optics is None:
        ctf = table.ctf
        constants = ("voltage", "spherical_aberration", "amplitude_contrast")
        return [
            (float(table.pixel_size[i]), *(float(getattr(ctf, c)[i]) for c in constants if ctf))
            for i in first
        ]
    texts = star.optics.columns(star.optics.labels)
    rows = _optics_rows(table, star, first)
    labels = sorted(label for label in texts if label != GROUP)
    return [tuple((label, texts[label][row]) for label in labels) for row in rows]


def _optics_rows(table: ParticleTable, star: StarColumns, first: list[int]) -> list[int]:
    """Row of the optics block of each group in use, by the number its first particle has."""
    assert star.optics is not None
    if GROUP not in star.rows.labels or GROUP not in star.optics.labels:
        return [0 for _ in first]
    ids = star.optics.column(GROUP).astype(float).tolist()
    used = star.rows.take(np.array(first, int)).column(GROUP).astype(float).tolist()
    return [ids.index(number) for number in used]


def merged(tables: Sequence[ParticleTable], source: str) -> ParticleTable:
    """The particles of all tables in one, in their order; equal optics groups become one.

    Args:
        tables: at least one; the first one's labels are those of the whole.
        source: what the whole is called.
    """
    keys: dict[Key, int] = {}
    groups = [
        np.array([keys.setdefault(key, len(keys)) for key in optics_keys(t)], int) for t in tables
    ]
    stacks: dict[tuple[str, str], int] = {}
    places = [
        np.array(
            [
                stacks.setdefault(pair, len(stacks))
                for pair in zip(t.stacks, t.stack_names, strict=True)
            ],
            np.int32,
        )
        for t in tables
    ]
    pairs = list(zip(tables, groups, strict=True))
    names, box = [""] * len(keys), np.zeros(len(keys), np.int64)
    for table, codes in pairs:
        for g, code in enumerate(codes.tolist()):
            names[code], box[code] = names[code] or table.optics_names[g], table.box[g]
    optics = np.concatenate([codes[t.optics] for t, codes in pairs]).astype(np.int32)
    shared: dict[str, Any] = {
        "source": source,
        "stacks": tuple(path for path, _ in stacks),
        "stack_names": tuple(name for _, name in stacks),
        "optics_names": _unique(names),
        "box": box,
        "optics": optics,
        "stack_id": np.concatenate(
            [place[t.stack_id] for t, place in zip(tables, places, strict=True)]
        ),
        "columns": _columns(tables, keys, optics),
    }
    for name in ("source_row", "image_index", "pixel_size", "sign"):
        shared[name] = np.concatenate([getattr(t, name) for t in tables])
    for name in ("ctf", "locations", "alignment"):
        shared[name] = _stacked([getattr(t, name) for t in tables], [len(t) for t in tables])
    return replace(tables[0], **shared)


def _stacked(parts: Sequence[object], counts: Sequence[int]) -> object:
    """Columns below each other, blank where a part lacks them; None where the first one does."""
    first = parts[0]
    if first is None:
        return None
    values = {}
    for f in fields(first):  # type: ignore[arg-type]
        model = getattr(first, f.name)
        columns = [None if part is None else getattr(part, f.name) for part in parts]
        pairs = zip(columns, counts, strict=True)
        filled = [_blank(model, count) if column is None else column for column, count in pairs]
        values[f.name] = None if model is None else np.concatenate(filled)
    return type(first)(**values)


def _blank(model: np.ndarray | None, count: int) -> np.ndarray:
    """As many values that say nothing, of the kind of a column."""
    if model is None:
        return np.empty(0)
    value = {"f": np.nan, "O": ""}.get(model.dtype.kind, 0)
    return np.full((count, *model.shape[1:]), value, model.dtype)


def _columns(
    tables: Sequence[ParticleTable], keys: dict[Key, int], optics: np.ndarray
) -> StarColumns:
    """The text of all rows, and an optics block of all groups."""
    stars = [t.columns for t in tables]
    assert all(isinstance(star, StarColumns) for star in stars)
    parts = [star for star in stars if isinstance(star, StarColumns)]
    labels = parts[0].rows.labels
    held = [_texts(part.rows, labels) for part in parts]
    columns = {label: quoted(np.concatenate([h[label] for h in held])) for label in labels}
    block = None
    if parts[0].optics is not None:
        columns[GROUP] = _numbers(optics + 1)
        block = _optics_block(list(keys))
    return replace(parts[0], rows=from_columns(columns), optics=block)


def _texts(rows: TextRows, labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The columns of these labels, ``None`` as RELION writes it where there is none."""
    there = rows.columns([label for label in labels if label in rows.labels])
    return {label: there.get(label, np.full(len(rows), b"None")) for label in labels}


def _optics_block(keys: Sequence[Key]) -> TextRows:
    """The optics block that says what the keys say, numbered from 1."""
    rows: list[dict[str, bytes]] = [dict(p for p in key if isinstance(p, tuple)) for key in keys]
    columns = {GROUP: _numbers(np.arange(1, len(rows) + 1))}
    for label in rows[0]:
        texts = [row.get(label, b"0") for row in rows]
        if label == GROUP_NAME:
            texts = [name.encode() for name in _unique([text.decode() for text in texts])]
        columns[label] = quoted(np.array(texts, dtype=bytes))
    return from_columns(columns)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that come again with a number."""
    found: list[str] = []
    for name in names:
        number, new = 2, name
        while new in found:
            number, new = number + 1, f"{name}_{number}"
        found.append(new)
    return tuple(found)


def _numbers(values: np.ndarray) -> np.ndarray:
    return values.astype(str).astype(bytes)
