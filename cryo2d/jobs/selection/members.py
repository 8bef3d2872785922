"""The particles behind a class: what some of them look like, and where they were picked."""

import logging
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from cryo2d.data.optics import ctf_params
from cryo2d.data.reader import iterate
from cryo2d.errors import InputError
from cryo2d.io.particles import ParticleTable, read_particles
from cryo2d.jobs.selection.classification import PARTICLES
from cryo2d.jobs.selection.pictures import (
    PARTICLE,
    Sheet,
    aligned,
    filtered,
    member_levels,
    normalised,
    sheet_png,
)
from cryo2d.jobs.source import settings_of

log = logging.getLogger(__name__)

SHOWN = 24
"""Particles shown of a class."""


@dataclass(frozen=True)
class Recording:
    """How a run read its particles.

    Attributes:
        invert: whether they are dark on bright.
        int8_signed: whether MRC mode 0 holds signed bytes.
        ctf: how the CTF was corrected: full, flip or none.
        mask_diameter: of its circular mask (Angstrom), or None.
    """

    invert: bool = False
    int8_signed: bool = True
    ctf: str = "full"
    mask_diameter: float | None = None

    @classmethod
    def of_run(cls, folder: Path) -> "Recording":
        """From the settings of a run, or of that whose particles it has; else the defaults."""
        keys = {
            "invert": "data.invert",
            "int8_signed": "data.int8_signed",
            "ctf": "model.ctf",
            "mask_diameter": "model.mask_diameter",
        }
        found: dict[str, Any] = {}
        for cfg in settings_of(folder):
            told = {name: OmegaConf.select(cfg, key) for name, key in keys.items()}
            found = {name: value for name, value in told.items() if value is not None} | found
        return cls(**found)


class Members:
    """Particles of a finished run by class; the table is read when it is first asked for."""

    def __init__(self, folder: Path, recording: Recording) -> None:
        self.folder = folder
        self.recording = recording
        self.why_not = ""
        self._lock = threading.Lock()

    @cached_property
    def table(self) -> ParticleTable:
        """The particles; their images may be missing, which ``why_not`` then says."""
        path = next(self.folder / name for name in PARTICLES if (self.folder / name).is_file())
        try:
            return read_particles(path, require_ctf=False)[0]
        except InputError as error:
            log.warning("Single particles cannot be shown: %s", error)
            self.why_not = "The images of the particles were not found."
            return read_particles(path, require_ctf=False, require_stacks=False)[0]

    @cached_property
    def micrographs(self) -> tuple[np.ndarray, np.ndarray]:
        """Names of the micrographs and the micrograph of each particle ``[n]``."""
        place = self.table.locations
        if place is None:
            return np.empty(0, object), np.zeros(len(self.table), np.int64)
        return np.unique(place.micrograph.astype(str), return_inverse=True)

    def rows(self, k: int) -> np.ndarray:
        """Rows of the members of a class (0-based), the most certain first."""
        with self._lock:
            found = self.table.alignment
        if found is None or found.class_index is None:
            return np.empty(0, np.int64)
        rows = np.flatnonzero(found.class_index == k)
        if found.class_posterior is None:
            return rows
        return rows[np.argsort(-found.class_posterior[rows], kind="stable")]

    def facts(self, k: int) -> dict[str, Any]:
        """What the page says about the members: how many, which are shown, where they lie."""
        rows = self.rows(k)
        with self._lock:
            names, codes = self.micrographs
        counts = np.bincount(codes[rows], minlength=len(names)) if len(names) else np.empty(0)
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] > 0]
        found = self.table.alignment
        posterior = None if found is None else found.class_posterior
        shown = self.sample(rows)
        return {
            "members": len(rows),
            "shown": len(shown),
            "posteriors": [] if posterior is None else posterior[shown].round(3).tolist(),
            "why_not": self.why_not,
            "micrographs": [
                {"index": i, "name": str(names[i]), "members": int(counts[i])} for i in order
            ],
        }

    @staticmethod
    def sample(rows: np.ndarray) -> np.ndarray:
        """Some of the rows, evenly from the first to the last."""
        count = min(SHOWN, len(rows))
        return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]

    def sheet(self, k: int) -> Sheet | None:
        """Some members in the frame of their class: above as recorded, below filtered.

        Returns:
            The sheet, one column per particle; None where there are no images.
        """
        rows = self.sample(self.rows(k))
        if self.why_not or not len(rows):
            return None
        table, recording = self.table, self.recording
        chunks = list(iterate(table, rows=rows, int8_signed=recording.int8_signed, threads=2))
        # as the table has them, not as they lie on the disk; unreadable ones stay blank
        place = {int(row): i for i, row in enumerate(rows)}
        raw = np.zeros((len(rows), *chunks[0].images.shape[1:]), np.float32)
        for chunk in chunks:
            raw[[place[int(row)] for row in chunk.rows]] = chunk.images
        images = normalised(raw, PARTICLE, -1.0 if recording.invert else 1.0)
        pixel = table.pixel_size[rows] * raw.shape[-1] / images.shape[-1]
        found = table.alignment
        assert found is not None
        psi = np.zeros(len(rows)) if found.psi is None else found.psi[rows]
        shift = (
            np.zeros((len(rows), 2)) if found.shift is None else found.shift[rows] / pixel[:, None]
        )
        ctf = None if table.ctf is None else ctf_params(table.ctf.take(rows), len(rows))
        clean = filtered(images, ctf, float(pixel[0]), recording.ctf)
        levels = [member_levels(aligned(part, psi, shift)) for part in (images, clean)]
        png = sheet_png(np.concatenate(levels), PARTICLE, len(rows))
        return Sheet(png, PARTICLE, len(rows), images.shape[-1])

    def picks(self, k: int, micrograph: int) -> dict[str, Any] | None:
        """Where the particles of a micrograph were picked, and which of them are members.

        Args:
            k: 0-based class.
            micrograph: index into ``micrographs``.

        Returns:
            Coordinates in micrograph pixels, rows downwards; None for no such micrograph.
        """
        rows = self.rows(k)
        names, codes = self.micrographs
        place = self.table.locations
        if place is None or not 0 <= micrograph < len(names):
            return None
        there = np.flatnonzero(codes == micrograph)
        x, y = place.x[there], place.y[there]
        height, width = place.shape[there[0]].tolist()
        edge = self.table.box[self.table.optics[there[0]]] * self.table.pixel_size[there[0]]
        side = edge / place.pixel_size[there[0]]
        side = float(side) if np.isfinite(side) else 0.0
        return {
            "x": x.round(1).tolist(),
            "y": y.round(1).tolist(),
            "member": np.isin(there, rows).tolist(),
            # the picks say how large a micrograph of unknown size is at least
            "width": width or float(x.max() + max(side / 2, 1)),
            "height": height or float(y.max() + max(side / 2, 1)),
            "box": side,
        }
