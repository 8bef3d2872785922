"""When it is time to write again what others look at while a run goes on."""

import time
from collections.abc import Callable

from pytorch_lightning import Trainer


class Pace:
    """Lets the first iteration pass, the last one, and others not more often than by the clock.

    What an iteration writes then costs a part of the time that does not grow as iterations become
    shorter.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set how often.

        Args:
            seconds: least time between two that pass; 0 for all.
            clock: the time (s).
        """
        self.seconds, self.clock = seconds, clock
        self._passed = -float("inf")

    def passes(self, trainer: Trainer) -> bool:
        """Whether it is time, after the iteration that has just ended. To be asked once."""
        now = self.clock()
        if not is_last(trainer) and now - self._passed < self.seconds:
            return False
        self._passed = now
        return True


def is_last(trainer: Trainer) -> bool:
    """Whether no iteration comes after this one."""
    return trainer.current_epoch + 1 == trainer.max_epochs
