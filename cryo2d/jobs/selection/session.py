"""One sitting at the page: the classes that are looked at, the choice, and its end."""

import math
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryo2d.io.averages import NAME
from cryo2d.jobs.selection.choice import by_number
from cryo2d.jobs.selection.classification import Classification
from cryo2d.jobs.selection.members import Members, Recording
from cryo2d.jobs.selection.memory import Choice, Memory
from cryo2d.jobs.selection.pictures import Sheet, average_sheet
from cryo2d.jobs.selection.writing import Selection, Written, write_selection
from cryo2d.training.drawing.similarity import similarity_order


class MissingError(LookupError):
    """What the page asks for does not exist."""


@dataclass(frozen=True)
class View:
    """What is shown of a run at one moment.

    Attributes:
        run: the classes.
        version: changes whenever they do.
        sheet: their pictures.
        similarity: place of each class in an order of similar neighbours ``[k]``.
    """

    run: Classification
    version: str
    sheet: Sheet
    similarity: np.ndarray


class Session:
    """Follows a run while it goes on, keeps the choice, and writes it in the end.

    Several threads of the server use it at once.
    """

    def __init__(self, folder: Path, out: Path, memory: Path, *, templates: bool = False) -> None:
        """Open the folder of a run.

        Args:
            folder: of the run.
            out: where the selection is written to.
            memory: file that keeps the choice.
            templates: whether to write templates too.

        Raises:
            InputError: if the folder has no classes, or the file a choice among others.
        """
        self.folder, self.out, self.templates = folder, out, templates
        self.recording = Recording.of_run(folder)
        self.members = Members(folder, self.recording)
        self.written: Written | None = None
        self.done = threading.Event()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._view = self._look()
        self.memory = Memory(memory, len(self._view.run))

    def _stamp(self) -> str:
        """When the averages were written; their star is the last of the files."""
        return str((self.folder / f"{NAME}.star").stat().st_mtime_ns)

    def _look(self) -> View:
        version, run = self._stamp(), Classification.read(self.folder)
        images, diameter = run.averages.images, self.recording.mask_diameter
        radius = None if diameter is None else 0.5 * diameter / run.averages.pixel_size
        counts = run.measures.get("count", np.ones(len(run)))
        place = np.empty(len(run), np.int64)
        place[similarity_order(images, counts, radius)] = np.arange(len(run))
        version = f"{version}{'f' if run.finished else ''}"
        return View(run, version, average_sheet(images, radius), place)

    def view(self) -> View:
        """The latest iteration of a run that goes on; a finished one stays as it was opened."""
        with self._lock:
            if not self._view.run.finished:
                finished = Classification.is_finished(self.folder)
                if finished or self._stamp() != self._view.version:
                    self._view = self._look()
            return self._view

    def state(self) -> dict[str, Any]:
        """What a page asks for again and again."""
        view = self.view()
        return {
            "version": view.version,
            "finished": view.run.finished,
            "iteration": view.run.averages.iteration,
            "revision": self.memory.choice.revision,
        }

    def classes(self) -> dict[str, Any]:
        """Everything that the grid shows but the pictures."""
        view = self.view()
        return {
            **self.state(),
            "run": str(self.folder),
            "extent": view.sheet.box * view.run.averages.pixel_size,
            "tile": view.sheet.tile,
            "columns": view.sheet.columns,
            "measures": {n: plain(v) for n, v in view.run.measures.items()},
            "similarity": view.similarity.tolist(),
            "reasons": view.run.reasons,
            "choice": asdict(self.memory.choice),
        }

    def sheet(self) -> bytes:
        """The pictures of all classes (PNG)."""
        return self.view().sheet.png

    def class_facts(self, number: int) -> dict[str, Any]:
        """Ring correlation and members of a class.

        Raises:
            MissingError: for a number that no class has.
        """
        run, k = self._class(number)
        rings = run.averages.rings
        facts: dict[str, Any] = {"number": number, "frc": [], "frequency": []}
        if rings is not None:
            facts["frc"], facts["frequency"] = plain(rings.frc[k]), plain(rings.frequency)
        if run.finished:
            return facts | self.members.facts(k)
        why_not = "Single particles can be looked at when the run is finished."
        return facts | {"members": 0, "shown": 0, "why_not": why_not, "micrographs": []}

    def member_sheet(self, number: int) -> bytes:
        """Some particles of a class (PNG).

        Raises:
            MissingError: if there is no such class or no picture of its particles.
        """
        run, k = self._class(number)
        sheet = self.members.sheet(k) if run.finished else None
        if sheet is None:
            raise MissingError(f"no pictures of the particles of class {number}")
        return sheet.png

    def picks(self, number: int, micrograph: int) -> dict[str, Any]:
        """Particles of a micrograph and which of them are in a class.

        Raises:
            MissingError: if there is no such class or micrograph.
        """
        run, k = self._class(number)
        found = self.members.picks(k, micrograph) if run.finished else None
        if found is None:
            raise MissingError(f"no micrograph {micrograph}")
        return found

    def _class(self, number: int) -> tuple[Classification, int]:
        run = self.view().run
        if not 1 <= number <= len(run):
            raise MissingError(f"no class {number}")
        return run, number - 1

    def choose(self, selected: list[int], revision: int) -> Choice:
        """Keep a new choice.

        Raises:
            InputError: for a number that no class has.
            OutdatedError: if it was changed on another page in between.
        """
        by_number(selected, len(self.view().run))
        return self.memory.change(selected, revision)

    def finish(self, selected: list[int], revision: int) -> Written:
        """Keep the choice and write its files, once: a second request gets the same answer.

        Raises:
            InputError: if nothing is selected or the run is not finished.
            OutdatedError: if the choice was changed on another page in between.
        """
        run = self.view().run
        mask = by_number(selected, len(run))
        with self._writing:
            if self.written is None:
                self.choose(selected, revision)
                selection = Selection(mask, "page")
                self.written = write_selection(self.out, run, selection, templates=self.templates)
            return self.written


def plain(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which knows neither nan nor infinity."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
