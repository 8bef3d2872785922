"""What rules can ask of each particle, under readable names."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from cryo2d.io.columns import CS_PREFIX, STAR_PREFIX, CsColumns, StarColumns
from cryo2d.io.particles import AlignmentColumns, CtfColumns, ParticleTable
from cryo2d.io.relion import RESULT_LABELS

HIGH_IS_WORSE: Mapping[str, bool] = {
    "class_posterior": False,
    "class_ess": True,
    "pose_ess": True,
    "shift_ess": True,
    "error": True,
    "error_in_class": True,
    "correlation": False,
    "alpha": False,
    "alpha_min": False,
    "outlier": True,
    "shift": True,
    "class_count": False,
    "stability": False,
    "class_resolution": True,
    "class_score": False,
    "class_stability": False,
    "class_outlier": True,
    "astigmatism": True,
    "rlnCtfMaxResolution": True,
    "rlnCtfFigureOfMerit": False,
    "ctf_ctf_fit_to_A": True,
    "pick_stats_ncc_score": False,
    "rlnAutopickFigureOfMerit": False,
}
"""Quantities of which it is known whether a high value is a bad sign."""

OWN = (CS_PREFIX, "alignments2D/", "blob/", "uid", *RESULT_LABELS.values())
"""Beginnings of columns that are left out: they have a readable name, or no meaning in a rule."""

MAD_TO_SIGMA = 1.4826


class Quantities(Mapping[str, np.ndarray]):
    """Numbers of every particle ``[n]`` (float64) by name, computed when they are asked for.

    Beside those of the classification (lengths in Angstrom, angles in degrees) every column of the
    input that holds one number per particle has its own name, with ``_`` for what a name may not
    have: ``rlnCtfMaxResolution``, ``pick_stats_ncc_score``. Numbers of a particle's class begin
    with ``class_``: ``class_resolution``, ``class_superclass``.

    Args:
        table: the particles.
        classes: what is known of the classes, ``[k]`` each; words are left out.
    """

    def __init__(
        self, table: ParticleTable, classes: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self._table = table
        self._found = table.alignment or AlignmentColumns()
        self._classes = classes or {}

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._makers[name](), dtype=np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    @cached_property
    def _makers(self) -> dict[str, Callable[[], np.ndarray]]:
        makers = {**self._of_columns(), **self._of_alignment()}
        if self._table.ctf is not None:
            makers |= _of_ctf(self._table.ctf)
        return makers

    def _of_alignment(self) -> dict[str, Callable[[], np.ndarray]]:
        found = self._found
        makers: dict[str, Callable[[], np.ndarray]] = {
            name: lambda name=name: getattr(found, name)  # type: ignore[misc]
            for name in vars(found)
            if getattr(found, name) is not None and name not in ("class_index", "psi", "shift")
        }
        shift, psi, index = found.shift, found.psi, found.class_index
        if shift is not None:
            makers["shift"] = lambda: np.linalg.norm(shift, axis=1)
            makers["shift_x"] = lambda: shift[:, 0]
            makers["shift_y"] = lambda: shift[:, 1]
        if psi is not None:
            makers["psi"] = lambda: np.degrees(psi) % 360
        if index is not None:
            makers["class"] = lambda: index + 1
            makers |= self._of_classes(index) | {"class_count": lambda: np.bincount(index)[index]}
            if found.error is not None:
                makers["error_in_class"] = self._error_in_class
        if all(v is not None for v in (found.cross_cor, found.slice_pow, found.image_pow)):
            makers["correlation"] = self._correlation
        return makers

    def _of_classes(self, index: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
        """Numbers of the classes that no quantity of the particles has the name of."""
        own = {"class_posterior", "class_ess"}
        return {
            f"class_{name}": lambda values=values: _of_row(values, index)  # type: ignore[misc]
            for name, values in self._classes.items()
            if values.dtype.kind in "uif" and f"class_{name}" not in own
        }

    def _error_in_class(self) -> np.ndarray:
        """Error as a robust z-score among the particles of the same class.

        (error - median) / (1.4826 median |error - median|); 0 where all are alike.
        """
        found = self._found
        assert found.class_index is not None
        assert found.error is not None
        score = np.zeros(len(found.error))
        order = np.argsort(found.class_index, kind="stable")
        starts = np.flatnonzero(np.diff(found.class_index[order], prepend=-1))
        for members in np.split(order, starts[1:]):
            values = found.error[members]
            away = values - np.median(values)
            spread = MAD_TO_SIGMA * np.median(np.abs(away))
            score[members] = away / spread if spread > 0 else 0.0
        return score

    def _correlation(self) -> np.ndarray:
        """Correlation of the image with its class average: Re<X, A> / (|X| |A|)."""
        found = self._found
        assert found.cross_cor is not None
        assert found.slice_pow is not None
        assert found.image_pow is not None
        power = found.image_pow * found.slice_pow
        return 0.5 * found.cross_cor / np.sqrt(np.where(power > 0, power, np.nan))

    def _of_columns(self) -> dict[str, Callable[[], np.ndarray]]:
        columns = self._table.columns
        makers: dict[str, Callable[[], np.ndarray]] = {}
        if isinstance(columns, StarColumns):
            few, rows = columns.rows.take(np.arange(min(1, len(columns.rows)))), columns.rows
            for label in rows.labels:
                if not label.startswith(OWN) and _is_number(few.column(label)):
                    makers[_name(label)] = lambda label=label: _numbers(rows.column(label))  # type: ignore[misc]
        if isinstance(columns, CsColumns):
            array = columns.array
            for field in array.dtype.names or ():
                kind, name = array[field].dtype.kind, field.removeprefix(STAR_PREFIX)
                if array[field].ndim > 1 or name.startswith(OWN):
                    continue
                if kind in "uif":
                    makers[_name(name)] = lambda field=field: array[field]  # type: ignore[misc]
                elif kind == "S" and name != field and _is_number(array[field][:1]):
                    makers[_name(name)] = lambda field=field: _numbers(array[field])  # type: ignore[misc]
        return makers


def _of_row(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Value of each row ``[n]``; nan for a row that there is not."""
    known = np.append(values.astype(np.float64), np.nan)
    return known[np.clip(index, -1, len(values))]


def _of_ctf(ctf: CtfColumns) -> dict[str, Callable[[], np.ndarray]]:
    return {
        "defocus": lambda: 0.5 * (ctf.defocus_u + ctf.defocus_v),
        "astigmatism": lambda: np.abs(ctf.defocus_u - ctf.defocus_v),
    }


def _name(label: str) -> str:
    """A column's label as a name in a rule: ``cryo2dStability`` is ``stability``."""
    if label.startswith("cryo2d"):
        return re.sub(r"(?<!^)(?=[A-Z])", "_", label.removeprefix("cryo2d")).lower()
    return "".join(letter if letter.isalnum() else "_" for letter in label)


def _numbers(texts: np.ndarray) -> np.ndarray:
    """Text as numbers, nan where it is none."""
    return pd.to_numeric(pd.Series(texts.astype(str)), errors="coerce").to_numpy(np.float64)


def _is_number(texts: np.ndarray) -> bool:
    return bool(np.isfinite(_numbers(texts)).all())
