"""Fits the module to a few synthetic particles in memory, without files."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from synthetic import PIXEL, Synthetic, search_of

from cryo2d.data.sampler import VisitPlan
from cryo2d.em.anneal import PowerLaw, ResolutionRamp, Uncertainty
from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.posterior import maximise
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.solve import Recenter, WienerSolver
from cryo2d.io.table import Excluded, ParticleTable
from cryo2d.physics.preprocess import Preprocessor, ctf_on
from cryo2d.physics.solvent import SolventMask
from cryo2d.training.assembly import EmSettings
from cryo2d.training.callbacks.checkpoint import IterationCheckpoint
from cryo2d.training.checkpoint import CheckpointFiles
from cryo2d.training.datamodule import BatchStream, Particles
from cryo2d.training.module import Classification

ONLINE, FULL = 4, 1


def no_particles() -> ParticleTable:
    """The module reads no table: callbacks do."""
    none = np.zeros(0, np.int64)
    return ParticleTable("", none, (), (), none, none, (), none, none, none, none)


class Memory(Particles):
    """Particles that are in memory from the start."""

    def __init__(self, data: Synthetic, plan: VisitPlan, size: int, device: torch.device) -> None:
        super().__init__(
            no_particles(),
            Excluded(no_particles(), ()),
            Preprocessor(data.grid, data.grid.box),
            seed=0,
            device=device,
            threads=1,
        )
        self.cache, self.plan, self.size = data.cache().to(device), plan, size

    def train_dataloader(self) -> BatchStream:
        stream = super().train_dataloader()
        return BatchStream(stream.cache, stream.rows, self.size)


def plan_of(data: Synthetic) -> VisitPlan:
    count = len(data.images)
    return VisitPlan(count, count // 2, ONLINE, FULL, seed=3)


def module_of(data: Synthetic, **settings) -> Classification:
    grid, box = data.grid, data.grid.box
    reseed = settings.pop("reseed", None)
    start = settings.pop("start", None)
    references = data.averages if start is None else start
    defaults = {
        "independent": 1.0,
        "parting": 1000,
        "centring": 1000,
        "uncertainty": Uncertainty(2.0, 0, 3),
        "rings": ResolutionRamp(6, grid.num_rings, 3),
        "first_ring": 0,
        "step_size": PowerLaw(),
        "transfer": ctf_on,
        "expectation": maximise,
        "scale_per_particle": False,
        "hard_last": False,
        "gather_junk": True,
        "perturb_poses": True,
        "seed": 7,
    }
    solvent = SolventMask(box, 0.8 * box / 2, 0.95 * box / 2)

    def make(model: ClassModel) -> OnlineEM:
        return OnlineEM(
            model,
            solver=WienerSolver(grid, solvent, FrcRegularizer()),
            noise=NoiseModel(),
            recenter=Recenter(),
            reseed=reseed,
            seed=1,
        )

    return Classification(
        ClassModel(references, data.cache().mean_power(1)),
        grid,
        # the pictures' centres of mass are up to 3 pixels from the centre
        search_of(box, max_shift=6.0),
        plan_of(data),
        EmSettings(**(defaults | settings)),
        make,
        halves=data.half,
        optics=torch.zeros(len(data.images), dtype=torch.int64),
        pixel_size=PIXEL,
    )


def fit(
    module: Classification,
    data: Synthetic,
    folder: Path,
    device: torch.device,
    *,
    iterations: int = ONLINE + FULL,
    size: int = 20,
    resume: Path | None = None,
    callbacks: tuple[pl.Callback, ...] = (),
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=iterations,
        logger=False,
        callbacks=[IterationCheckpoint(), *callbacks],
        default_root_dir=folder,
        enable_model_summary=False,
        enable_progress_bar=False,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        plugins=[CheckpointFiles({})],
    )
    memory = Memory(data, module.plan, size, device)
    trainer.fit(module, datamodule=memory, ckpt_path=resume)
    return trainer
