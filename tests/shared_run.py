"""A small classification that several processes share."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from synthetic import PIXEL, Synthetic, search_of, synthetic

from cryo2d.data.cache import ParticleCache
from cryo2d.data.sampler import Shares, VisitPlan
from cryo2d.em.anneal import PowerLaw, ResolutionRamp, Uncertainty
from cryo2d.em.likeness import Merge
from cryo2d.em.marginal import Marginalise
from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.population import Reseed
from cryo2d.em.posterior import maximise
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.solve import Recenter, WienerSolver
from cryo2d.io.table import Excluded, ParticleTable
from cryo2d.physics.preprocess import Preprocessor, ctf_on
from cryo2d.physics.solvent import SolventMask
from cryo2d.training.assembly import EmSettings
from cryo2d.training.callbacks.checkpoint import IterationCheckpoint
from cryo2d.training.checkpoint import CheckpointFiles
from cryo2d.training.datamodule import Particles
from cryo2d.training.hardware import SharedParticles, joined, strategy
from cryo2d.training.judge import Judge
from cryo2d.training.module import Classification
from cryo2d.training.ranks import Ranks

COUNT, ONLINE, FULL, SIZE = 60, 4, 1, 8


class Part(Particles):
    """The particles of one process, in memory from the start."""

    def __init__(self, data: Synthetic, plan: VisitPlan, ranks: Ranks, shares: Shares) -> None:
        none = np.zeros(0, np.int64)
        table = ParticleTable("", none, (), (), none, none, (), none, none, none, none)
        super().__init__(
            table,
            Excluded(table, ()),
            Preprocessor(data.grid, data.grid.box),
            seed=0,
            device=torch.device("cpu"),
            threads=1,
            ranks=ranks,
        )
        block, whole = shares.block(ranks.rank), data.cache()
        rings = whole.rings[block.start : block.stop]
        self.cache = ParticleCache(rings, whole.ctf, whole.optics, whole.half, block)
        self.plan, self.shares, self._size = plan, shares, SIZE


def module_of(data: Synthetic, plan: VisitPlan, parts: Part) -> Classification:
    """Re-seeding, contrast scales, noise and judged posteriors all at work."""
    grid, box = data.grid, data.grid.box
    solvent = SolventMask(box, 0.8 * box / 2, 0.95 * box / 2)
    settings = EmSettings(
        uncertainty=Uncertainty(2.0, 0, 3),
        rings=ResolutionRamp(6, grid.num_rings, 3),
        first_ring=0,
        step_size=PowerLaw(),
        transfer=ctf_on,
        expectation=maximise,
        scale_per_particle=True,
        hard_last=False,
        gather_junk=True,
        independent=1.0,
        parting=ONLINE,
        centring=ONLINE,
        perturb_poses=True,
        seed=7,
        judge=Judge(Marginalise(), sample=COUNT // 2),
    )

    def make(model: ClassModel) -> OnlineEM:
        return OnlineEM(
            model,
            solver=WienerSolver(grid, solvent, FrcRegularizer()),
            noise=NoiseModel(),
            recenter=Recenter(),
            merge=Merge(total=ONLINE, rings=8, max_shift=2.0, at=(0.5,), odds=1e3, shortest=0),
            reseed=Reseed(total=ONLINE, at=(0.0, 0.75), least=1.0, varied=0.0, shortest=0),
            seed=1,
        )

    assert parts.cache is not None
    noise = parts.cache.mean_power(1, total=parts.ranks.total)
    return Classification(
        ClassModel(data.averages, noise),
        grid,
        search_of(box, max_shift=6.0),
        plan,
        settings,
        make,
        halves=data.half,
        optics=torch.zeros(COUNT, dtype=torch.int64),
        pixel_size=PIXEL,
        ranks=parts.ranks,
        shares=parts.shares,
    )


def fit(folder: Path, bounds: tuple[int, ...]) -> None:
    """Classify as one of the processes, and write what this one holds at the end."""
    torch.set_num_threads(1)
    data = synthetic(COUNT, sigma=0.3, reach=1.5)
    size = len(bounds) - 1
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=size,
        strategy=strategy(size, timeout=3.0),
        max_epochs=ONLINE + FULL,
        logger=False,
        callbacks=[IterationCheckpoint()],
        plugins=[CheckpointFiles({})],
        default_root_dir=folder,
        enable_model_summary=False,
        enable_progress_bar=False,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
    )
    assert isinstance(trainer.strategy, SharedParticles) == (size > 1)
    ranks = joined(trainer)
    plan = VisitPlan(COUNT, COUNT // 2, ONLINE, FULL, seed=3)
    parts = Part(data, plan, ranks, Shares(bounds))
    module = module_of(data, plan, parts)
    trainer.fit(module, datamodule=parts)
    assert module.summary is not None
    held = {
        **{f"model/{name}": value for name, value in module.state_dict().items()},
        **{f"found/{name}": value for name, value in vars(module.assignments).items()},
        **{f"stats/{n}": v for n, v in module.optimizers().optimizer.stats.as_dict().items()},
        "unchanged": torch.tensor(module.summary.unchanged),
        "log_likelihood": torch.tensor(module.summary.log_likelihood),
        "visited": torch.tensor(module.summary.particles),
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(held, folder / f"held{ranks.rank}.pt")
