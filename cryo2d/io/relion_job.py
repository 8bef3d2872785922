"""What RELION's next jobs read of a 2D classification: model, optimiser, references, node list.

RELION names every file from the project folder, where it runs. Its 3.1 reads the kind of a node
from ``rlnPipeLineNodeType`` (a number), 4 and 5 from ``rlnPipeLineNodeTypeLabel``: both are there.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cryo2d.io.atomic import atomic_write
from cryo2d.io.averages import NAME, ClassAverages
from cryo2d.io.carried import loop_text, quoted
from cryo2d.io.digits import general
from cryo2d.io.rows import from_columns

OUTPUT_NODES = "RELION_OUTPUT_NODES.star"
UNKNOWN_ACCURACY = 999.0
"""RELION's value for an accuracy that was not estimated."""


class NodeKind(NamedTuple):
    """The kind of a node of the pipeline.

    Attributes:
        number: of RELION 3.1.
        label: of RELION 4 and 5.
    """

    number: int
    label: str


PARTICLES = NodeKind(3, "ParticleGroupMetadata.star.relion.class2d")
REFERENCES = NodeKind(5, "Image2DGroupMetadata.star.relion.classaverages")
MODEL = NodeKind(8, "ProcessData.star.relion.model.class2d")
OPTIMISER = NodeKind(9, "OptimiserData.star.relion.class2d")


def write_output_nodes(folder: Path, project: Path, nodes: Mapping[str, NodeKind]) -> str:
    """Write the list of a job's files that other jobs may take.

    Args:
        folder: of the job.
        project: folder of the project.
        nodes: file name -> its kind.

    Returns:
        The name of the file.
    """
    columns = {
        "rlnPipeLineNodeName": _texts(*(from_project(folder / n, project) for n in nodes)),
        "rlnPipeLineNodeType": general(np.array([kind.number for kind in nodes.values()])),
        "rlnPipeLineNodeTypeLabel": _texts(*(kind.label for kind in nodes.values())),
    }
    return _write(folder / OUTPUT_NODES, {"output_nodes": columns})


def write_model(
    folder: Path, project: Path, averages: ClassAverages, mask_diameter: float
) -> dict[str, NodeKind]:
    """Write the classes as RELION's selection of classes and its picker read them.

    Writes ``run_itNNN_model.star``, ``_data.star``, ``_optimiser.star`` and ``references.star``.

    Args:
        folder: of the job, with ``particles.star`` and the images of the classes.
        project: folder of the project.
        averages: the classes, with their iteration.
        mask_diameter: of the particle (Angstrom).

    Returns:
        File name -> its kind.
    """
    root = f"run_it{averages.iteration or 0:03d}"
    count, box = len(averages), averages.images.shape[-1]
    images = from_project(folder / f"{NAME}.mrcs", project)
    unknown = general(np.full(count, UNKNOWN_ACCURACY))
    classes = {
        "rlnReferenceImage": _texts(*(f"{k + 1:06d}@{images}" for k in range(count))),
        "rlnClassDistribution": general(averages.columns["share"]),
        "rlnAccuracyRotations": unknown,
        "rlnAccuracyTranslationsAngst": unknown,
        "rlnEstimatedResolution": general(averages.columns["resolution"]),
    }
    general_block = {
        "rlnReferenceDimensionality": _numbers(2),
        "rlnDataDimensionality": _numbers(2),
        "rlnOriginalImageSize": _numbers(box),
        "rlnCurrentImageSize": _numbers(box),
        "rlnCurrentResolution": _numbers(float(averages.columns["resolution"].min(initial=np.inf))),
        "rlnPixelSize": _numbers(averages.pixel_size),
        "rlnNrClasses": _numbers(count),
    }
    names = {part: f"{root}_{part}.star" for part in ("model", "data", "optimiser")}
    optimiser = {
        "rlnOutputRootName": _texts(from_project(folder / root, project)),
        "rlnModelStarFile": _texts(from_project(folder / names["model"], project)),
        "rlnExperimentalDataStarFile": _texts(from_project(folder / names["data"], project)),
        "rlnCurrentIteration": _numbers(averages.iteration or 0),
        "rlnNumberOfIterations": _numbers(averages.iteration or 0),
        "rlnParticleDiameter": _numbers(mask_diameter),
    }
    blocks = {"model_general": general_block, "model_classes": classes}
    return {
        write_data(folder / names["data"], folder / "particles.star", project): PARTICLES,
        _write(folder / names["optimiser"], {"optimiser_general": optimiser}): OPTIMISER,
        _write(folder / names["model"], blocks): MODEL,
        _write(folder / "references.star", {"": classes}): REFERENCES,
    }


def write_data(path: Path, particles: Path, project: Path) -> str:
    """Write a copy of a star of particles that names stacks inside the project from its folder.

    Args:
        path: the copy.
        particles: the star.
        project: folder of the project.

    Returns:
        The name of the copy.
    """
    text = particles.read_bytes()
    with atomic_write(path) as file:
        file.write(text.replace(b"@" + os.fsencode(project) + b"/", b"@"))
    return path.name


def from_project(path: Path, project: Path) -> str:
    """The name of a file from the project folder; its whole path if it lies elsewhere."""
    path = path.absolute()
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def _write(path: Path, blocks: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    parts = [loop_text(name, from_columns(dict(columns))) for name, columns in blocks.items()]
    with atomic_write(path) as file:
        file.write(b"# written by cryo2d\n\n" + b"\n".join(parts))
    return path.name


def _numbers(*values: float) -> np.ndarray:
    return general(np.array(values))


def _texts(*values: str) -> np.ndarray:
    return quoted(np.array([os.fsencode(value) for value in values]))
