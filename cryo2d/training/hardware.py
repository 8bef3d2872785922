"""Which devices a run computes on, and how Lightning shares it among them."""

import warnings
from datetime import timedelta
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed

from cryo2d.training.ranks import Ranks

# The module adds up before it logs.
warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist")

Devices = int | list[int] | Literal["auto"]


def cuda_or_cpu() -> str:
    """Lightning's name of the accelerator: ``cuda`` where a CUDA device is usable, else ``cpu``.

    Lightning's own ``auto`` also picks Apple's MPS, which lacks complex arithmetic.
    """
    return "cuda" if torch.cuda.is_available() else "cpu"


def number_of(devices: Devices) -> int:
    """How many devices are asked for: ``auto`` is every GPU, or the CPU once."""
    if devices == "auto":
        return max(1, torch.cuda.device_count())
    return len(devices) if isinstance(devices, list) else int(devices)


def strategy(devices: Devices, timeout: float) -> str | DDPStrategy:
    """Lightning's strategy for some devices: a process for each, if there are several.

    Args:
        devices: Lightning's ``devices``.
        timeout: after so long without an answer a process counts as lost (minute).
    """
    if number_of(devices) == 1:
        return "auto"
    return SharedParticles(timedelta(minutes=timeout))


class SharedParticles(DDPStrategy):
    """Processes that each visit a part of the particles and hold the same classes.

    There are no gradients: the module adds up the statistics itself, and is not wrapped.
    """

    def __init__(self, timeout: timedelta) -> None:
        # the processes are started here, also where a cluster has started the first
        super().__init__(cluster_environment=LightningEnvironment(), timeout=timeout)
        self.ranks = Ranks()

    def setup_distributed(self) -> None:
        """Meet the other processes, once."""
        super().setup_distributed()
        if self.ranks.size != self.world_size:
            assert self._timeout is not None
            on_gpu = distributed.get_backend() != "gloo"
            group = distributed.new_group(backend="gloo", timeout=self._timeout) if on_gpu else None
            self.ranks = Ranks(self.global_rank, self.world_size, self._timeout, group)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for every process, and say so if one is lost."""
        self.ranks.meet()


def joined(trainer: pl.Trainer) -> Ranks:
    """This process among those of the trainer, which are connected from here on."""
    shared = trainer.strategy
    if not isinstance(shared, SharedParticles):
        return Ranks()
    shared.setup_environment()
    return shared.ranks
