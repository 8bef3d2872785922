"""The pictures of a finished run, with what is said about each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.curves import draw_frc, draw_history, draw_noise, draw_posteriors
from cryo2d.training.drawing.montage import ANGSTROM, draw_montage
from cryo2d.training.drawing.similarity import similarity_order
from cryo2d.training.drawing.style import image_png
from cryo2d.training.drawing.tracks import Tracks, draw_tracks
from cryo2d.types import Assignments, IterationSummary


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
        heading: above it.
        png: the file's bytes.
        caption: below it.
        file: its name in the run folder, None for the report only.
        sharpness: pixels of the picture per pixel of a page.
        series: heading under which pictures that follow each other stand side by side.
    """

    heading: str
    png: bytes
    caption: str
    file: str | None = None
    sharpness: float = 1.6
    series: str = ""

    @property
    def page_width(self) -> int:
        """Width on a page (CSS pixel); the width in pixels is bytes 16 to 20 of every PNG."""
        return round(int.from_bytes(self.png[16:20], "big") / self.sharpness)


@dataclass(frozen=True)
class Gallery:
    """What the pictures are drawn from.

    Attributes:
        summary: of the last iteration.
        table: numbers of the classes.
        members: assignments of the classified particles ``[n]``.
        pixel_size: of the averages (Angstrom).
        similar: whether like classes stand together, else the largest come first.
        optics_names: ``[g]``.
        history: rows of metrics.csv.
        mask_diameter: circle in which the contrast is measured (Angstrom).
        tracks: the classes at some iterations, or None.
    """

    summary: IterationSummary
    table: ClassTable
    members: Assignments
    pixel_size: float
    similar: bool
    optics_names: Sequence[str]
    history: Sequence[Mapping[str, float]]
    mask_diameter: float | None = None
    tracks: Tracks | None = None

    @property
    def mask_radius(self) -> float | None:
        """Radius of the mask (pixel)."""
        return None if self.mask_diameter is None else 0.5 * self.mask_diameter / self.pixel_size

    @property
    def order(self) -> np.ndarray:
        """Class numbers in reading order of the montage ``[k]``."""
        if not self.similar:
            return self.table.by_count()
        averages = self.summary.averages.float().numpy()
        return similarity_order(averages, self.table.count, self.mask_radius)

    @cached_property
    def montage(self) -> np.ndarray:
        """The class averages ``[y x 3]`` (uint8)."""
        table = self.table
        used = int((~table.empty).sum())
        finite = table.resolution[~table.empty & np.isfinite(table.resolution)]
        median = number(float(np.median(finite)), 1) if len(finite) else "-"
        return draw_montage(
            self.summary.averages.float().numpy(),
            table,
            pixel_size=self.pixel_size,
            title=f"{used} class averages of {table.count.sum():,} particles",
            subtitle=f"{self.summary.effective_classes:.1f} effective classes   "
            f"median resolution {median} {ANGSTROM}   pixel {self.pixel_size:.2f} {ANGSTROM}",
            order=self.order,
            mask_diameter=self.mask_diameter,
            tile=min(192, max(144, self.summary.averages.shape[-1])),
        )

    def draw(self) -> list[Picture]:
        """All pictures in reading order."""
        summary, members = self.summary, self.members
        frequency = summary.frequency.double().numpy()
        posteriors = draw_posteriors(
            members.class_posterior.double().numpy(),
            members.class_ess.double().numpy(),
            np.linalg.norm(members.shift.double().numpy(), axis=1),
            members.alpha.double().numpy(),
        )
        frc = draw_frc(summary.frc.double().numpy(), frequency, self.table)
        noise = draw_noise(summary.noise.double().numpy(), frequency, self.optics_names)
        pictures = [
            Picture("Class averages", image_png(self.montage), MONTAGE, "classes.png", 1.0),
            Picture("Ring correlation", frc, FRC, "frc.png"),
            Picture("Assignments", posteriors, POSTERIORS, "posteriors.png"),
            Picture("Noise", noise, NOISE, "noise.png"),
        ]
        if len(self.history) > 1:
            course = draw_history(self.history, len(self.table))
            pictures.insert(1, Picture("Course of the run", course, COURSE))
        if self.tracks is not None and len(self.tracks) > 1:
            drawn = image_png(draw_tracks(self.tracks, self.table.by_count()))
            pictures.insert(2, Picture("Class tracks", drawn, TRACKS, "tracks.png", 1.0))
        return pictures


MONTAGE = (
    "Below each average: particles and class number; resolution where the half-set FRC falls "
    "below 0.143 and mean effective number of classes of its particles (ESS; 1 is certain). "
    "Score: the chance of a good class, by what its average looks like. "
    "Grey levels are set class by class; solvent, and all beyond the mask, is the same grey."
)
COURSE = (
    "Band used for alignment and resolution of the classes; effective classes, exp of the entropy "
    "of the class sizes (dashed: the number of classes); mean chi-squared per Fourier sample."
)
TRACKS = (
    "The largest classes from top to bottom, iterations from left to right; below each picture the "
    "size of the class then, against the largest. A picture that changes at once is a class that "
    "died and was begun anew (optimizer.reseed)."
)
FRC = (
    "One line per class, coloured by its resolution; black: mean weighted by particles. Both "
    "half-sets are aligned to the same averages, so the values compare classes and runs; they are "
    "no gold standard."
)
POSTERIORS = "Distributions over the classified particles; orange: running sum in per cent."
NOISE = "Noise power per Fourier sample by which the scores are weighted, per optics group."
