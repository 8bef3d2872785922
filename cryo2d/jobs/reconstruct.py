"""Job ``reconstruct``: class averages from given classes, poses and shifts, at any size."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from cryo2d.data.outcome import extended
from cryo2d.data.sampler import half_sets
from cryo2d.em.solve import Recenter
from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.geometry.transform import rotate_vector
from cryo2d.io.averages import ClassAverages, Rings
from cryo2d.io.particles import AlignmentColumns, ParticleTable
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.source import Source, class_count, read_source
from cryo2d.physics.preprocess import TRANSFER, Preprocessor
from cryo2d.training.assembly import Frame
from cryo2d.training.drawing.classes import ClassTable, number
from cryo2d.training.drawing.curves import draw_frc
from cryo2d.training.drawing.gallery import FRC, Picture
from cryo2d.training.drawing.montage import ANGSTROM, draw_montage
from cryo2d.training.drawing.report import Flow, class_table
from cryo2d.training.drawing.similarity import similarity_order
from cryo2d.training.drawing.style import image_png
from cryo2d.training.reconstruction import Reconstruction, Reconstructor

log = logging.getLogger(__name__)

MONTAGE = (
    "Below each average: particles and class number; resolution where the half-set FRC falls "
    "below 0.143 and mean effective number of classes of its particles."
)
GIGABYTE = 1e9


FINEST = 4  # pixels of the averages to one of the images, along a side, at most


@dataclass(frozen=True)
class Scale:
    """Sizes of the averages.

    Attributes:
        field: pixels along the whole field of view of the images.
        box: pixels of the averages.
        pixel_size: of both (Angstrom).
    """

    field: int
    box: int
    pixel_size: float

    def fitted(self, images: Tensor) -> Tensor:
        """Images ``[... y x]`` of the field cut to the box, or padded with 0, about the centre."""
        before = self.box // 2 - self.field // 2
        after = self.box - self.field - before
        return torch.nn.functional.pad(images, (before, after, before, after))


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Average the particles of each class from the raw images.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Median resolution of the classes at FRC 0.143 (Angstrom), for sweeps.

    Raises:
        InputError: for anything wrong with the particles, or sizes that do not fit.
        EnvironmentFault: if the device is missing.
    """
    threads = cfg.hardware.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    source = read_source(cfg, require_stacks=True)
    transfer = source.inherited(cfg.model.ctf, "model.ctf", "full")
    check_ctf(source, transfer)
    source.alignment("class_index", "psi", "shift")
    scale = scale_of(cfg, source.table)
    frame = frame_of(cfg, source, scale)
    half = halves_of(source, cfg.seed)
    found = source.table.alignment
    assert found is not None
    assert found.class_index is not None
    reconstructor = Reconstructor(
        frame,
        preprocessor_of(cfg, source, frame),
        TRANSFER[transfer],
        recenter=Recenter(max_step=frame.box / 4) if cfg.model.recenter else None,
        device=device_of(cfg.hardware.device),
        threads=threads,
        int8_signed=cfg.data.int8_signed,
        memory=cfg.hardware.memory * GIGABYTE,
    )
    made, bad = reconstructor(source.table, half, class_count(found.class_index))
    return deliver(run_dir, source, half, frame, scale, made, bad)


def check_ctf(source: Source, transfer: str) -> None:
    """Refuse particles without CTF unless none is corrected.

    Raises:
        InputError: if so.
    """
    if transfer != "none" and source.table.ctf is None:
        action = "give the file that has them (data.passthrough for a .cs), or set model.ctf=none"
        raise InputError([Problem(source.table.source, "no CTF", "CTF parameters", action)])


def scale_of(cfg: DictConfig, table: ParticleTable) -> Scale:
    """Sizes of the averages.

    Raises:
        InputError: for a pixel more than four times finer than that of the images, or a box that
            holds nothing.
    """
    raw_box, raw_pixel = int(table.box[0]), float(table.pixel_size[0])
    wanted, box = cfg.average.pixel_size, cfg.average.box
    field = raw_box if wanted is None else 2 * round(raw_box * raw_pixel / wanted / 2)
    if field > FINEST * raw_box or field < 16:
        least, most = raw_pixel / FINEST, raw_box * raw_pixel / 16
        expected = f"{least:.4g} to {most:.4g} A, as the images allow"
        found = f"average.pixel_size={wanted}"
        raise InputError([Problem("command line", found, expected, "change it")])
    return Scale(field, field if box is None else box, raw_pixel * raw_box / field)


def frame_of(cfg: DictConfig, source: Source, scale: Scale) -> Frame:
    """Field of view, rings up to Nyquist and mask.

    Raises:
        InputError: if the mask does not fit into the averages.
    """
    given, model = source.inherited, cfg.model
    mask = given(model.mask_diameter, "model.mask_diameter", None)
    outer = model.mask_diameter_outer
    if model.mask_diameter is None:
        outer = given(outer, "model.mask_diameter_outer", None)
    length = min(scale.field, scale.box) * scale.pixel_size
    if mask is not None and mask > length:
        expected = f"at most the box of the averages, {length:.0f} A"
        raise InputError(
            [Problem("command line", f"model.mask_diameter={mask}", expected, "change it")]
        )
    return Frame(
        box=scale.field,
        pixel_size=scale.pixel_size,
        # smaller pixels than those of the images show no more than these
        max_resolution=2 * max(scale.pixel_size, float(source.table.pixel_size[0])),
        mask_diameter=mask,
        mask_diameter_outer=outer,
        remove_neighbours=given(model.remove_neighbours, "model.remove_neighbours", True),
    )


def preprocessor_of(cfg: DictConfig, source: Source, frame: Frame) -> Preprocessor:
    """Raw boxes to polar samples, as the run has done it."""
    return Preprocessor(
        frame.grid,
        int(source.table.box[0]),
        window=source.inherited(None, "data.window", True),
        window_inner=source.inherited(None, "data.window_inner", 0.85),
        window_outer=source.inherited(None, "data.window_outer", 0.99),
        invert=source.inherited(cfg.data.invert, "data.invert", False),
        ignore_dc=source.inherited(None, "data.ignore_dc", False),
        remove_ramp=source.inherited(None, "data.remove_ramp", True),
    )


def halves_of(source: Source, seed: int) -> np.ndarray:
    """Half-set of every particle ``[n]``: the file's, or random ones where it has no two."""
    found = source.table.alignment
    half = None if found is None else found.half
    if half is not None and set(np.unique(half).tolist()) == {0, 1}:
        return half
    return half_sets(len(source.table), seed).numpy()


def device_of(name: str) -> torch.device:
    """The device asked for.

    Raises:
        EnvironmentFault: if it is missing.
    """
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise EnvironmentFault("hardware.device=cuda, but no GPU is visible")
    return torch.device("cuda" if present and name != "cpu" else "cpu")


def deliver(
    run_dir: Path,
    source: Source,
    half: np.ndarray,
    frame: Frame,
    scale: Scale,
    made: Reconstruction,
    bad: dict[int, str],
) -> float:
    """Write everything; the median resolution."""
    rows = np.array(sorted(bad), dtype=np.int64)
    used = np.setdiff1d(np.arange(len(source.table)), rows)
    excluded = extended(source.excluded, source.table.take(rows), [bad[int(r)] for r in rows])
    frequency = frame.grid.radii / frame.length
    classes = classes_of(source.table.take(used), made, frequency)
    out = Delivery(run_dir, source.table.source)
    moved = moved_particles(source.table, half, made.moved, frame.pixel_size).take(used)
    out.particles(moved, averages="class_averages.mrcs")
    out.excluded(excluded)
    averages = averages_of(made, classes, frequency, scale)
    out.averages(averages)
    for i, images in enumerate(made.halves, start=1):
        name = f"class_averages_half{i}.mrcs"
        out.stack(name, scale.fitted(images).numpy(), scale.pixel_size)
    out.stack("masks.mrcs", scale.fitted(made.masks).numpy(), scale.pixel_size)
    draw(out, averages, classes, frame)
    flow = Flow(source.total, {"averaged": len(used), "excluded": len(excluded.table)})
    known = classes.resolution[np.isfinite(classes.resolution)]
    median = float(np.median(known)) if len(known) else np.nan
    headline = {
        "particles": f"{len(used):,}",
        "classes": f"{(~classes.empty).sum()} of {len(classes)}",
        "median resolution": f"{number(median, 1)} {ANGSTROM}",
        "best resolution": f"{number(known.min(initial=np.inf), 1)} {ANGSTROM}",
        "box": f"{scale.box} px",
        "pixel": f"{scale.pixel_size:.3f} {ANGSTROM}",
    }
    facts = {"box": scale.box, "pixel_size": scale.pixel_size, "classes": len(classes)}
    radius = frame.mask_radii[0]
    table = class_table(averages.images, classes, classes.by_count(), radius)
    out.close("Reconstructed class averages", flow, headline, facts=facts, tables=[table])
    log.info("%s\n%s", classes.text(), run_dir / "report.html")
    return median


def averages_of(
    made: Reconstruction, classes: ClassTable, frequency: Tensor, scale: Scale
) -> ClassAverages:
    """The averages with their numbers and ring correlations, ready to be written."""
    columns = {
        "count": classes.count,
        # RELION too writes inf where a class has no resolution
        "resolution": np.nan_to_num(classes.resolution, nan=np.inf),
        "resolution_half": np.nan_to_num(classes.resolution_half, nan=np.inf),
        "ess": classes.ess,
        "posterior": classes.posterior,
    }
    rings = Rings(made.frc.double().numpy(), frequency.double().numpy())
    return ClassAverages(scale.fitted(made.averages).numpy(), scale.pixel_size, columns, rings)


def draw(out: Delivery, averages: ClassAverages, classes: ClassTable, frame: Frame) -> None:
    """The class averages and their ring correlation."""
    radius, pixel = frame.mask_radii[0], averages.pixel_size
    montage = draw_montage(
        averages.images,
        classes,
        pixel_size=pixel,
        title=f"{(~classes.empty).sum()} class averages of {classes.count.sum():,} particles",
        subtitle=f"box {averages.images.shape[-1]} px   pixel {pixel:.2f} {ANGSTROM}",
        order=similarity_order(averages.images, classes.count, radius),
        mask_diameter=2 * radius * pixel,
        tile=min(256, max(144, averages.images.shape[-1])),
    )
    out.picture(Picture("Class averages", image_png(montage), MONTAGE, "classes.png", 1.0))
    assert averages.rings is not None
    curves = draw_frc(averages.rings.frc, averages.rings.frequency, classes)
    out.picture(Picture("Ring correlation", curves, FRC, "frc.png"))


def classes_of(table: ParticleTable, made: Reconstruction, frequency: Tensor) -> ClassTable:
    """The numbers of the classes."""
    found = table.alignment
    assert found is not None
    assert found.class_index is not None
    index, size = found.class_index, len(made.averages)
    count = np.bincount(index, minlength=size)
    gold, half = (
        np.where(count > 0, made.resolution(frequency, limit).double().numpy(), np.nan)
        for limit in (0.143, 0.5)
    )

    def mean(values: np.ndarray | None) -> np.ndarray:
        total = np.full(size, np.nan)
        if values is not None:
            total = np.bincount(index, weights=values, minlength=size)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return ClassTable(count, gold, half, mean(found.class_ess), mean(found.class_posterior))


def moved_particles(
    table: ParticleTable, half: np.ndarray, moved: Tensor, pixel_size: float
) -> ParticleTable:
    """The particles with the shifts that lead to centred averages: t + R(-psi) d.

    Args:
        table: particles with class and pose.
        half: half-sets used ``[n]``.
        moved: d, shift of each average ``[k 2]`` (pixel).
        pixel_size: Angstrom.
    """
    found = table.alignment
    assert found is not None
    return table.with_alignment(replace(shifted(found, moved, pixel_size), half=half))


def shifted(found: AlignmentColumns, moved: Tensor, pixel_size: float) -> AlignmentColumns:
    """Poses that put each particle where its class has moved to."""
    assert found.class_index is not None
    assert found.psi is not None
    assert found.shift is not None
    step = moved.double()[torch.from_numpy(found.class_index)] * pixel_size
    return replace(
        found, shift=found.shift + rotate_vector(step, -torch.from_numpy(found.psi)).numpy()
    )
