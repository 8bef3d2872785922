"""How many particles are worked on at once: fewer when the device runs out of memory."""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cryo2d.errors import EnvironmentFault
from cryo2d.types import ParticleBatch

log = logging.getLogger(__name__)


class Portions:
    """Works on batches whole, or in portions once one did not fit.

    Attributes:
        most: particles of a portion, None as long as every batch fitted.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self._before: dict[str, Tensor] = {}

    def __call__(
        self,
        batch: ParticleBatch,
        sums: Mapping[str, Tensor],
        work: Callable[[ParticleBatch], None],
    ) -> None:
        """Do the work on a batch, on each particle once.

        A portion that did not fit is done again in halves; the sums are put back before that.

        Args:
            batch: particles.
            sums: what the work adds to in place.
            work: on some particles; whatever else it changes may be done twice.

        Raises:
            EnvironmentFault: if not even one particle fits.
        """
        waiting = self._split(batch)
        while waiting:
            part = waiting.pop(0)
            self._keep(sums)
            try:
                work(part)
                continue
            except torch.OutOfMemoryError as error:
                reason = str(error)
            # only here has the traceback let go of the tensors
            for name, value in sums.items():
                value.copy_(self._before[name])
            self._halve(part, reason)
            waiting = self._split(part) + waiting

    def _split(self, batch: ParticleBatch) -> list[ParticleBatch]:
        most = self.most or len(batch)
        return [batch[start : start + most] for start in range(0, len(batch), most)]

    def _keep(self, sums: Mapping[str, Tensor]) -> None:
        for name, value in sums.items():
            held = self._before.get(name)
            if held is None or held.shape != value.shape or held.device != value.device:
                self._before[name] = value.clone()
            else:
                held.copy_(value)

    def _halve(self, part: ParticleBatch, reason: str) -> None:
        if len(part) == 1:
            raise EnvironmentFault(
                f"the memory of the device does not hold one particle at work ({reason}). Do: "
                "end what else uses it, raise model.max_resolution, or set hardware=cpu"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.most = -(-len(part) // 2)
        log.warning(
            "The memory of the device is short: from here on %d particles at once, not %d. "
            "The result stays the same.",
            self.most,
            len(part),
        )
