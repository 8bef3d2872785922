"""The class averages that a classification starts from."""

import math

import numpy as np
import torch
from torch import Tensor

from cryo2d.data.cache import ParticleSource
from cryo2d.em.given import KeepPoses
from cryo2d.em.seed import add_random, low_passed_averages
from cryo2d.em.stats import SufficientStats
from cryo2d.errors import InputError, Problem
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.io.mrc import read_header, read_images
from cryo2d.physics.preprocess import Transfer, weigh
from cryo2d.training.assembly import Frame

SAME_LENGTH = 0.02  # boxes whose sides differ by less than this part show the same field


def random_references(
    cache: ParticleSource,
    frame: Frame,
    rows: Tensor,
    *,
    num_classes: int,
    noise: Tensor,
    transfer: Transfer,
    scale: float,
    batch_size: int,
    generator: torch.Generator,
    known: KeepPoses | None = None,
) -> Tensor:
    """First averages ``[k y x]``: random subsets at random rotations, low-passed.

    Args:
        cache: particles.
        frame: sizes.
        rows: particles to use ``[n]``.
        num_classes: number of averages.
        noise: noise power ``[g s]``.
        transfer: transfer function.
        scale: contrast of the averages.
        batch_size: particles handled at once.
        generator: random numbers.
        known: poses of the particles, if they are not to be random.
    """
    grid, device = frame.grid, cache.device
    stats = SufficientStats.zeros(grid, num_classes, len(noise), device)
    for start in range(0, len(rows), batch_size):
        batch = cache.batch(rows[start : start + batch_size])
        images = weigh(
            batch, grid, pixel_size=frame.pixel_size, noise=noise.to(device), transfer=transfer
        )
        add_random(stats, grid, images, generator, known.of(images) if known else None)
    return low_passed_averages(
        stats, grid, frame.solvent, rings=frame.first_rings, scale=scale
    ).cpu()


def given_references(path: str, frame: Frame, num_classes: int, raw_box: int) -> Tensor:
    """Class averages of a stack, in the working box ``[k y x]``.

    They may have any number of pixels as long as they show as many Angstrom as the particles.

    Args:
        path: the stack.
        frame: sizes.
        num_classes: averages there must be.
        raw_box: size of the particles' images (pixel).

    Raises:
        InputError: if their number or the side of their box does not fit.
    """
    header = read_header(path)
    if (header.nz, header.nx) != (num_classes, header.ny):
        found = f"{header.nz} images of {header.nx} x {header.ny} pixels"
        expected = f"{num_classes} square images, one for each class"
        action = f"set model.num_classes={header.nz}" if header.nx == header.ny else "give averages"
        raise InputError([Problem(path, found, expected, action)])
    side = header.nx * header.pixel_size
    # headers without a pixel size say 1 or nothing: images of the particles' size are theirs
    same = header.nx in (frame.box, raw_box) or math.isclose(
        side, frame.length, rel_tol=SAME_LENGTH
    )
    if not same:
        found = f"averages of {header.nx} pixels of {header.pixel_size:.4g} A"
        expected = f"a box of {frame.length:.4g} A, as the particles have"
        raise InputError([Problem(path, found, expected, "cut or pad the averages to that box")])
    images = torch.from_numpy(np.ascontiguousarray(read_images(path))).float()
    return fourier_resize(images, frame.box) * frame.solvent.circle
