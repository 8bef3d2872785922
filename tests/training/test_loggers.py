import contextlib
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from fake_run import CLASSES, make_summary
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import open_dict
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader
from tracking_server import tracking_server
from wandb.proto import wandb_internal_pb2
from wandb.sdk import wandb_setup

from cryo2d.cli import config_dir
from cryo2d.training.drawing.classes import ClassTable
from cryo2d.training.loggers import (
    Background,
    MlflowRun,
    WandbRun,
    log_classes,
    log_files,
    log_histogram,
    log_image,
    log_settings,
)


class Counter(LightningModule):
    """Logs one number and one picture per epoch; learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.level = torch.nn.Parameter(torch.zeros(()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.level])

    def training_step(self, batch: torch.Tensor) -> None:
        self.optimizers().step()

    def on_train_epoch_end(self) -> None:
        self.log("resolution", 10.0 - self.current_epoch)
        log_image(self.loggers, "classes", np.zeros((4, 4, 3), np.uint8), self.current_epoch)


def train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose csv, tensorboard and wandb loggers, those of conf/, write into a folder."""
    folder.mkdir()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        overrides = ["hardware=cpu", "logger=[csv,tensorboard,wandb]"]
        cfg = compose("classify", overrides=overrides, return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(folder)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(cfg)
    loggers = [instantiate(node) for node in cfg.logger.values()]
    trainer: Trainer = instantiate(
        cfg.hardware.trainer,
        max_epochs=2,
        logger=loggers,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.fit(Counter(), DataLoader(np.zeros((4, 1), np.float32), batch_size=2))


BLOCK, FULL, LAST = 32768, 1, 4
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def alone(tmp_path, monkeypatch) -> pytest.MonkeyPatch:
    """Nobody's account, and a home folder that is empty."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("WANDB_SILENT", "true")
    # what it read of the environment before
    wandb.teardown()
    return monkeypatch


def records(run: Path) -> list[wandb_internal_pb2.Record]:
    """What an offline run has written."""
    # the service has then written all of it
    wandb.teardown()
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    # LevelDB's log format after 7 bytes: blocks of pieces with checksum, length and kind
    data, place, found, parts = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (FULL, LAST):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.slow
def test_every_logger_works_without_an_account_and_every_run_has_its_own(tmp_path, alone):
    alone.setenv("CRYO2D_SERVICE_TOKEN", KEY)
    for run in (tmp_path / "first", tmp_path / "second"):
        train(run, alone)
        assert "resolution" in (run / "csv" / "metrics.csv").read_text()
        assert list((run / "tensorboard").glob("events.out.tfevents.*"))
        (offline,) = (run / "wandb").glob("offline-run-*")
        assert list(offline.rglob("*.png"))
        for path in run.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_what_wandb_keeps_offline(tmp_path, alone):
    save_dir = tmp_path / "run"
    logger = WandbRun(str(save_dir), project="cryo2d", group="2026-11-22", artifacts=True)
    log_settings([logger], {"model": {"icuf": 2}, "seed": 3})
    summary = make_summary(2)
    logger.log_metrics({"resolution": 8.0}, 1)
    log_histogram([logger], "distribution/ess", summary.ess.numpy(), 1)
    log_classes([logger], summary, ClassTable.of_iteration(summary))
    result = tmp_path / "report.html"
    result.write_text("classes")
    log_files([logger], tmp_path, ["report.html", "none.star"])
    logger.finalize("success")
    known = logger.version
    found = records(save_dir)
    (run,) = [record.run for record in found if record.HasField("run")]
    assert (run.project, run.run_group, run.run_id) == ("cryo2d", "2026-11-22", known)
    told = {item.key: item.value_json for record in found for item in record.run.config.update}
    told |= {item.key: item.value_json for record in found for item in record.config.update}
    assert json.loads(told["model"]) == {"icuf": 2}
    history = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json)}
        for record in found
        for item in record.history.item
    ]
    logged = {key: value for row in history for key, value in row.items()}
    assert logged["resolution"] == 8.0
    assert logged["distribution/ess._type"] == "histogram"
    assert logged["class_table.nrows"] == CLASSES
    # one file for all classes, never one for each
    assert [path.name for path in save_dir.rglob("*.png")] == []
    (sent,) = [
        record.request.log_artifact.artifact
        for record in found
        if record.request.log_artifact.artifact.type == "classification"
    ] or [record.artifact for record in found if record.artifact.type == "classification"]
    assert [entry.path for entry in sent.manifest.contents] == ["report.html"]
    again = WandbRun(str(save_dir), project="cryo2d")
    assert again.version == again.made()._id == known
    # nothing of the command line, the machine, its user or its packages
    kept = {path.name for path in save_dir.rglob("*")}
    assert kept.isdisjoint({"wandb-metadata.json", "requirements.txt", "diff.patch"})
    assert run.host == ""


def answer(connection: socket.socket) -> None:
    """Refuse every request."""
    body = b'{"errors":[{"message":"permission denied"}]}'
    head = f"HTTP/1.1 401 Unauthorized\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            connection.sendall(head + body)


def drip(connection: socket.socket) -> None:
    """Answer without end, a byte now and then."""
    with contextlib.suppress(OSError):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            time.sleep(0.5)
            connection.sendall(b" ")


ANSWERS = {"refusing": answer, "dripping": drip}


@pytest.fixture(params=["down", "silent", *ANSWERS])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a server that is not there, never answers, refuses the key, or never ends."""
    if request.param == "down":
        yield "http://127.0.0.1:9"
        return
    held = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listening.accept()[0])
                if request.param in ANSWERS:
                    target = ANSWERS[request.param]
                    threading.Thread(target=target, args=held[-1:], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


PATIENCE = 3.0


@pytest.mark.slow
def test_a_bad_wandb_server_costs_seconds_and_a_warning(tmp_path, alone, server, caplog):
    alone.setenv("WANDB_BASE_URL", server)
    alone.setenv("WANDB_API_KEY", KEY)
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="cryo2d"):
        logger = WandbRun(str(tmp_path / "run"), patience=PATIENCE, project="cryo2d", offline=False)
        logger.log_metrics({"resolution": 8.0}, 1)
        # the run goes on meanwhile
        assert time.perf_counter() - start < PATIENCE
        deadline = time.monotonic() + 60
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.05)
        logger.finalize("success")
    assert not logger.lost
    assert [record.name for record in caplog.records].count("cryo2d.training.loggers") == 1
    assert "wandb sync" in caplog.text
    assert any(record.history.item for record in records(tmp_path / "run"))
    assert KEY not in caplog.text
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_server_that_goes_away_during_the_run_is_not_waited_for(tmp_path, alone, caplog):
    with tracking_server() as (address, silent):
        alone.setenv("WANDB_BASE_URL", address)
        alone.setenv("WANDB_API_KEY", KEY)
        save_dir = tmp_path / "run"
        # time to start on a busy machine; at the end less is enough
        logger = WandbRun(str(save_dir), patience=60.0, project="cryo2d", offline=False)
        logger.log_metrics({"resolution": 8.0}, 1)
        deadline = time.monotonic() + 60
        while logger.version is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [one for one in caplog.records if one.name.startswith("cryo2d")] == []
        service = wandb_setup.singleton()._connection._proc._process
        silent.set()
        logger._patience = 2.0
        summary = make_summary(2)
        # asks the server for leave, and waits
        log_classes([logger], summary, ClassTable.of_iteration(summary))
        logger.finalize("success")
        assert logger.lost
        # or it would be waited for when the program ends
        assert service.poll() is not None
    assert "no answer for 2 s" in caplog.text
    assert "wandb sync" in caplog.text


def test_a_bad_mlflow_server_costs_a_warning(tmp_path, alone, server, caplog):
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        alone.delenv(name, raising=False)
    logger = MlflowRun(tracking_uri=server, patience=2)
    with caplog.at_level(logging.WARNING, logger="cryo2d"):
        for step in range(3):
            logger.log_metrics({"resolution": 8.0}, step)
        logger.finalize("success")
    assert logger.lost
    assert [record.name for record in caplog.records].count("cryo2d.training.loggers") == 1


def test_mlflow_keeps_numbers_settings_and_pictures(tmp_path, alone):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    logger = MlflowRun(tracking_uri=uri, artifact_location=str(tmp_path / "files"), artifacts=True)
    log_settings([logger], {"model": {"icuf": 2}})
    logger.log_metrics({"resolution": 8.0}, 1)
    log_image([logger], "classes", np.zeros((4, 4, 3), np.uint8), 1)
    (tmp_path / "report.html").write_text("classes")
    log_files([logger], tmp_path, ["report.html"])
    logger.finalize("success")
    assert not logger.lost
    run = mlflow.MlflowClient(uri).get_run(logger.version)
    assert run.data.metrics == {"resolution": 8.0}
    assert run.data.params == {"model/icuf": "2"}
    assert list(tmp_path.glob("files/*/artifacts/classes/001.png"))
    assert list(tmp_path.glob("files/*/artifacts/report.html"))


class Service:
    """What a service's client does with what it is told."""

    def __init__(self, act: Callable[[int], object]) -> None:
        self.act, self.told = act, []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.act(step)
        self.told.append(step)

    def finalize(self, status: str) -> None:
        self.told.append(status)


class Told(Background):
    """A logger of that service."""

    name = version = "none"

    def __init__(self, act: Callable[[int], object], patience: float = 60.0) -> None:
        super().__init__("The service", patience, artifacts=False)
        self.service = Service(act)

    def made(self) -> Service:
        return self.service

    def picture(self, *_: object) -> None: ...

    def files(self, *_: object) -> None: ...


def test_a_service_is_told_everything_in_order_while_the_run_goes_on():
    go = threading.Event()
    logger = Told(lambda step: go.wait(60))
    for step in range(3):
        logger.log_metrics({"resolution": 8.0}, step)
    assert logger.service.told == []
    go.set()
    logger.finalize("success")
    assert logger.service.told == [0, 1, 2, "success"]
    assert not logger.lost


def test_an_error_of_a_client_is_no_error_of_the_run(caplog):
    def fail(step: int) -> None:
        if step == 1:
            raise RuntimeError("out of breath\nand more")

    logger = Told(fail)
    for step in range(3):
        logger.log_metrics({"resolution": 8.0}, step)
    logger.finalize("success")
    assert logger.service.told == [0]
    assert "The service cannot be used (out of breath): it is left out" in caplog.text


def test_a_service_that_never_ends_is_given_up(caplog):
    logger = Told(lambda step: threading.Event().wait(), patience=0.2)
    logger.log_metrics({"resolution": 8.0}, 0)
    logger.finalize("success")
    assert logger.lost
    assert "no answer for 0.2 s" in caplog.text


def test_a_logger_that_was_told_nothing_has_nothing_to_end():
    logger = Told(lambda step: None)
    logger.finalize("success")
    assert logger.service.told == ["success"]
