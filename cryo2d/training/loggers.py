"""Loggers that Lightning has, fitted to many runs in one process."""

from typing import Any

from pytorch_lightning.loggers import WandbLogger


class WandbRun(WandbLogger):
    """A Weights & Biases run that ends with its training: the next run of a sweep gets its own."""

    def finalize(self, status: str) -> None:
        """Close the run; Lightning leaves it open for the next logger of the process."""
        super().finalize(status)
        experiment: Any = self._experiment
        if experiment is not None:
            experiment.finish(exit_code=0 if status == "success" else 1)
