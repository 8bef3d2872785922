"""The processes that share the particles of a run, and what they tell each other."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from cryo2d.errors import EnvironmentFault
from cryo2d.types import Assignments

Value = TypeVar("Value")

COLUMNS = {f.name: 2 if f.name == "shift" else 1 for f in fields(Assignments)}
WIDTH = sum(COLUMNS.values())


class LostProcessError(EnvironmentFault):
    """A process of the run has ended or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: its number from 0.
        size: how many there are.
        timeout: after so long without an answer a process counts as lost.
        control: group of all processes on the CPU; None for torch's default group.
    """

    rank: int = 0
    size: int = 1
    timeout: timedelta = timedelta(minutes=30)
    control: Any = None

    def meet(self) -> None:
        """Wait until every process has come here.

        Raises:
            LostProcessError: if one does not.
        """
        if self.size == 1:
            return
        try:
            distributed.monitored_barrier(self.control, self.timeout, wait_all_ranks=True)
        except RuntimeError as error:
            raise LostProcessError(
                f"a process of the run has ended or did not answer within {self.timeout}: {error}"
            ) from error

    def total(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the processes, all in one message; real or complex, of one device."""
        if self.size == 1:
            return list(values)
        self.meet()
        real = [torch.view_as_real(v) if v.is_complex() else v for v in values]
        packed = torch.cat([value.flatten().float() for value in real])
        distributed.all_reduce(packed)
        parts = packed.split([value.numel() for value in real])
        sums = [part.view_as(value) for part, value in zip(parts, real, strict=True)]
        return [
            torch.complex(*s.unbind(-1)) if v.is_complex() else s
            for s, v in zip(sums, values, strict=True)
        ]

    def gathered(self, value: Value) -> list[Value]:
        """What every process has, in their order."""
        if self.size == 1:
            return [value]
        self.meet()
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self.control)
        return found

    def columns(self, own: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The rows ``[n c]`` of every process, in their order.

        Args:
            own: of this one.
            lengths: number of rows of each.
        """
        if self.size == 1:
            return [own]
        self.meet()
        # one shape for all
        padded = own.new_zeros((max(lengths), own.shape[1]))
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded)
        return [part[:length] for part, length in zip(found, lengths, strict=True)]


ALONE = Ranks()
"""A run of one process."""


def packed(found: Assignments) -> Tensor:
    """Assignments as one matrix ``[n c]`` (float32; exact for up to 2^24 classes)."""
    columns = (getattr(found, name) for name in COLUMNS)
    return torch.cat([column.float().view(len(found), -1) for column in columns], dim=1)


def unpacked(matrix: Tensor) -> Assignments:
    """The assignments of a matrix ``[n c]``."""
    parts = zip(COLUMNS.items(), matrix.split(list(COLUMNS.values()), dim=1), strict=True)
    columns = {name: part[:, 0] if width == 1 else part for (name, width), part in parts}
    return Assignments(**{**columns, "class_index": columns["class_index"].long()})
