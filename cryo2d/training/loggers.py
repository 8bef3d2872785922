"""Loggers that Lightning has, fitted to this program, and what is handed to them.

A service that cannot be reached costs a run some seconds and a warning, never its result.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from cryo2d.training.drawing.classes import ClassTable
from cryo2d.training.drawing.montage import grey_levels
from cryo2d.types import IterationSummary

log = logging.getLogger(__name__)


class WandbRun(WandbLogger):
    """A Weights & Biases run that ends with its training: the next run of a sweep gets its own.

    A run that is gone on with keeps its id, which is in ``<save_dir>/wandb/id``.

    Args:
        save_dir: folder of the run.
        offline: write files only, to be sent later with ``wandb sync``.
        patience: longest wait for the server, at the start and at the end (s).
        others: arguments of Lightning's logger and of ``wandb.init``.
    """

    def __init__(
        self, save_dir: str, offline: bool = True, patience: float = 5.0, **others: Any
    ) -> None:
        known = Path(save_dir, "wandb", "id")
        if others.get("id") is None and known.is_file():
            others["id"] = known.read_text(encoding="utf-8").strip()
        import wandb

        limits = wandb.Settings(
            init_timeout=0.8 * patience,
            login_timeout=int(patience),
            finish_timeout=patience,
            # the settings are told; command line, host, user, source and packages are not
            host="",
            x_disable_meta=True,
            x_save_requirements=False,
            disable_git=True,
            save_code=False,
        )
        # said outright: wandb remembers the mode of the first run of the process
        others["mode"] = os.environ.get("WANDB_MODE", "offline" if offline else "online")
        super().__init__(save_dir=save_dir, offline=offline, settings=limits, **others)

    @property
    def experiment(self) -> Any:
        """The run; offline if the server does not answer or refuses the account."""
        if self._experiment is None:
            from wandb.errors import Error

            kept = Path(str(self.save_dir), "wandb", "id")
            kept.parent.mkdir(parents=True, exist_ok=True)
            mode = os.environ.get("WANDB_MODE")
            try:
                _ = super().experiment
            except (Error, OSError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                log.warning(
                    "Weights & Biases cannot be used online (%s); the run is kept in %s: "
                    "send it later with wandb sync.",
                    reason,
                    Path(str(self.save_dir), "wandb"),
                )
                self._offline, self._wandb_init["mode"] = True, "offline"
                _ = super().experiment
            finally:
                # Lightning leaves the mode of this run to all that follow in the process
                os.environ.pop("WANDB_MODE", None)
                if mode is not None:
                    os.environ["WANDB_MODE"] = mode
            run: Any = self._experiment
            kept.write_text(f"{run.id}\n", encoding="utf-8")
        return self._experiment

    def finalize(self, status: str) -> None:
        """Close the run; Lightning leaves it open for the next logger of the process."""
        super().finalize(status)
        experiment: Any = self._experiment
        if experiment is not None:
            experiment.finish(exit_code=0 if status == "success" else 1)


class MlflowRun(MLFlowLogger):
    """An MLflow run that a server which does not answer cannot hold up.

    After the first failure nothing more is sent.

    Args:
        patience: longest wait for an answer (s).
        others: arguments of Lightning's logger.
    """

    def __init__(self, patience: float = 5.0, **others: Any) -> None:
        # read by mlflow at every request; one that is set already stays
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(patience / 2))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        super().__init__(**others)
        self.lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of an iteration."""
        self._send(super().log_metrics, metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Settings of the run."""
        self._send(super().log_hyperparams, params)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """One picture ``[y x 3]`` (uint8)."""
        self._send(self._picture, name, image, step)

    def finalize(self, status: str = "success") -> None:
        """Close the run."""
        self._send(super().finalize, status)

    def _picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.experiment.log_image(self.run_id, image, f"{name}/{step:03d}.png")

    def _send(self, action: Any, *arguments: Any) -> None:
        if self.lost:
            return
        from mlflow.exceptions import MlflowException

        try:
            action(*arguments)
        except (MlflowException, OSError) as error:
            self.lost = True
            reason = str(error).splitlines()[0][:200]
            log.warning("MLflow cannot be used (%s): nothing more is sent to it.", reason)


def log_settings(loggers: Sequence[Logger], settings: dict[str, Any]) -> None:
    """Hand the settings of a run to its loggers.

    Args:
        loggers: of the run.
        settings: plain values, nested by group.
    """
    for logger in loggers:
        logger.log_hyperparams(settings)


def log_image(loggers: Sequence[Logger], name: str, image: np.ndarray, step: int) -> None:
    """Hand a picture ``[y x 3]`` (uint8) to every logger that can show one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            # uint8: wandb casts without scaling, floats would come out black
            logger.log_image(name, [image], step=step)
        elif isinstance(logger, MlflowRun):
            logger.picture(name, image, step)


def log_histogram(loggers: Sequence[Logger], name: str, values: np.ndarray, step: int) -> None:
    """Hand the distribution of finite values ``[n]`` to every logger that can show one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, step)
        elif isinstance(logger, WandbLogger):
            import wandb

            shown: Any = {name: wandb.Histogram(values.tolist())}
            logger.log_metrics(shown, step)


def log_classes(loggers: Sequence[Logger], summary: IterationSummary, table: ClassTable) -> None:
    """Hand the classes as a table with pictures to loggers that have tables."""
    columns = ["class", "average", "particles", "resolution", "ess", "posterior"]
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        import wandb

        levels = grey_levels(summary.averages.float().numpy())
        rows = [
            [k + 1, wandb.Image(levels[k]), int(table.count[k])]
            + [float(v[k]) for v in (table.resolution, table.ess, table.posterior)]
            for k in table.by_count().tolist()
        ]
        logger.log_table("class_table", columns, rows, step=summary.iteration)
