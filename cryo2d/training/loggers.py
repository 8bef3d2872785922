"""Loggers that Lightning has, fitted to this program, and what is handed to them.

A service that cannot be reached costs a run some seconds and a warning, never its result.
"""

import importlib.util
import logging
import os
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from cryo2d.errors import EnvironmentFault
from cryo2d.training.drawing.classes import ClassTable
from cryo2d.types import IterationSummary

log = logging.getLogger(__name__)

LOCAL_PATIENCE = 60.0
"""Longest wait for a database or a folder of this machine (s)."""

WANDB_THREADS = ("NetStatThr", "ChkStopThr", "IntMsgThr")

SERVICE_PATIENCE = 0.5
"""Longest wait for wandb's own process once a run is finished (s)."""


class Background(Logger):
    """A logger whose service cannot hold a run up: a thread of its own tells it everything.

    What the service has not taken in time when the run has ended is given up, and so is the service
    at its first failure.

    Args:
        service: its name in words.
        patience: longest wait when the run has ended (s).
        artifacts: send the main files of the result too.
    """

    def __init__(self, service: str, patience: float, artifacts: bool) -> None:
        super().__init__()
        self.artifacts = artifacts
        self.lost = False
        self._service, self._patience = service, patience
        self._inner: Any = None
        self._calls: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._tell_all, name=service, daemon=True)

    @abstractmethod
    def made(self) -> Any:
        """Lightning's logger of the service."""

    @abstractmethod
    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """One picture ``[y x 3]`` (uint8)."""

    @abstractmethod
    def files(self, paths: Sequence[Path]) -> None:
        """Files of the result."""

    def tell(self, call: Callable[[Any], object]) -> None:
        """Do something with Lightning's logger when its turn has come."""
        if self.lost:
            return
        if self._sender.ident is None:
            self._sender.start()
        self._calls.put(call)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers of an iteration."""
        told = dict(metrics)
        self.tell(lambda inner: inner.log_metrics(told, step))

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Settings of the run."""
        self.tell(lambda inner: inner.log_hyperparams(params))

    def finalize(self, status: str = "success") -> None:
        """Close the run."""
        self.tell(lambda inner: inner.finalize(status))
        self._calls.put(None)
        if self._sender.ident is not None:
            self._sender.join(self._patience)
        if self._sender.is_alive():
            self._lose(f"no answer for {self._patience:g} s")

    def _tell_all(self) -> None:
        """Pass on what there is to say, until there is nothing more or it cannot be said."""
        try:
            self._inner = self.made()
            while (call := self._calls.get()) is not None and not self.lost:
                call(self._inner)
        except Exception as error:  # noqa: BLE001 - whatever its client raises, the run goes on
            self._lose((str(error) or type(error).__name__).splitlines()[0][:200])

    def _lose(self, reason: str) -> None:
        if not self.lost:
            self.lost = True
            log.warning("%s cannot be used (%s): %s.", self._service, reason, self._consequence)

    _consequence = "it is left out from here on"


class WandbRun(Background):
    """A Weights & Biases run that ends with its training: the next run of a sweep gets its own.

    A run that is gone on with keeps its id, which is in ``<save_dir>/wandb/id``.

    Args:
        save_dir: folder of the run.
        offline: write files only, to be sent later with ``wandb sync``.
        patience: longest wait for the server, which is at the end (s).
        artifacts: send the main files of the result too.
        others: arguments of Lightning's logger and of ``wandb.init``.
    """

    def __init__(
        self,
        save_dir: str,
        offline: bool = True,
        patience: float = 8.0,
        artifacts: bool = False,
        **others: Any,
    ) -> None:
        super().__init__("Weights & Biases", LOCAL_PATIENCE if offline else patience, artifacts)
        # its reports on itself go to the server too, and are waited for when the program ends
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._folder, self._offline, self._others = Path(save_dir, "wandb"), offline, others
        self._start = patience
        self._consequence = f"what it has not got is in {self._folder}, for wandb sync"

    @property
    def name(self) -> str:
        """Name of the project."""
        return str(self._others.get("project", "cryo2d"))

    @property
    def version(self) -> str | None:
        """Id of the run once it has one."""
        known = self._folder / "id"
        return known.read_text(encoding="utf-8").strip() if known.is_file() else None

    def made(self) -> "WandbClient":
        """Lightning's logger, which falls back to files."""
        others = dict(self._others)
        if others.get("id") is None and self.version is not None:
            others["id"] = self.version
        return WandbClient(self._folder, self._offline, self._start, others)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """One picture ``[y x 3]`` (uint8)."""
        # uint8: wandb casts without scaling, floats would come out black
        self.tell(lambda inner: inner.log_image(name, [image], step=step))

    def files(self, paths: Sequence[Path]) -> None:
        """Files of the result, as one artifact."""

        def send(inner: Any) -> None:
            import wandb

            result = wandb.Artifact(f"result-{self.version}", type="classification")
            for path in paths:
                result.add_file(str(path))
            inner.experiment.log_artifact(result)

        self.tell(send)

    def finalize(self, status: str = "success") -> None:
        """Close the run; Lightning leaves it open for the next logger of the process."""
        super().finalize(status)
        if self._sender.ident is not None:
            _end_service(LOCAL_PATIENCE if self._offline else SERVICE_PATIENCE)


class WandbClient(WandbLogger):
    """Lightning's logger for Weights & Biases, which writes files if there is no server."""

    def __init__(self, folder: Path, offline: bool, patience: float, others: dict[str, Any]):
        import wandb

        limits = wandb.Settings(
            # one after the other if the run is a short one
            init_timeout=0.4 * patience,
            login_timeout=max(1, int(0.4 * patience)),
            finish_timeout=0.4 * patience,
            # the settings are told; command line, host, user, source and packages are not
            host="",
            x_disable_meta=True,
            x_save_requirements=False,
            disable_git=True,
            save_code=False,
        )
        self._folder = folder
        # said outright: wandb remembers the mode of the first run of the process
        others["mode"] = os.environ.get("WANDB_MODE", "offline" if offline else "online")
        super().__init__(save_dir=str(folder.parent), offline=offline, settings=limits, **others)

    @property
    def experiment(self) -> Any:
        """The run; offline if the server does not answer or refuses the account."""
        if self._experiment is None:
            from wandb.errors import Error
            from wandb.sdk.lib.module import unset_globals

            unset_globals()  # a run that this process has given up is not gone on with
            self._folder.mkdir(parents=True, exist_ok=True)
            mode = os.environ.get("WANDB_MODE")
            try:
                _ = super().experiment
            except (Error, OSError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                log.warning(
                    "Weights & Biases cannot be used online (%s); the run is kept in %s: "
                    "send it later with wandb sync.",
                    reason,
                    self._folder,
                )
                _end_service(SERVICE_PATIENCE)
                self._offline, self._wandb_init["mode"] = True, "offline"
                _ = super().experiment
            finally:
                # Lightning leaves the mode of this run to all that follow in the process
                os.environ.pop("WANDB_MODE", None)
                if mode is not None:
                    os.environ["WANDB_MODE"] = mode
            run: Any = self._experiment
            (self._folder / "id").write_text(f"{run.id}\n", encoding="utf-8")
        return self._experiment

    def finalize(self, status: str) -> None:
        """Close the run."""
        super().finalize(status)
        if self._experiment is not None:
            self.experiment.finish(exit_code=0 if status == "success" else 1)


def _end_service(wait: float) -> None:
    """End wandb's service, a process that would be waited for at exit as long as a server is slow.

    Args:
        wait: for what it is still doing (s); then it is killed. What it had to send is on the disk.
    """
    import wandb
    from wandb.sdk import wandb_setup

    connection = getattr(wandb_setup.singleton(), "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is None:
        return

    def end() -> None:
        # which it does if it finds its process killed
        with suppress(SystemExit):
            wandb.teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(wait)
    if ending.is_alive():
        threading.excepthook = partial(_untold, threading.excepthook)
        process.kill()
        ending.join(SERVICE_PATIENCE)


def _untold(hook: Callable[[Any], object], failed: Any) -> None:
    """Keep to ourselves that threads of wandb miss the process they talk to."""
    if getattr(failed.thread, "name", "") not in WANDB_THREADS:
        hook(failed)


class MlflowRun(Background):
    """An MLflow run.

    Args:
        tracking_uri: of a database, or the address of a server.
        experiment_name: what the run is part of.
        patience: longest wait for a server, which is at the end (s).
        artifacts: send the main files of the result too.
        others: arguments of Lightning's logger.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment_name: str = "cryo2d",
        patience: float = 8.0,
        artifacts: bool = False,
        **others: Any,
    ) -> None:
        local = "://" not in tracking_uri.replace(":///", "")
        super().__init__("MLflow", LOCAL_PATIENCE if local else patience, artifacts)
        if importlib.util.find_spec("mlflow") is None:
            raise EnvironmentFault("MLflow is not installed. Do: pip install 'cryo2d[mlflow]'")
        # read by mlflow at every request; one that is set already stays
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(patience))))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        # what is computed here is nobody's business
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._given = {"tracking_uri": tracking_uri, "experiment_name": experiment_name, **others}

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self._given["experiment_name"])

    @property
    def version(self) -> str | None:
        """Id of the run once it has one."""
        return None if self._inner is None else self._inner._run_id

    def made(self) -> MLFlowLogger:
        """Lightning's logger."""
        return MLFlowLogger(**self._given)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """One picture ``[y x 3]`` (uint8)."""
        file = f"{name}/{step:03d}.png"
        self.tell(lambda inner: inner.experiment.log_image(inner.run_id, image, file))

    def files(self, paths: Sequence[Path]) -> None:
        """Files of the result."""

        def send(inner: Any) -> None:
            for path in map(str, paths):
                inner.experiment.log_artifact(inner.run_id, path)

        self.tell(send)


def log_settings(loggers: Sequence[Logger], settings: dict[str, Any]) -> None:
    """Hand the settings of a run to its loggers.

    Args:
        loggers: of the run.
        settings: plain values, nested by group.
    """
    for logger in loggers:
        logger.log_hyperparams(settings)


def log_files(loggers: Sequence[Logger], folder: Path, names: Sequence[str]) -> None:
    """Hand files of a finished run to every logger that is to have them."""
    for logger in loggers:
        if isinstance(logger, Background) and logger.artifacts:
            logger.files([folder / name for name in names if (folder / name).is_file()])


def log_image(loggers: Sequence[Logger], name: str, image: np.ndarray, step: int) -> None:
    """Hand a picture ``[y x 3]`` (uint8) to every logger that can show one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, Background):
            logger.picture(name, image, step)
        elif isinstance(logger, WandbLogger):
            # a user's own; uint8: wandb casts without scaling, floats would come out black
            logger.log_image(name, [image], step=step)


def log_histogram(loggers: Sequence[Logger], name: str, values: np.ndarray, step: int) -> None:
    """Hand the distribution of finite values ``[n]`` to every logger that can show one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, step)
        elif isinstance(logger, WandbRun | WandbLogger):
            import wandb

            shown: Any = {name: wandb.Histogram(values.tolist())}
            logger.log_metrics(shown, step)


def log_classes(loggers: Sequence[Logger], summary: IterationSummary, table: ClassTable) -> None:
    """Hand the numbers of the classes as a table to loggers that have tables.

    Without pictures, which would be a file for each class; ``classes`` has them in one.
    """
    columns = ["class", "particles", "resolution", "ess", "posterior"]
    numbers = (table.resolution, table.ess, table.posterior)
    rows = [
        [k + 1, int(table.count[k]), *(float(values[k]) for values in numbers)]
        for k in table.by_count().tolist()
    ]

    def send(inner: Any) -> None:
        inner.log_table("class_table", columns, rows, step=summary.iteration)

    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.tell(send)
        elif isinstance(logger, WandbLogger):
            send(logger)
