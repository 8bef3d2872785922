"""Class averages as an image stack with a RELION and a cryoSPARC table."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.atomic import atomic_write
from cryo2d.io.carried import loop_text, quoted
from cryo2d.io.cs import build, write_array
from cryo2d.io.digits import general
from cryo2d.io.loop import read_loop
from cryo2d.io.mrc import read_header, read_images, write_stack
from cryo2d.io.rows import from_columns
from cryo2d.io.star import find_blocks, read_text
from cryo2d.io.star import read_header as read_labels

NAME = "class_averages"
STAR_LABELS = {
    "share": "rlnClassDistribution",
    "resolution": "rlnEstimatedResolution",
    "class_number": "rlnClassNumber",
}
"""Columns that RELION has a label for; any other becomes ``cryo2d`` and its name in capitals."""

TEXTS = ("cryo2dReason",)
"""Labels of columns that hold words."""

GENERAL, CLASSES, FRC = "model_general", "model_classes", "class_frc"
ITERATION = "rlnCurrentIteration"
FRC_LABELS = ("rlnClassNumber", "rlnSpectralIndex", "rlnResolution", "rlnFourierShellCorrelation")


@dataclass(frozen=True)
class Rings:
    """Half-set Fourier ring correlation of each class.

    Attributes:
        frc: correlation ``[k s]``.
        frequency: spatial frequency ``[s]`` (1/Angstrom).
    """

    frc: np.ndarray
    frequency: np.ndarray


@dataclass(frozen=True)
class ClassAverages:
    """Class averages and what is known of each.

    Attributes:
        images: ``[k y x]`` float32.
        pixel_size: (Angstrom).
        columns: values of each class ``[k]``. ``count`` (particles) gives the ``share`` of each
            class unless that is given; ``resolution`` (Angstrom) is RELION's and cryoSPARC's
            estimated resolution; all others become extra columns under their own name. Words are
            byte strings, and only ``reason`` is read back.
        rings: ring correlations, or None.
        iteration: the 1-based iteration that made them, or None.
    """

    images: np.ndarray
    pixel_size: float
    columns: dict[str, np.ndarray]
    rings: Rings | None = None
    iteration: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> "ClassAverages":
        """Some of the classes, with their values unchanged, by index or mask ``[k]``."""
        rings = None if self.rings is None else replace(self.rings, frc=self.rings.frc[rows])
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, images=self.images[rows], columns=columns, rings=rings)


def star_label(name: str) -> str:
    """Label of a column of the averages: ``mean_error`` is ``cryo2dMeanError``."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return STAR_LABELS.get(name, "cryo2d" + camel)


def column_name(label: str) -> str:
    """Name of the column with a label: ``cryo2dMeanError`` is ``mean_error``."""
    known = {value: name for name, value in STAR_LABELS.items()}
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", label.removeprefix("cryo2d"))
    return known.get(label, words.lower())


def write_class_averages(
    folder: str | Path, averages: ClassAverages, *, name: str = NAME
) -> list[str]:
    """Write the averages as ``NAME.mrcs``, ``.cs`` and ``.star``, each whole or not at all.

    Args:
        folder: where they go.
        averages: the averages.
        name: of the files, without ending.

    Returns:
        The names of the files.

    Raises:
        EnvironmentFault: if a file cannot be written.
    """
    folder = Path(folder)
    values = {name: np.asarray(column) for name, column in averages.columns.items()}
    assert all(len(column) == len(averages) for column in values.values()), "one value per class"
    if "share" not in values and "count" in values:
        values["share"] = values["count"] / max(values["count"].sum(), 1)
    averages = replace(averages, columns=values)
    files = [f"{name}.{kind}" for kind in ("mrcs", "cs", "star")]
    write_stack(folder / files[0], averages.images, averages.pixel_size)
    with atomic_write(folder / files[1]) as file:
        write_array(file, _cs(averages, files[0]))
    # the star comes last: who follows a run waits for it
    with atomic_write(folder / files[2]) as file:
        file.write(_star(averages, files[0]))
    return files


def read_class_averages(folder: str | Path, *, name: str = NAME) -> ClassAverages:
    """Read what ``write_class_averages`` wrote.

    Raises:
        InputError: if a file is missing or is no table of classes with these images.
    """
    path = Path(folder, f"{name}.star")
    data = read_text(path)
    blocks = {block.name: block for block in find_blocks(data, str(path))}
    if not {GENERAL, CLASSES} <= blocks.keys():
        found, expected = f"blocks {', '.join(blocks)}", f"blocks {GENERAL} and {CLASSES}"
        raise InputError([Problem(str(path), found, expected, "name the folder of a run")])

    def numbers(block: str) -> dict[str, np.ndarray]:
        labels = read_labels(data, blocks[block], str(path)).labels
        wanted = [label for label in labels if label not in ("rlnReferenceImage", *TEXTS)]
        return read_loop(data, blocks[block], str(path), numbers=wanted).numbers

    head = numbers(GENERAL)
    columns = {column_name(label): values for label, values in numbers(CLASSES).items()}
    words = read_loop(data, blocks[CLASSES], str(path), names=TEXTS).names
    for label, (codes, texts) in words.items():
        columns[column_name(label)] = np.array([text.encode() for text in texts], bytes)[codes]
    stack = path.with_suffix(".mrcs")
    images = read_images(stack)
    count = len(next(iter(columns.values()), images))
    if len(images) != count:
        found = f"{len(images)} images in {stack.name} and {count} rows"
        raise InputError([Problem(str(path), found, "one of each per class", "copy both again")])
    iteration = head.get(ITERATION)
    return ClassAverages(
        images,
        float(head["rlnPixelSize"][0]) if "rlnPixelSize" in head else read_header(stack).pixel_size,
        columns,
        _rings(numbers(FRC), count) if FRC in blocks and count else None,
        None if iteration is None else int(iteration[0]),
    )


def _rings(columns: dict[str, np.ndarray], count: int) -> Rings:
    _, _, frequency, frc = (columns[label].reshape(count, -1) for label in FRC_LABELS)
    return Rings(frc, frequency[0])


def _star(averages: ClassAverages, stack: str) -> bytes:
    """The text of the star: as in RELION's model.star, so that its tools list the classes."""
    number, box = len(averages), averages.images.shape[-1]
    head = {
        "rlnReferenceDimensionality": np.array([b"2"]),
        "rlnOriginalImageSize": general(np.array([box])),
        "rlnPixelSize": general(np.array([averages.pixel_size])),
        "rlnNrClasses": general(np.array([number])),
    }
    if averages.iteration is not None:
        head[ITERATION] = general(np.array([averages.iteration]))
    names = [b"%06d@%s" % (k + 1, stack.encode()) for k in range(number)]
    classes = {"rlnReferenceImage": np.array(names)}
    classes |= {star_label(name): _text(column) for name, column in averages.columns.items()}
    parts = {GENERAL: head, CLASSES: classes}
    if averages.rings is not None and averages.rings.frc.size:
        numbers = averages.columns.get("class_number", np.arange(1, number + 1))
        parts[FRC] = _frc_columns(averages.rings, numbers)
    text = [loop_text(name, from_columns(columns)) for name, columns in parts.items()]
    return b"# written by cryo2d\n\n" + b"\n".join(text)


def _text(column: np.ndarray) -> np.ndarray:
    """A column as byte strings ``[n]``."""
    return quoted(column) if column.dtype.kind == "S" else general(column)


def _frc_columns(rings: Rings, classes: np.ndarray) -> dict[str, np.ndarray]:
    """One row per class and ring; the classes go by their numbers."""
    number, count = rings.frc.shape
    values = (
        np.repeat(classes, count),
        np.tile(np.arange(1, count + 1), number),
        np.tile(rings.frequency.astype(np.float32), number),
        rings.frc.astype(np.float32).ravel(),
    )
    return {k: general(v, exact=False) for k, v in zip(FRC_LABELS, values, strict=True)}


def _cs(averages: ClassAverages, stack: str) -> np.ndarray:
    """cryoSPARC's table of templates; columns it does not know stand under ``cryo2d/``."""
    number, values, pixel_size = len(averages), averages.columns, averages.pixel_size
    shape, unknown = averages.images.shape[1:], np.zeros(number)
    fields = {
        "uid": values.get("class_number", np.arange(1, number + 1)).astype("<u8"),
        "blob/path": np.full(number, stack.encode()),
        "blob/idx": np.arange(number, dtype="<u4"),
        "blob/shape": np.tile(np.array(shape, "<u4"), (number, 1)),
        "blob/psize_A": np.full(number, pixel_size, "<f4"),
        "blob/res_A": values.get("resolution", unknown).astype("<f4"),
    }
    rest = {f"cryo2d/{name}": _plain(v) for name, v in values.items() if name != "resolution"}
    return build(fields | rest, number)


def _plain(values: np.ndarray) -> np.ndarray:
    """A type that every reader of .cs knows."""
    kinds = {"f": "<f4", "i": "<i8", "u": "<u8", "b": "u1"}
    return values.astype(kinds[values.dtype.kind]) if values.dtype.kind in kinds else values
