from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import open_dict
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from cryo2d.cli import config_dir


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
        self.loggers[2].log_image("classes", [np.zeros((4, 4), np.uint8)])


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


@pytest.mark.slow
def test_every_logger_works_without_an_account_and_every_run_has_its_own(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for run in (tmp_path / "first", tmp_path / "second"):
        train(run, monkeypatch)
        assert "resolution" in (run / "csv" / "metrics.csv").read_text()
        assert list((run / "tensorboard").glob("events.out.tfevents.*"))
        (offline,) = (run / "wandb").glob("offline-run-*")
        assert list(offline.rglob("*.png"))
