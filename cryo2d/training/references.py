"""The class averages that a classification starts from."""

import math

import numpy as np
import torch
from torch import Tensor

from cryo2d.data.cache import ParticleSource, Total, alone
from cryo2d.em.given import KeepPoses
from cryo2d.em.seed import add_to_classes, low_passed_averages, random_subsets
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
    total: Total = alone,
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
        total: sum over the processes that share the particles.
    """
    grid, device = frame.grid, cache.device
    stats = SufficientStats.zeros(grid, num_classes, len(noise), device)
    # drawn for all of them, so that it does not matter who adds which
    classes, psi = random_subsets(len(rows), num_classes, generator)
    own = ((rows >= cache.rows.start) & (rows < cache.rows.stop)).nonzero()[:, 0]
    for part in own.split(batch_size) if len(own) else ():
        batch = cache.batch(rows[part])
        images = weigh(
            batch, grid, pixel_size=frame.pixel_size, noise=noise.to(device), transfer=transfer
        )
        turns, shift = known.of(images) if known else (psi[part], None)
        add_to_classes(stats, grid, images, classes[part], turns, shift)
    sums = stats.as_dict()
    stats = SufficientStats(**dict(zip(sums, total(list(sums.values())), strict=True)))
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
