"""CTF parameters from the table of particles to the device."""

import numpy as np
import torch

from cryo2d.io.particles import CtfColumns
from cryo2d.types import CtfParams


def ctf_params(columns: CtfColumns | None, count: int) -> CtfParams:
    """CTF columns of a table as float32 tensors; ones where there are none, for lack of a CTF."""
    names = CtfParams.__dataclass_fields__
    if columns is None:
        return CtfParams(**{name: torch.ones(count) for name in names})
    values = {name: torch.from_numpy(np.asarray(getattr(columns, name))) for name in names}
    return CtfParams(**{name: value.float() for name, value in values.items()})
