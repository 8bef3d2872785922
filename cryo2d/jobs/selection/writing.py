"""The files of a selection: particles and averages, selected and excluded."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from cryo2d.em.solve import Recenter
from cryo2d.errors import InputError, Problem
from cryo2d.geometry.fourier import fourier_shift
from cryo2d.io.averages import NAME, ClassAverages, write_class_averages
from cryo2d.io.particles import ParticleTable, read_particles, write_particles
from cryo2d.jobs.selection.choice import numbers_of
from cryo2d.jobs.selection.classification import PARTICLES, Classification
from cryo2d.training.manifest import versions, write_manifest


@dataclass(frozen=True)
class Selection:
    """A choice among the classes of a run.

    Attributes:
        mask: which classes are selected ``[k]`` (bool).
        how: ``rules``, ``classes`` or ``page``.
        rules: the rule, if there was one.
    """

    mask: np.ndarray
    how: str
    rules: str | None = None


@dataclass(frozen=True)
class Written:
    """What a selection left.

    Attributes:
        folder: where the files are.
        files: their names.
        selected: number of selected particles.
        total: number of all particles.
        classes: number of selected classes.
        num_classes: number of all classes.
    """

    folder: Path
    files: tuple[str, ...]
    selected: int
    total: int
    classes: int
    num_classes: int

    @property
    def summary(self) -> str:
        """The numbers in words, one line each, and the file that people go on with."""
        share = self.selected / max(self.total, 1)
        return (
            f"{self.classes:,} of {self.num_classes:,} classes selected\n"
            f"{self.selected:,} of {self.total:,} particles selected ({share:.1%})\n"
            f"{self.folder / 'particles_selected.star'}"
        )


def write_selection(
    folder: Path, run: Classification, selection: Selection, *, templates: bool = False
) -> Written:
    """Write the particles and averages of a choice, the manifest last.

    Classes keep their numbers and particles their poses; every particle of the run is in
    particles_selected or in particles_excluded.

    Args:
        folder: where the files go.
        run: a finished run.
        selection: the choice.
        templates: whether to write templates.* too, the selected averages moved to the centre.

    Raises:
        InputError: if no class is selected, or the particles do not fit the averages.
        EnvironmentFault: if a file cannot be written.
    """
    run.require_finished()
    if not selection.mask.any():
        found = "no class selected" if selection.rules is None else f"rules={selection.rules!r}"
        raise InputError([Problem(str(run.folder), found, "at least one class", "select more")])
    files, counts = write_parts(folder, run, selection.mask)
    files += write_average_parts(folder, run.scored, selection.mask)
    if templates:
        files += write_class_averages(
            folder, centred(numbered(run.averages).take(selection.mask)), name="templates"
        )
    numbers = numbers_of(selection.mask)
    facts = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(run.folder),
        "chosen_by": selection.how,
        "rules": selection.rules,
        "classes": numbers,
        "num_classes": len(run),
        "particles": counts,
        "repeat": f"cryo2d select run={run.folder} classes=[{','.join(map(str, numbers))}]",
        "versions": versions(),
    }
    write_manifest(folder, files, facts)
    return Written(
        folder, tuple(files), counts["selected"], counts["total"], len(numbers), len(run)
    )


def write_parts(
    folder: Path, run: Classification, mask: np.ndarray
) -> tuple[list[str], dict[str, int]]:
    """Write particles_selected and particles_excluded in both formats, each from its own file.

    Returns:
        The names of the files, and the number of particles in each part.

    Raises:
        InputError: if the particles have other classes than the averages.
    """
    there = [name for name in PARTICLES if (run.folder / name).is_file()]
    averages = str(run.folder / f"{NAME}.mrcs")
    files, counts = [], {}
    for name in PARTICLES:
        source = run.folder / (name if name in there else there[0])
        table, _ = read_particles(source, require_ctf=False, require_stacks=False)
        chosen = mask[classes_of(table, len(run))]
        counts = {
            "total": len(table),
            "selected": int(chosen.sum()),
            "excluded": int((~chosen).sum()),
        }
        for part, rows in (("selected", chosen), ("excluded", ~chosen)):
            if rows.any():
                written = f"particles_{part}{Path(name).suffix}"
                write_particles(folder / written, table.take(rows), averages=averages)
                files.append(written)
    return files, counts


def classes_of(table: ParticleTable, count: int) -> np.ndarray:
    """0-based class of each particle ``[n]``.

    Raises:
        InputError: if a particle has none, or one beyond the averages.
    """
    found = None if table.alignment is None else table.alignment.class_index
    expected, action = f"a class from 1 to {count} for each", "name the folder of a finished run"
    if found is None:
        raise InputError([Problem(table.source, "particles without class", expected, action)])
    if len(found) and not (found.min() >= 0 and found.max() < count):
        shown = f"classes {found.min() + 1} to {found.max() + 1}"
        raise InputError([Problem(table.source, shown, expected, action)])
    return found


def write_average_parts(folder: Path, averages: ClassAverages, mask: np.ndarray) -> list[str]:
    """Write averages_selected and averages_excluded, with the numbers the classes have."""
    files = []
    for part, rows in (("selected", mask), ("excluded", ~mask)):
        if rows.any():
            some = numbered(averages).take(rows)
            files += write_class_averages(folder, some, name=f"averages_{part}")
    return files


def numbered(averages: ClassAverages) -> ClassAverages:
    """The averages with the number of each class as a column."""
    numbers = {"class_number": np.arange(1, len(averages) + 1)}
    return replace(averages, columns=numbers | averages.columns)


def centred(averages: ClassAverages) -> ClassAverages:
    """The averages with the centre of mass of their bright pixels in the centre of the box."""
    images = torch.from_numpy(np.ascontiguousarray(averages.images, np.float32))
    shift = Recenter(max_step=float(images.shape[-1])).shift(images)
    return replace(averages, images=fourier_shift(images, shift).numpy())
