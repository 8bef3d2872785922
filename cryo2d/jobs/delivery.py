"""What a job leaves in its folder: files, a page and, written last, their list."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cryo2d.data.outcome import with_reasons
from cryo2d.io.atomic import atomic_write
from cryo2d.io.averages import ClassAverages, write_class_averages
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import Excluded, ParticleTable, write_particles
from cryo2d.training.callbacks.export import given_settings
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.report import Flow, Report, Table, render_page
from cryo2d.training.manifest import versions, write_manifest

PARTICLES = "particles"


class Delivery:
    """Writes the output of a job into its folder and remembers what was written.

    Args:
        folder: of the run.
        source: file that was read.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.source = folder, source
        self.files: list[str] = []
        self.pictures: list[Picture] = []

    def particles(
        self, table: ParticleTable, name: str = PARTICLES, *, averages: str | None = None
    ) -> None:
        """Write particles as ``NAME.star`` and ``NAME.cs``, if there are any."""
        if not len(table) and name != PARTICLES:
            return
        for kind in ("star", "cs"):
            write_particles(self.folder / f"{name}.{kind}", table, averages=averages)
            self.files.append(f"{name}.{kind}")

    def excluded(self, excluded: Excluded, name: str = "excluded") -> None:
        """Write particles with the reason why they are left out, if there are any."""
        if len(excluded.table):
            self.particles(with_reasons(excluded), name)

    def averages(self, averages: ClassAverages) -> None:
        """Write class averages with their numbers."""
        self.files += write_class_averages(self.folder, averages)

    def stack(self, name: str, images: np.ndarray, pixel_size: float) -> None:
        """Write a stack of images ``[k y x]``."""
        write_stack(self.folder / name, images, pixel_size)
        self.files.append(name)

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        with atomic_write(self.folder / name) as file:
            file.write(text.encode())
        self.files.append(name)

    def picture(self, picture: Picture) -> None:
        """Keep a picture for the page, and write it if it is a file of its own."""
        self.pictures.append(picture)
        if picture.file is not None:
            with atomic_write(self.folder / picture.file) as file:
                file.write(picture.png)
            self.files.append(picture.file)

    def close(
        self,
        title: str,
        flow: Flow,
        headline: Mapping[str, str],
        *,
        facts: Mapping[str, Any],
        notes: Sequence[str] = (),
        tables: Sequence[Table] = (),
        command: tuple[str, str] = ("", ""),
    ) -> None:
        """Write the page, then the list of files.

        Args:
            title: of the page.
            flow: where the particles went.
            headline: numbers on top of the page, label -> value.
            facts: values for the manifest.
            notes: what the reader should see first.
            tables: of the page.
            command: what a command line is for, and the line.
        """
        report = Report(
            title=title,
            source=self.source,
            counts=flow,
            facts=headline,
            notes=notes,
            pictures=self.pictures,
            settings=_text(self.folder / "config.yaml"),
            overrides=given_settings(_text(self.folder / ".hydra" / "overrides.yaml")),
            versions=versions(),
            files={name: (self.folder / name).stat().st_size for name in self.files},
            command=command,
        )
        self.text("report.html", render_page(report, tables))
        common = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": self.source,
            "particles": {"total": flow.total, **flow.parts},
            "versions": versions(),
        }
        write_manifest(self.folder, self.files, common | dict(facts))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
