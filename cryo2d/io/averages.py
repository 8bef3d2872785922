"""Class averages as an image stack with a RELION and a cryoSPARC table."""

from pathlib import Path

import numpy as np

from cryo2d.io.atomic import atomic_write
from cryo2d.io.carried import loop_text
from cryo2d.io.cs import build, write_array
from cryo2d.io.digits import general
from cryo2d.io.mrc import write_stack
from cryo2d.io.rows import from_columns

STACK = "class_averages.mrcs"
STAR_LABELS = {
    "share": "rlnClassDistribution",
    "resolution": "rlnEstimatedResolution",
}
"""Columns that RELION has a label for; any other becomes ``cryo2d`` and its name in capitals."""


def star_label(name: str) -> str:
    """Label of a column of the averages: ``mean_error`` is ``cryo2dMeanError``."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return STAR_LABELS.get(name, "cryo2d" + camel)


def write_class_averages(
    folder: str | Path, images: np.ndarray, pixel_size: float, columns: dict[str, np.ndarray]
) -> None:
    """Write ``class_averages.mrcs``, ``.star`` and ``.cs``, each whole or not at all.

    Args:
        folder: where they go.
        images: averages ``[k y x]``.
        pixel_size: of the averages (Angstrom).
        columns: values of each class ``[k]``. ``count`` (particles) gives the share of each class
            unless ``share`` does; ``resolution`` (Angstrom, 0.5 or 0.143 as the caller decides) is
            the estimated resolution; all others become extra columns under their own name.

    Raises:
        EnvironmentFault: if a file cannot be written.
    """
    folder = Path(folder)
    number = len(images)
    values = {name: np.asarray(column) for name, column in columns.items()}
    assert all(len(column) == number for column in values.values()), "one value per class"
    if "share" not in values and "count" in values:
        values["share"] = values["count"] / max(values["count"].sum(), 1)
    write_stack(folder / STACK, images, pixel_size)
    with atomic_write(folder / "class_averages.star") as file:
        file.write(_star(values, number, pixel_size, images.shape[-1]))
    with atomic_write(folder / "class_averages.cs") as file:
        write_array(file, _cs(values, number, pixel_size, images.shape[1:]))


def _star(values: dict[str, np.ndarray], number: int, pixel_size: float, box: int) -> bytes:
    """The text of the star: as in RELION's model.star, so that its tools list the classes."""
    general_block = {
        "rlnReferenceDimensionality": np.array([b"2"]),
        "rlnOriginalImageSize": general(np.array([box])),
        "rlnPixelSize": general(np.array([pixel_size])),
        "rlnNrClasses": general(np.array([number])),
    }
    classes = {
        "rlnReferenceImage": np.array([b"%06d@%s" % (k + 1, STACK.encode()) for k in range(number)])
    }
    classes |= {star_label(name): general(column) for name, column in values.items()}
    parts = {"model_general": general_block, "model_classes": classes}
    text = [loop_text(name, from_columns(columns)) for name, columns in parts.items()]
    return b"# written by cryo2d\n\n" + b"\n".join(text)


def _cs(
    values: dict[str, np.ndarray], number: int, pixel_size: float, shape: tuple[int, ...]
) -> np.ndarray:
    """cryoSPARC's table of templates; columns it does not know stand under ``cryo2d/``."""
    unknown = np.zeros(number)
    fields = {
        "uid": np.arange(1, number + 1, dtype="<u8"),
        "blob/path": np.full(number, STACK.encode()),
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
