"""The report page of a run: one HTML file with everything inside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jinja2 import Environment
from PIL import Image

from cryo2d.training.drawing import style
from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import grey_levels


@dataclass(frozen=True)
class Counts:
    """Where the particles of the input went.

    Attributes:
        total: rows read.
        classified: rows of particles.star.
        rejected: duplicates.
        excluded: rows that could not be used.
    """

    total: int
    classified: int
    rejected: int
    excluded: int

    def __post_init__(self) -> None:
        assert self.total == self.classified + self.rejected + self.excluded, self


@dataclass(frozen=True)
class Report:
    """The words and pictures of a report.

    Attributes:
        title: of the page.
        source: file that was classified.
        counts: where the particles went.
        facts: headline label -> value.
        notes: sentences the reader should see first.
        pictures: in reading order.
        settings: text of the resolved configuration.
        overrides: settings given by the user.
        versions: package -> version.
        files: name -> size in bytes.
    """

    title: str
    source: str
    counts: Counts
    facts: Mapping[str, str]
    notes: Sequence[str]
    pictures: Sequence[Picture]
    settings: str
    overrides: Sequence[str]
    versions: Mapping[str, str]
    files: Mapping[str, int]


def render_report(
    report: Report,
    averages: np.ndarray,
    table: ClassTable,
    order: np.ndarray,
    radius: float | None = None,
) -> str:
    """The page as HTML text that needs no other file and no network.

    Args:
        report: words and pictures.
        averages: ``[k y x]``, for the thumbnails of the class table.
        table: the class table.
        order: class numbers from top to bottom.
        radius: of the mask (pixel).
    """
    # autoescape: column values and paths come from the user's files
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = data_url
    environment.filters["size"] = readable_size
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report, rows=_rows(averages, table, order, radius), style=style
    )


def _rows(
    averages: np.ndarray, table: ClassTable, order: np.ndarray, radius: float | None
) -> list[dict[str, object]]:
    levels = grey_levels(averages, radius)
    share = table.share
    rows: list[dict[str, object]] = []
    for k in order:
        values = {
            "particles": (f"{table.count[k]:,}", table.count[k]),
            "share": (number(share[k], 2), share[k]),
            "resolution": (number(table.resolution[k], 1), table.resolution[k]),
            "resolution_half": (number(table.resolution_half[k], 1), table.resolution_half[k]),
            "ess": (number(table.ess[k], 2), table.ess[k]),
            "posterior": (number(table.posterior[k], 3), table.posterior[k]),
        }
        # the sort key of a missing number: always at the end of an ascending list
        cells = [(text, f"{v:.6g}" if np.isfinite(v) else "1e30") for text, v in values.values()]
        empty = bool(table.count[k] == 0)
        picture = b"" if empty else thumbnail(levels[k])
        rows.append({"number": int(k) + 1, "empty": empty, "picture": picture, "cells": cells})
    return rows


def thumbnail(levels: np.ndarray, edge: int = 72) -> bytes:
    """A small PNG of one average on its grey scale ``[y x]``."""
    small = Image.fromarray(levels).resize((edge, edge), Image.Resampling.LANCZOS)
    return style.image_png(np.clip(np.asarray(small) * 255.0, 0, 255).astype(np.uint8))


def data_url(png: bytes) -> str:
    """PNG bytes as the address of an image inside the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def readable_size(size: float) -> str:
    """A number of bytes for people: ``3.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
