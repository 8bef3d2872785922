"""The report page of a run: one HTML file with everything inside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np
from jinja2 import Environment
from PIL import Image

from cryo2d.training.drawing import style
from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import ANGSTROM, grey_levels

CLASS_LABELS = (
    "class",
    "particles",
    "% of all",
    f"resolution ({ANGSTROM}) FRC 0.143",
    f"resolution ({ANGSTROM}) FRC 0.5",
    "mean ESS",
    "mean posterior",
)
SCORE_LABELS = ("score", "against it")
SUPERCLASS = "superclass"
HINTS = {
    "mean ESS": "effective number of classes of a particle: 1 is certain",
    "mean posterior": "of the particles in their class",
    "score": "chance of a good class, by what its average looks like",
    SUPERCLASS: "classes of one number show one view, turned, shifted or mirrored",
}
"""What a column is, where its label is too short for it."""


@dataclass(frozen=True)
class Flow:
    """Where the particles of the input went, as a sentence.

    Attributes:
        total: rows read.
        parts: name of each place -> rows that went there.
    """

    total: int
    parts: Mapping[str, int]

    def __post_init__(self) -> None:
        assert self.total == sum(self.parts.values()), self

    def __str__(self) -> str:
        parts = " + ".join(f"{count:,} {name}" for name, count in self.parts.items())
        return f"{self.total:,} particles read = {parts}"


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

    def __str__(self) -> str:
        parts = {"classified": self.classified, "duplicates": self.rejected}
        return str(Flow(self.total, parts | {"excluded": self.excluded}))


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: what is shown, and the number or text it is sorted by.
        picture: PNG in front of it; empty for a blank.
        empty: whether it is set apart by colour.
    """

    cells: Sequence[tuple[str, str]]
    picture: bytes = b""
    empty: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a page that can be sorted by any column.

    Attributes:
        heading: above it.
        labels: of the columns.
        rows: from top to bottom.
        pictures: whether a picture stands in front of each row.
        early: whether it stands above the pictures of the page.
        hints: tool tip of some of the labels.
    """

    heading: str
    labels: Sequence[str]
    rows: Sequence[Row]
    pictures: bool = False
    early: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The words and pictures of a report.

    Attributes:
        title: of the page.
        source: file that was read.
        counts: where the particles went.
        facts: headline label -> value.
        notes: sentences the reader should see first.
        pictures: in reading order.
        settings: text of the resolved configuration.
        overrides: settings given by the user.
        versions: package -> version.
        files: name -> size in bytes.
        command: a command line to copy, and what it is.
        reload: time after which a browser reads the page again (s); 0 for a page that stays.
    """

    title: str
    source: str
    counts: Counts | Flow
    facts: Mapping[str, str]
    notes: Sequence[str]
    pictures: Sequence[Picture]
    settings: str
    overrides: Sequence[str]
    versions: Mapping[str, str]
    files: Mapping[str, int]
    command: tuple[str, str] = ("", "")
    reload: float = 0.0

    @property
    def sections(self) -> list[tuple[str, list[Picture]]]:
        """Headings and the pictures below them; those of a series stand together."""
        found: list[tuple[str, list[Picture]]] = []
        for picture in self.pictures:
            if picture.series and found and found[-1][0] == picture.series:
                found[-1][1].append(picture)
            else:
                found.append((picture.series or picture.heading, [picture]))
        return found


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
    return render_page(report, [class_table(averages, table, order, radius)])


def render_page(report: Report, tables: Sequence[Table] = ()) -> str:
    """The page of any job as HTML text that needs no other file and no network."""
    # autoescape: column values and paths come from the user's files
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_url"] = data_url
    environment.filters["size"] = readable_size
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(report=report, tables=tables, style=style)


def class_table(
    averages: np.ndarray, table: ClassTable, order: np.ndarray, radius: float | None
) -> Table:
    """The classes with a picture and the numbers of each, for :func:`render_page`."""
    levels = grey_levels(averages, radius)
    share = table.share
    rows = []
    for k in order:
        empty = bool(table.count[k] == 0)
        cells = [
            cell(int(k) + 1),
            cell(int(table.count[k])),
            cell(share[k], 2),
            cell(table.resolution[k], 1),
            cell(table.resolution_half[k], 1),
            cell(table.ess[k], 2),
            cell(table.posterior[k], 3),
        ]
        if table.superclass is not None:
            cells.append(cell(np.nan if empty else int(table.superclass[k]) + 1))
        if table.score is not None:
            cells += [cell(table.score[k], 2), (table.reason[k], table.reason[k])]
        rows.append(Row(cells, b"" if empty else thumbnail(levels[k]), empty))
    labels = CLASS_LABELS if table.superclass is None else (*CLASS_LABELS, SUPERCLASS)
    labels = labels if table.score is None else (*labels, *SCORE_LABELS)
    return Table("Table of classes", labels, rows, pictures=True, hints=HINTS)


def cell(value: float | int, digits: int = 0) -> tuple[str, str]:
    """A number as it is shown and as it is sorted: one that is missing comes last."""
    text = f"{value:,}" if isinstance(value, int) else number(value, digits)
    return text, f"{value:.6g}" if np.isfinite(value) else "1e30"


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
