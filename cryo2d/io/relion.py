"""RELION star files (1.x to 5) as particle tables.

Since 3.1 the microscope's constants stand in an optics block; before, in every row. The pixel size
is ``rlnImagePixelSize``, else ``rlnPixelSize``, else detector pixel size over magnification.
Degrees, pixels and millimetres become radian and Angstrom; class and half-set count from 0.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.io.carried import carried_layout
from cryo2d.io.checks import Draft, ctf_problem, select_ctf
from cryo2d.io.columns import CS_PREFIX, StarColumns
from cryo2d.io.cryosparc import check_layout
from cryo2d.io.loop import StarLoop, read_loop
from cryo2d.io.star import StarBlock, find_blocks, is_perhaps_cut, read_header, read_text
from cryo2d.io.table import AlignmentColumns, CtfColumns, Locations, ParticleTable

log = logging.getLogger(__name__)

IMAGE = "rlnImageName"
GROUP = "rlnOpticsGroup"
MICROGRAPH = "rlnMicrographName"
CTF_LABELS = {
    "defocus_u": ("rlnDefocusU", 1.0),
    "defocus_v": ("rlnDefocusV", 1.0),
    "defocus_angle": ("rlnDefocusAngle", np.pi / 180),
    "voltage": ("rlnVoltage", 1.0),
    "spherical_aberration": ("rlnSphericalAberration", 1e7),
    "amplitude_contrast": ("rlnAmplitudeContrast", 1.0),
    "phase_shift": ("rlnPhaseShift", np.pi / 180),
    "b_factor": ("rlnCtfBfactor", 1.0),
}
"""CTF quantity: label, and factor from RELION's unit to ours."""

OPTIONAL_CTF = {"phase_shift", "b_factor"}
RESULT_LABELS = {
    "class_ess": "cryo2dClassEss",
    "pose_ess": "cryo2dPoseEss",
    "shift_ess": "cryo2dShiftEss",
    "error": "cryo2dError",
    "image_pow": "cryo2dImagePow",
    "cross_cor": "cryo2dCrossCor",
    "slice_pow": "cryo2dSlicePow",
    "alpha": "cryo2dAlpha",
    "alpha_min": "cryo2dAlphaMin",
    "outlier": "cryo2dOutlier",
}
"""Results of a run that RELION has no label for."""

SHIFT_LABELS = ("rlnOriginXAngst", "rlnOriginYAngst")
OLD_SHIFT_LABELS = ("rlnOriginX", "rlnOriginY")
SIGN = CS_PREFIX + "blob/sign"
NUMBERS = (
    *(label for label, _ in CTF_LABELS.values()),
    *("rlnImagePixelSize", "rlnPixelSize", "rlnDetectorPixelSize", "rlnMagnification"),
    *("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize"),
    *("rlnImageSize", "rlnImageDimensionality", "rlnCtfDataAreCtfPremultiplied"),
    *("rlnCoordinateX", "rlnCoordinateY", GROUP, "rlnClassNumber", "rlnAnglePsi"),
    *SHIFT_LABELS,
    *OLD_SHIFT_LABELS,
    *("rlnMaxValueProbDistribution", "rlnRandomSubset", SIGN),
    *RESULT_LABELS.values(),
)


class StarReader:
    """The parsed columns of one star file.

    Attributes:
        is_perhaps_cut: whether its last rows may be missing.

    Args:
        path: the file.

    Raises:
        InputError: if it cannot be parsed or has no particle images.
    """

    def __init__(self, path: str | Path) -> None:
        self.source = str(path)
        data = read_text(path)
        blocks = find_blocks(data, self.source)
        labels = {b.name: read_header(data, b, self.source).labels for b in blocks}
        particles = _particle_block(blocks, labels, self.source)
        self.is_perhaps_cut = is_perhaps_cut(data, particles)
        optics = next((b for b in blocks if b.name == "optics" and b != particles), None)
        self.loop = read_loop(
            data, particles, self.source, numbers=NUMBERS, names=[MICROGRAPH], image=IMAGE
        )
        self.optics: StarLoop | None = None
        if optics is not None:
            names = ["rlnOpticsGroupName"]
            self.optics = read_loop(data, optics, self.source, numbers=NUMBERS, names=names)
        others = [b for b in blocks if b not in (particles, optics)]
        self.columns = StarColumns(
            self.loop.rows,
            None if self.optics is None else self.optics.rows,
            tuple(data[b.begin : b.end] for b in others),
        )
        layout = carried_layout(self.columns, self.source)
        if layout is not None:
            check_layout(layout, self.source)
        if not len(self.loop.rows):
            found, action = "no particle rows", "check the export"
            raise InputError([Problem(self.source, found, "particles", action, particles.line)])
        self.problems: list[Problem] = []
        self.group = self._optics_rows()

    def _refuse(
        self, found: str, expected: str, action: str, row: int | None = None, count: int = 1
    ) -> None:
        self.problems.append(Problem(self.source, found, expected, action, row, count))

    def _optics_rows(self) -> np.ndarray | None:
        """Row of the optics block of each particle ``[n]``; None without optics block."""
        if self.optics is None or not len(self.optics.rows):
            return None
        ids = self.optics.numbers.get(GROUP)
        used = self.loop.numbers.get(GROUP)
        if ids is None and len(self.optics.rows) == 1:
            ids = np.ones(1)
        if used is None and len(self.optics.rows) == 1 and ids is not None:
            used = np.full(len(self.loop.rows), ids[0])
        if ids is None or used is None:
            where = "optics block" if ids is None else "particles block"
            action = "export the file again with its optics groups"
            self._refuse(f"no column {GROUP} in the {where}", "optics groups", action)
            return None
        if len(np.unique(ids)) != len(ids):
            self._refuse("an optics group defined twice", "each once", "remove one of them")
        order = np.argsort(ids, kind="stable")
        place = np.searchsorted(ids[order], used).clip(max=len(ids) - 1)
        rows = order[place]
        unknown = np.flatnonzero(ids[rows] != used)
        if len(unknown):
            listed = ", ".join(f"{v:g}" for v in np.unique(used[unknown])[:10])
            found = f"optics group {listed}, which the optics block does not define"
            expected = f"one of {', '.join(f'{v:g}' for v in ids[:20])}"
            line = int(self.loop.line[unknown[0]])
            action = "add the group to the optics block or correct the rows"
            self._refuse(found, expected, action, line, len(unknown))
        return rows

    def value(self, label: str) -> np.ndarray | None:
        """A number per particle ``[n]``, from the optics block if it has it, else from the rows."""
        if self.group is not None and self.optics is not None and label in self.optics.numbers:
            return self.optics.numbers[label][self.group]
        return self.loop.numbers.get(label)

    def draft(self, pixel_size: float | None, require_ctf: bool) -> Draft:
        """The particle table, with the problems found on the way."""
        self._check_kind(require_ctf)
        size, size_column = self._pixel_size(pixel_size)
        names, optics = self._groups(size)
        assert self.loop.image_number is not None
        codes, stacks = self.loop.names["stack"]
        self._check_images()
        count = len(self.loop.rows)
        sign = self.loop.numbers.get(SIGN, np.ones(count))
        table = ParticleTable(
            source=self.source,
            source_row=self.loop.line,
            stacks=stacks,
            stack_names=stacks,
            stack_id=codes,
            image_index=self.loop.image_number - 1,
            optics_names=names,
            box=self._boxes(len(names), optics),
            optics=optics,
            pixel_size=size,
            sign=np.where(sign < 0, -1, 1).astype(np.float32),
            ctf=self._ctf(require_ctf),
            locations=self._locations(),
            alignment=self._alignment(size),
            columns=self.columns,
        )
        columns = {name: label for name, (label, _) in CTF_LABELS.items()}
        return Draft(table, tuple(self.problems), {**columns, "pixel_size": size_column})

    def _check_kind(self, require_ctf: bool) -> None:
        dimension = self.value("rlnImageDimensionality")
        if dimension is not None and (dimension == 3).any():
            action = "give 2D particles, not subtomograms"
            self._refuse("rlnImageDimensionality 3", "2D images", action)
        multiplied = self.value("rlnCtfDataAreCtfPremultiplied")
        if require_ctf and multiplied is not None and (multiplied > 0).any():
            action = "extract the particles without CTF pre-multiplication"
            expected = "particles as recorded, since the CTF is applied here"
            self._refuse("rlnCtfDataAreCtfPremultiplied 1", expected, action)

    def _check_images(self) -> None:
        number = self.loop.image_number
        assert number is not None
        wrong = np.flatnonzero(number < 1)
        if len(wrong):
            first = wrong[:1]
            name = self.loop.rows.take(first).column(IMAGE)[0].decode(errors="replace")
            expected = "NUMBER@STACK with numbers from 1, such as 000001@particles.mrcs"
            line = int(self.loop.line[first[0]])
            action = "correct the image names"
            self._refuse(f"image name {name[:80]!r}", expected, action, line, len(wrong))

    def _pixel_size(self, given: float | None) -> tuple[np.ndarray, str]:
        count = len(self.loop.rows)
        if given is not None:
            return np.full(count, float(given)), "the pixel size given"
        for label in ("rlnImagePixelSize", "rlnPixelSize"):
            size = self.value(label)
            if size is not None:
                return np.array(size), label
        detector, magnification = self.value("rlnDetectorPixelSize"), self.value("rlnMagnification")
        if detector is not None and magnification is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                size = detector * 1e4 / magnification
            return size, "rlnDetectorPixelSize / rlnMagnification"
        expected = "rlnImagePixelSize, or rlnDetectorPixelSize and rlnMagnification"
        self._refuse("no pixel size", expected, "add the column or give data.pixel_size")
        return np.ones(count), "the pixel size"

    def _groups(self, size: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """Names of the groups in use, and the group of each particle ``[n]``."""
        if self.group is not None and self.optics is not None:
            counts = np.bincount(self.group, minlength=len(self.optics.rows))
            used = np.flatnonzero(counts)
            optics = (np.cumsum(counts > 0) - 1)[self.group]
            if "rlnOpticsGroupName" in self.optics.names:
                codes, texts = self.optics.names["rlnOpticsGroupName"]
                return tuple(texts[codes[row]] for row in used), optics.astype(np.int32)
            return tuple(f"opticsGroup{row + 1}" for row in used), optics.astype(np.int32)
        constants = [self.value(CTF_LABELS[name][0]) for name in _MICROSCOPE]
        columns = [size, *(c for c in constants if c is not None)]
        keys = np.stack([c.view(np.int64) for c in map(np.ascontiguousarray, columns)], axis=1)
        change = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1)))
        _, first, codes = np.unique(keys[change], axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        lengths = np.diff(np.append(change, len(keys)))
        optics = np.repeat(rank[codes.ravel()], lengths[: len(codes)]).astype(np.int32)
        return tuple(f"opticsGroup{g + 1}" for g in range(len(first))), optics[: len(keys)]

    def _boxes(self, groups: int, optics: np.ndarray) -> np.ndarray:
        box = np.zeros(groups, np.int64)
        size = self.value("rlnImageSize")
        if size is not None:
            box[optics] = np.nan_to_num(size).clip(0, 1 << 20).astype(np.int64)
        return box

    def _ctf(self, required: bool) -> CtfColumns | None:
        values: dict[str, np.ndarray | None] = {}
        missing = []
        for name, (label, factor) in CTF_LABELS.items():
            raw = self.value(label)
            if raw is None and name in OPTIONAL_CTF:
                raw = np.zeros(len(self.loop.rows))
            if raw is None:
                missing.append(label)
            values[name] = raw if raw is None or factor == 1 else raw * factor
        if missing and required:
            self.problems.append(ctf_problem(self.source, missing))
        return select_ctf(values)

    def _locations(self) -> Locations | None:
        x, y = self.loop.numbers.get("rlnCoordinateX"), self.loop.numbers.get("rlnCoordinateY")
        if x is None or y is None or MICROGRAPH not in self.loop.names:
            return None
        codes, texts = self.loop.names[MICROGRAPH]
        size = self.value("rlnMicrographPixelSize")
        if size is None:
            size = self.value("rlnMicrographOriginalPixelSize")
        unknown = np.full(len(x), np.nan)
        size = unknown if size is None else np.where(size > 0, size, np.nan)
        micrograph = np.array([*texts, None], dtype=object)[codes]
        return Locations(micrograph, x, y, size, np.zeros((len(x), 2), np.int64))

    def _alignment(self, pixel_size: np.ndarray) -> AlignmentColumns | None:
        get = self.loop.numbers.get
        psi = get("rlnAnglePsi")
        shift = _pair(get, SHIFT_LABELS)
        old = _pair(get, OLD_SHIFT_LABELS)
        if shift is None and old is not None:
            shift = old * pixel_size[:, None]
        found = AlignmentColumns(
            class_index=_whole(get("rlnClassNumber")),
            psi=None if psi is None else np.radians(psi),
            shift=shift,
            half=_whole(get("rlnRandomSubset")),
            class_posterior=get("rlnMaxValueProbDistribution"),
            **{name: get(label) for name, label in RESULT_LABELS.items()},
        )
        empty = all(value is None for value in vars(found).values())
        return None if empty else found


_MICROSCOPE = ("voltage", "spherical_aberration", "amplitude_contrast")


def _particle_block(
    blocks: Sequence[StarBlock], labels: dict[str, tuple[str, ...]], file: str
) -> StarBlock:
    """The block that names the images; ``particles`` first if several do."""
    having = [b for b in blocks if IMAGE in labels[b.name]]
    if not having:
        listed = "; ".join(f"data_{b.name}: {', '.join(labels[b.name][:6])}" for b in blocks[:4])
        found = f"no column {IMAGE} ({listed})"
        action = "give the star file of the particles, not of micrographs, coordinates or classes"
        raise InputError([Problem(file, found, "a particle star file of RELION", action)])
    usual = ("particles", "images")
    return next((b for name in usual for b in having if b.name == name), having[0])


def _pair(get: Callable[[str], np.ndarray | None], labels: tuple[str, str]) -> np.ndarray | None:
    x, y = (get(label) for label in labels)
    return None if x is None or y is None else np.stack([x, y], axis=1)


def _whole(numbers: np.ndarray | None) -> np.ndarray | None:
    """Numbers from 1 as indices from 0; None where some are no counts."""
    if numbers is None or not np.isfinite(numbers).all():
        return None
    return numbers.astype(np.int64) - 1
