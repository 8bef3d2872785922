"""A particle stack with its metadata and its truth, simulated."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from cryo2d.io.atomic import atomic_write
from cryo2d.io.mrc import write_stack
from cryo2d.physics.ctf import ctf_at
from cryo2d.simulate.filaments import lay_tubes, lying_rotations, tubes, upright_views
from cryo2d.simulate.fold import random_rotations
from cryo2d.simulate.ice import noise_power, normalise, ramp
from cryo2d.simulate.micelle import with_belts
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.phantom import Phantom, project
from cryo2d.simulate.recipe import Recipe
from cryo2d.simulate.scene import (
    Instances,
    Kind,
    Poses,
    distinct_views,
    pick_coordinates,
    place_particles,
    populate,
)
from cryo2d.simulate.surroundings import SURROUNDED, with_surroundings
from cryo2d.types import CtfParams

_CHUNK = 256
_SNR_SAMPLE = 256


@dataclass(frozen=True)
class Optics:
    """The microscope's side of every particle: group ``[n]``, CTF, haze of the noise ``[n]``."""

    group: NDArray[np.int64]
    ctf: CtfParams
    haze: Tensor


@dataclass(frozen=True)
class Layout:
    """What lies where.

    Attributes:
        phantoms: the molecules.
        views: fixed views of each ``[species views 3 3]``, None for every direction.
        poses: of the particles.
        micrograph: number ``[n]``.
        centre: of the boxes on the micrographs (pixel) ``[n 2]``.
        neighbour_turns: draws rotations of neighbours.
        columns: further columns of the star, by label without rln.
    """

    phantoms: list[Phantom]
    views: NDArray[np.float64] | None
    poses: Poses
    micrograph: NDArray[np.int64]
    centre: NDArray[Any]
    neighbour_turns: Callable[[Generator, int], NDArray[np.float64]] = random_rotations
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def simulate(out_dir: Path, **settings: Any) -> Path:
    """Writes particles.mrcs, particles.star and truth.npz.

    Image = normalise(gain * scale * CTF * shift(project(rotate(molecule))) + noise + background),
    protein white, formed in a box half as large again and cropped, so that nothing wraps round.

    Args:
        out_dir: folder, made where it is missing.
        **settings: fields of ``Recipe``.

    Returns:
        Path of particles.star.

    Raises:
        InputError: for settings out of range.
        TypeError: for settings that do not exist.
        EnvironmentFault: if the files cannot be written.
    """
    recipe = Recipe(**settings)
    rng = np.random.default_rng(recipe.seed)
    layout = _tubes(recipe, rng) if recipe.num_tubes else _molecules(recipe, rng)
    poses, phantoms = layout.poses, layout.phantoms
    optics = _optics(recipe, layout.micrograph, rng)
    instances = populate(
        poses, phantoms, recipe.box, recipe.neighbours, rng, turns=layout.neighbour_turns
    )
    if recipe.crowding or set(recipe.kinds) & SURROUNDED:
        instances = with_surroundings(
            instances,
            poses,
            phantoms,
            recipe.crowding,
            _canvas(recipe.box),
            recipe.pixel_size,
            rng,
        )
    if recipe.micelle:
        instances = with_belts(instances, poses, phantoms, recipe.micelle, rng)
    gain = signal_gain(recipe, poses, phantoms, optics.ctf)
    images = _render(recipe, instances, optics, gain)
    mode = 12 if recipe.float16 else 2
    write_stack(out_dir / "particles.mrcs", images, recipe.pixel_size, mode=mode)
    with atomic_write(out_dir / "truth.npz") as file:
        np.savez_compressed(file, **_truth(recipe, layout, optics, gain))
    star = out_dir / "particles.star"
    with atomic_write(star) as file:
        file.write(_star(recipe, optics, layout).encode("ascii"))
    return star


def _molecules(recipe: Recipe, rng: Generator) -> Layout:
    """Single molecules, two never closer than a box."""
    phantoms = molecules(recipe.species)
    views = None
    if recipe.views is not None:
        views = np.stack([distinct_views(phantom, recipe.views, rng) for phantom in phantoms])
    poses = place_particles(
        recipe.num_particles,
        views,
        len(phantoms),
        recipe.junk_fraction,
        recipe.shift_sigma / recipe.pixel_size,
        recipe.scale_spread,
        rng,
        recipe.kinds,
        recipe.rarest,
    )
    micrograph, centre, _ = pick_coordinates(
        recipe.num_particles, recipe.num_micrographs, recipe.box, rng
    )
    return Layout(phantoms, views, poses, micrograph, centre)


def _tubes(recipe: Recipe, rng: Generator) -> Layout:
    """Helical tubes, each picked from end to end."""
    segments = lay_tubes(
        recipe.num_particles,
        recipe.num_tubes,
        step=recipe.tube_step,
        pixel_size=recipe.pixel_size,
        box=recipe.box,
        num_micrographs=recipe.num_micrographs,
        junk_fraction=recipe.junk_fraction,
        shift_sigma=recipe.shift_sigma,
        scale_spread=recipe.scale_spread,
        rng=rng,
    )
    # a tube leaves the canvas on both sides at any angle
    diagonal = math.sqrt(2.0) * _canvas(recipe.box) * recipe.pixel_size
    columns = {
        "HelicalTubeID": segments.tube,
        "HelicalTrackLengthAngst": segments.track,
        "AngleTiltPrior": np.full(recipe.num_particles, 90.0),
        "AnglePsiPrior": segments.psi_prior,
        "AnglePsiFlipRatio": np.full(recipe.num_particles, 0.5),
    }
    return Layout(
        phantoms=tubes(recipe.num_tubes, diagonal + 6.0 * recipe.shift_sigma),
        views=upright_views(recipe.num_tubes),
        poses=segments.poses,
        micrograph=segments.micrograph,
        centre=segments.centre,
        neighbour_turns=lying_rotations,
        columns=columns,
    )


def _optics(recipe: Recipe, micrograph: NDArray[np.int64], rng: Generator) -> Optics:
    """Defocus and astigmatism of each micrograph, the rest of each optics group, per particle."""
    count = recipe.num_micrographs
    defocus = rng.uniform(recipe.defocus_min, recipe.defocus_max, count)
    difference = np.abs(rng.normal(0.0, recipe.astigmatism, count))
    angle = rng.uniform(-0.5 * math.pi, 0.5 * math.pi, count)
    group = np.arange(count) % recipe.num_optics_groups

    def column(values: NDArray[Any] | float) -> Tensor:
        per_micrograph = np.broadcast_to(np.asarray(values, dtype=np.float32), (count,))
        return torch.from_numpy(per_micrograph[micrograph].copy())

    ctf = CtfParams(
        defocus_u=column(defocus + 0.5 * difference),
        defocus_v=column(defocus - 0.5 * difference),
        defocus_angle=column(angle),
        voltage=column(recipe.voltage),
        spherical_aberration=column(recipe.cs * 1e7),
        amplitude_contrast=column(recipe.amplitude_contrast),
        phase_shift=column(math.radians(recipe.phase_shift)),
        b_factor=column(recipe.b_factor * (1.0 + 0.4 * group)),
    )
    return Optics(group[micrograph], ctf, column(1.0 + 0.5 * group))


def _frequencies(box: int, pixel_size: float) -> tuple[Tensor, Tensor]:
    """All frequencies of a box (1/Angstrom), x and y, each ``[y x]``."""
    axis = torch.fft.fftfreq(box, pixel_size)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    return fx, fy


def signal_gain(recipe: Recipe, poses: Poses, phantoms: list[Phantom], ctf: CtfParams) -> float:
    """Contrast that gives the particles the signal-to-noise ratio of the recipe.

    SNR is the variance of CTF * projection over the noise's (1), both inside a circle of the
    molecule's diameter about the molecule's centre, the mean over 256 good particles or more. One
    gain for all molecules, as in a microscope: larger ones have the higher ratio.
    """
    rows = np.nonzero(poses.kind == Kind.GOOD)[0]
    rows = rows[:: max(1, len(rows) // _SNR_SAMPLE)]  # of every micrograph
    canvas = _canvas(recipe.box)
    fx, fy = _frequencies(canvas, recipe.pixel_size)
    axis = torch.arange(canvas) - canvas // 2
    variances = []
    for species, phantom in enumerate(phantoms):
        own = rows[poses.species[rows] == species]
        for chunk in np.array_split(own, math.ceil(len(own) / _CHUNK)) if len(own) else []:
            turns, shift = (
                torch.from_numpy(values[chunk]).float() for values in (poses.rotation, poses.shift)
            )
            images = project(phantom, turns, shift, canvas, recipe.pixel_size)
            images *= torch.from_numpy(poses.scale[chunk]).float()[:, None, None]
            filtered = torch.fft.fft2(images) * ctf_at(ctf[torch.from_numpy(chunk)], fx, fy)
            images = torch.fft.ifft2(filtered).real
            x, y = (axis - shift[:, i, None] for i in (0, 1))
            distance = torch.hypot(x[:, None, :], y[:, :, None]) * recipe.pixel_size
            inside = (distance <= 0.5 * phantom.diameter).float()
            area = inside.sum((1, 2))
            mean = (images * inside).sum((1, 2)) / area
            variances.append((images.square() * inside).sum((1, 2)) / area - mean.square())
    return math.sqrt(recipe.snr / float(torch.cat(variances).mean())) if variances else 1.0


def _canvas(box: int) -> int:
    """The box that images are formed in before they are cropped (pixel)."""
    return box + 2 * (box // 4)


def _render(recipe: Recipe, instances: Instances, optics: Optics, gain: float) -> NDArray[Any]:
    """The particle images ``[n y x]``, float32 or float16."""
    generator = torch.Generator().manual_seed(recipe.seed)
    canvas, box = _canvas(recipe.box), recipe.box
    fx, fy = _frequencies(canvas, recipe.pixel_size)
    half, inside = slice(0, canvas // 2 + 1), slice(canvas // 2 - box // 2, canvas // 2 + box // 2)
    kind = np.float16 if recipe.float16 else np.float32
    images = np.empty((recipe.num_particles, box, box), dtype=kind)
    for first in range(0, recipe.num_particles, _CHUNK):
        last = min(first + _CHUNK, recipe.num_particles)
        ctf = ctf_at(optics.ctf[first:last], fx, fy)
        power = noise_power(fx, fy, ctf, recipe.pixel_size, optics.haze[first:last])
        signal = gain * instances.draw(first, last, canvas, recipe.pixel_size)
        white = torch.randn(last - first, canvas, canvas, generator=generator)
        spectrum = torch.fft.rfft2(signal) * ctf[..., half]
        spectrum += torch.fft.rfft2(white) * power[..., half].sqrt()
        field = torch.fft.irfft2(spectrum, s=(canvas, canvas))[:, inside, inside]
        field = field + ramp(last - first, box, recipe.gradient, generator)
        images[first:last] = normalise(field).numpy()
    return images


def _truth(recipe: Recipe, layout: Layout, optics: Optics, gain: float) -> dict[str, Any]:
    """What a result is scored against: pixels and degrees, rows as in the stack.

    ``R`` turns the molecule into the image, which is then moved by ``shift`` pixels; ``psi`` is the
    rlnAnglePsi that turns the image back into its view; ``clean_scale`` times ``scale`` times
    ``clean_views``, turned, moved and under the CTF, is the signal before normalisation.
    """
    angle = torch.rad2deg(optics.ctf.defocus_angle)
    poses, phantoms, views = layout.poses, layout.phantoms, layout.views
    truth = {
        "species": poses.species,
        "view": poses.view,
        "R": poses.rotation.astype(np.float32),
        "shift": poses.shift,
        "kind": poses.kind,
        "scale": poses.scale,
        "psi": np.degrees(poses.psi),
        "defocus": torch.stack([optics.ctf.defocus_u, optics.ctf.defocus_v, angle], 1).numpy(),
        "names": np.array([phantom.name for phantom in phantoms]),
        "apix": np.float64(recipe.pixel_size),
        "box": np.int64(recipe.box),
        "clean_scale": np.float64(gain),
    }
    if views is not None:
        clean = [
            project(phantom, torch.from_numpy(turns), None, recipe.box, recipe.pixel_size)
            for phantom, turns in zip(phantoms, views, strict=True)
        ]
        truth["clean_views"] = torch.cat(clean).numpy()
    return truth


def _star(recipe: Recipe, optics: Optics, layout: Layout) -> str:
    """RELION 3.1 particles.star."""
    groups = [
        f"{g + 1} group{g + 1} {recipe.amplitude_contrast:.4f} {recipe.cs:.4f} "
        f"{recipe.voltage:.3f} {recipe.pixel_size:.6f} {recipe.box} 2 {recipe.pixel_size:.6f}"
        for g in range(recipe.num_optics_groups)
    ]
    ctf = optics.ctf
    columns = zip(
        layout.micrograph.tolist(),
        layout.centre.tolist(),
        ctf.defocus_u.tolist(),
        ctf.defocus_v.tolist(),
        torch.rad2deg(ctf.defocus_angle).tolist(),
        torch.rad2deg(ctf.phase_shift).tolist(),
        ctf.b_factor.tolist(),
        optics.group.tolist(),
        strict=True,
    )
    rows = [
        f"{i + 1:06d}@particles.mrcs mic{m:05d}.mrc {xy[0]:.3f} {xy[1]:.3f} "
        f"{u:.2f} {v:.2f} {angle:.4f} {phase:.4f} {b:.2f} {group + 1}"
        for i, (m, xy, u, v, angle, phase, b, group) in enumerate(columns)
    ]
    for values in layout.columns.values():
        kind = "d" if values.dtype.kind == "i" else ".4f"
        rows = [f"{row} {value:{kind}}" for row, value in zip(rows, values, strict=True)]
    group_labels = (
        "OpticsGroup OpticsGroupName AmplitudeContrast SphericalAberration Voltage "
        "ImagePixelSize ImageSize ImageDimensionality MicrographPixelSize"
    )
    labels = (
        "ImageName MicrographName CoordinateX CoordinateY DefocusU DefocusV DefocusAngle "
        "PhaseShift CtfBfactor OpticsGroup"
    )
    labels = " ".join([labels, *layout.columns])
    return _block("optics", group_labels, groups) + _block("particles", labels, rows)


def _block(name: str, labels: str, rows: list[str]) -> str:
    header = [f"_rln{label} #{i + 1}" for i, label in enumerate(labels.split())]
    return "\n".join(
        ["", "# version 30001", "", f"data_{name}", "", "loop_", *header, *rows, "", ""]
    )
