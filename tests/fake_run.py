"""A run without an algorithm: a Lightning module and data that only look like the real ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from cryo2d.io.particles import Excluded, Locations, ParticleTable
from cryo2d.training.callbacks.checkpoint import IterationCheckpoint
from cryo2d.training.callbacks.progress import Progress
from cryo2d.training.checkpoint import CheckpointFiles
from cryo2d.types import Assignments, IterationSummary

CLASSES, BOX, RINGS = 6, 16, 8


def blobs(count: int = CLASSES, box: int = BOX, seed: int = 0) -> np.ndarray:
    """Different smooth pictures ``[k y x]`` that vanish at the border."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((box, box)) - box // 2
    pictures = np.zeros((count, box, box), dtype=np.float32)
    for picture in pictures:
        for _ in range(4):
            cy, cx = rng.uniform(-0.22, 0.22, 2) * box
            width = rng.uniform(0.05, 0.11) * box
            picture += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return pictures


def make_summary(iteration: int = 0, total: int = 3, particles: int = 120) -> IterationSummary:
    """One iteration; the last class is empty."""
    rng = np.random.default_rng(iteration)
    index = torch.from_numpy(rng.integers(0, CLASSES - 1, particles))
    counts = torch.bincount(index, minlength=CLASSES)
    share = counts[counts > 0] / counts.sum()
    return IterationSummary(
        iteration=iteration,
        num_iterations=total,
        full=iteration == total - 1,
        uncertainty=2.0 - iteration / total,
        resolution=20.0 - iteration,
        step_size=0.5,
        particles=particles,
        seconds=0.5,
        effective_classes=float(torch.exp(-(share * share.log()).sum())),
        mean_error=1.1 - 0.01 * iteration,
        unchanged=0.5 + 0.1 * iteration,
        log_likelihood=-2.0 + 0.1 * iteration,
        averages=torch.from_numpy(blobs()),
        counts=counts,
        weights=counts / counts.sum(),
        class_resolution=torch.stack(
            [torch.linspace(9, 14, CLASSES), torch.linspace(8, 13, CLASSES)], 1
        ),
        class_ess=torch.linspace(1, 2, CLASSES),
        class_probability=torch.linspace(0.9, 0.5, CLASSES),
        frc=torch.linspace(1, 0, RINGS).expand(CLASSES, RINGS).clone(),
        noise=torch.linspace(3, 1, RINGS)[None],
        frequency=torch.arange(1, RINGS + 1) / (BOX * 3.0),
        posteriors=torch.from_numpy(rng.uniform(0.3, 1, particles)).float(),
        ess=torch.from_numpy(rng.uniform(1, 3, particles)).float(),
        scales=torch.ones(particles),
        shifts=torch.from_numpy(rng.uniform(0, 8, particles)).float(),
    )


def make_assignments(count: int, seed: int = 0) -> Assignments:
    """Random assignments to all classes but the last."""
    rng = np.random.default_rng(seed)

    def column(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, count)).float()

    return Assignments(
        class_index=torch.from_numpy(rng.integers(0, CLASSES - 1, count)),
        psi=column(-3, 3),
        shift=torch.stack([column(-5, 5), column(-5, 5)], dim=1),
        class_posterior=column(0.3, 1),
        class_ess=column(1, 3),
        pose_ess=column(1, 3),
        shift_ess=column(1, 3),
        image_pow=column(900, 1000),
        cross_cor=column(50, 90),
        slice_pow=column(20, 40),
        alpha=column(0.8, 1.2),
        alpha_min=column(0.8, 1.2),
        outlier=column(-0.5, 1.2),
    )


def make_table(count: int, micrographs: int = 3, seed: int = 0) -> ParticleTable:
    """Particles of one stack with pick locations on a few small micrographs."""
    rng = np.random.default_rng(seed)
    names = [f"mic{i}.mrc" for i in rng.integers(0, micrographs, count)]
    return ParticleTable(
        source="particles.star",
        source_row=np.arange(count) + 30,
        stacks=("/data/stack.mrcs",),
        stack_names=("stack.mrcs",),
        stack_id=np.zeros(count, dtype=np.int32),
        image_index=np.arange(count),
        optics_names=("opticsGroup1",),
        box=np.array([BOX]),
        optics=np.zeros(count, dtype=np.int32),
        pixel_size=np.full(count, 3.0),
        sign=np.ones(count, dtype=np.float32),
        locations=Locations(
            micrograph=np.array(names, dtype=object),
            x=rng.uniform(0, 200, count),
            y=rng.uniform(0, 200, count),
            pixel_size=np.full(count, 1.0),
            shape=np.full((count, 2), 200),
        ),
    )


@dataclass
class Steps:
    """Counts what the trainer really ran."""

    batches: int = 0


class FakeModule(pl.LightningModule):
    """Makes a summary per epoch; its one number counts the epochs, so a resume can be checked."""

    def __init__(self, total: int = 3, particles: int = 120) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.total = total
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.steps = Steps()
        self.pixel_size = 3.0
        self.box = BOX
        self.summary: IterationSummary | None = None
        self.assignments = make_assignments(particles)
        self.halves = torch.arange(particles) % 2

    def training_step(self, batch: list[Tensor], index: int) -> None:
        self.steps.batches += 1
        if index == 1:
            with torch.no_grad():
                self.level += 1
            self.summary = make_summary(self.current_epoch, self.total)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class FakeData(pl.LightningDataModule):
    """Two batches an epoch, a particle table, some excluded particles."""

    def __init__(self, particles: int = 120, excluded: int = 4) -> None:
        super().__init__()
        everything = make_table(particles + excluded)
        bad = np.arange(particles + excluded) >= particles
        self.table = everything.take(~bad)
        reason = "image 7 of stack.mrcs is constant"
        self.excluded = Excluded(everything.take(bad), (reason,) * excluded)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.zeros(4, 1)), batch_size=2)


def fit(
    folder: Path,
    callbacks: list[pl.Callback],
    *,
    epochs: int = 3,
    loggers: list[pl.loggers.Logger] | None = None,
    resume: Path | None = None,
    module: FakeModule | None = None,
) -> FakeModule:
    """A run of the fake module, with checkpoints and a bar where a callback makes them."""
    module = module or FakeModule(total=epochs)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=callbacks,
        logger=loggers or False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, IterationCheckpoint) for c in callbacks),
        enable_progress_bar=any(isinstance(c, Progress) for c in callbacks),
        log_every_n_steps=1,
        plugins=[CheckpointFiles({})],
    )
    trainer.fit(module, datamodule=FakeData(), ckpt_path=resume)
    return module
