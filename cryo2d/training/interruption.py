"""A run that a signal ends in its own time."""

import logging
import signal
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Remembers that the user has asked for the end; who asks again gets it at once.

    Attributes:
        asked: whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def listen(self) -> None:
        """Take the signals, also after others have taken them since."""
        if not self.asked:
            for number in SIGNALS:
                signal.signal(number, self._stop)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.restore()
        log.warning("Ending with one more batch and the output; once more to stop at once.")
