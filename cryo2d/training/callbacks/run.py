"""What the callbacks read of the module and the data module."""

from typing import Protocol, cast

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.types import Assignments, IterationSummary


class Run(Protocol):
    """A classification under way.

    Attributes:
        summary: of the last finished iteration, None before the first.
        halves: half-set of each particle, 0 or 1 ``[n]``.
        pixel_size: of the averages (Angstrom).
    """

    summary: IterationSummary | None
    halves: Tensor
    pixel_size: float

    @property
    def assignments(self) -> Assignments | None:
        """What was last found for each particle ``[n]``, None before any."""


class RunData(Protocol):
    """Its particles.

    Attributes:
        table: usable particles ``[n]``.
        excluded: the others.
    """

    table: ParticleTable
    excluded: Excluded


def run_of(pl_module: LightningModule) -> Run:
    """The module by what callbacks read of it."""
    return cast(Run, pl_module)


def data_of(trainer: Trainer) -> RunData:
    """The data module by what callbacks read of it."""
    return cast(RunData, trainer.datamodule)  # type: ignore[attr-defined]
