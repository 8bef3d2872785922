"""One line that says how far the run is and when it will be done."""

import sys
from time import monotonic
from typing import Any, TextIO

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm  # type: ignore[import-untyped]

from cryo2d.training.callbacks.run import run_of
from cryo2d.types import IterationSummary

PAUSE = 30.0  # seconds without a line, after which a long iteration says how far it is


class Progress(ProgressBar):
    """A bar over the iterations on a terminal, else plain lines: per iteration, or more often."""

    def __init__(self, full_iterations: int = 1, stream: TextIO | None = None) -> None:
        """Set what the estimate of the time left counts with.

        Args:
            full_iterations: how many of the last iterations visit every particle.
            stream: where to write; None for the standard output.
        """
        super().__init__()
        self.full_iterations = full_iterations
        self.stream = stream
        self._bar: tqdm | None = None
        self._enabled = True
        self._seen: IterationSummary | None = None
        # particles of an online iteration; a full one is known from the table
        self._online = 0
        self._written = monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # spawned processes get the callback by pickle; a bar and a stream belong to this one
        return {**self.__dict__, "_bar": None, "stream": None, "_trainer": None}

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Write a line above the bar."""
        sep = kwargs.get("sep", " ")
        tqdm.write(sep.join(map(str, args)), file=self._out())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        if self._enabled and self._out().isatty():
            self._bar = tqdm(
                total=trainer.max_epochs,
                initial=trainer.current_epoch,
                bar_format="classify |{bar:20}| {desc}",
                dynamic_ncols=True,
                file=self._out(),
            )
            self._show(trainer, 0.0)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar inside the iteration."""
        fraction = (batch_idx + 1) / max(float(trainer.num_training_batches), 1.0)
        if self._bar is not None:
            self._show(trainer, fraction)
        elif self._enabled and fraction < 1.0 and monotonic() - self._written > PAUSE:
            text = f"iteration {self._number(trainer)}  {fraction:.0%} of its particles"
            if self._seen is not None:
                left = self._seconds_left(trainer, self._seen, trainer.current_epoch + fraction)
                text += f"  {clock(left)} left"
            self._write(text)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the iteration that has just ended."""
        summary = run_of(pl_module).summary
        if summary is None or not self._enabled:
            return
        self._seen = summary
        if not summary.full:
            self._online = summary.particles
        if self._bar is None:
            left = self._seconds_left(trainer, summary, trainer.current_epoch + 1)
            number = self._number(trainer)
            self._write(f"iteration {number}  {state(summary)}  {clock(left)} left")
        else:
            self._show(trainer, 1.0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar so that the report of the fault starts on a line of its own."""
        self._close()

    def _out(self) -> TextIO:
        return sys.stdout if self.stream is None else self.stream

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, trainer: Trainer, fraction: float) -> None:
        assert self._bar is not None
        done = trainer.current_epoch + min(fraction, 1.0)
        number = min(trainer.current_epoch + 1, trainer.max_epochs or 0)
        text = f"{number}/{trainer.max_epochs}"
        if self._seen is not None:
            left = self._seconds_left(trainer, self._seen, done)
            text += f"  {state(self._seen)}  {clock(left)} left"
        self._bar.n = done
        self._bar.set_description_str(text, refresh=fraction in (0.0, 1.0))
        self._bar.update(0)

    def _number(self, trainer: Trainer) -> str:
        total = trainer.max_epochs or 0
        return f"{trainer.current_epoch + 1:>{len(str(total))}}/{total}"

    def _write(self, line: str) -> None:
        self._written = monotonic()
        self._out().write(line + "\n")
        self._out().flush()

    def _seconds_left(self, trainer: Trainer, summary: IterationSummary, done: float) -> float:
        """Particles still to be visited over the speed of the last iteration (s)."""
        total = trainer.max_epochs or 0
        held = getattr(getattr(trainer, "datamodule", None), "cache", None)
        rows = summary.particles if held is None else len(held)
        full = min(max(total - done, 0.0), self.full_iterations)
        online = max(total - self.full_iterations - done, 0.0)
        particles = full * rows + online * (self._online or summary.particles)
        return particles * summary.seconds / max(summary.particles, 1)


def state(summary: IterationSummary) -> str:
    """Resolution, classes in use and speed."""
    speed = summary.particles / max(summary.seconds, 1e-9)
    return (
        f"{summary.resolution:4.1f} A  {summary.effective_classes:.1f} of {len(summary.counts)} "
        f"classes  {speed:,.0f} particles/s"
    )


def clock(seconds: float) -> str:
    """A duration as ``0:42``, ``12:05`` or ``3:04:50``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
