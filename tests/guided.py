"""Small stacks whose classification starts from blurred true views.

A few iterations then show the effect of one setting, and not the luck of a random start.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from truth import Array, Stack, simulated

from cryo2d.io.mrc import write_stack
from cryo2d.physics.solvent import gaussian

BOX, PIXEL = 40, 5.0
SCENE = {
    "num_particles": 240,
    "box": BOX,
    "pixel_size": PIXEL,
    "num_molecules": 3,
    "views": 2,
    "snr": 0.3,
    "junk_fraction": 0.0,
    "neighbours": 0.0,
    "num_micrographs": 10,
    "shift_sigma": 4.0,
    "seed": 2,
}
SHORT = (
    "model.num_classes=6",
    "model.force_max=true",
    "model.max_resolution=10",
    "optimizer.iterations=3",
    "optimizer.batch_per_class=30",
    "optimizer.merge=null",
    "optimizer.reseed=null",
)


def made(folder: Path, **recipe: Any) -> Stack:
    """A stack with blurred true views beside it."""
    stack = simulated(folder, **(SCENE | recipe))
    views = torch.from_numpy(stack.truth["clean_views"] * stack.truth["clean_scale"]).float()
    write_stack(folder / "views.mrcs", gaussian(views, 1.5).numpy(), stack.pixel, mode=2)
    return stack


def altered(stack: Stack, folder: Path, change: Callable[[Array], Array]) -> Stack:
    """The stack with other images."""
    shutil.copytree(stack.star.parent, folder)
    with mrcfile.open(folder / "particles.mrcs", "r+") as file:
        file.set_data(change(file.data.astype(np.float32)).astype(np.float32))
    return Stack.of(folder)


def from_views(stack: Stack) -> tuple[str, ...]:
    """The setting that starts from the true views."""
    return (f"model.initial_references={stack.star.parent / 'views.mrcs'}",)
