"""The main job: particles in, class averages and assignments out."""

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate, to_absolute_path
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch import Tensor

from cryo2d.data.fingerprint import fingerprint
from cryo2d.data.sampler import VisitPlan
from cryo2d.em.given import KeepPoses
from cryo2d.em.model import ClassModel
from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.io.particles import ParticleTable
from cryo2d.jobs import record
from cryo2d.jobs.algorithm import em_settings, optimizer_maker
from cryo2d.jobs.limits import check_classes, check_frame
from cryo2d.jobs.particles import load, make_particles, threads_of, with_particles
from cryo2d.jobs.resume import check_input, remembered, resumed
from cryo2d.physics.preprocess import TRANSFER, working_box
from cryo2d.training.assembly import Frame
from cryo2d.training.checkpoint import CheckpointFiles
from cryo2d.training.companions import Companions
from cryo2d.training.datamodule import Particles
from cryo2d.training.hardware import joined, number_of
from cryo2d.training.live import LiveParticles
from cryo2d.training.loggers import log_settings
from cryo2d.training.module import Classification
from cryo2d.training.objectives import OBJECTIVES, USUAL
from cryo2d.training.references import given_references, random_references

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Classification)

# Lightning calls what torch >= 2.11 has renamed; nothing a user can act on.
warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Classify particles.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        The number that ``objective`` names, for sweeps.

    Raises:
        InputError: for anything wrong with the particles or with settings that depend on them.
        EnvironmentFault: if they do not fit into memory, the device is missing, or a process of the
            run is lost.
    """
    cfg, checkpoint = resumed(cfg, run_dir)
    size = number_of(cfg.hardware.devices)
    if size > 1:
        cfg = with_particles(cfg, run_dir)
    with Companions(size, partial(fitted, silent(cfg), run_dir, checkpoint)):
        module = fitted(cfg, run_dir, checkpoint)
    assert module.summary is not None
    assert module.assignments is not None
    return OBJECTIVES[cfg.get("objective", USUAL)](module.summary, module.assignments)


def fitted(cfg: DictConfig, run_dir: Path, checkpoint: str | None = None) -> Classification:
    """The module of a classification after its last iteration; errors as ``run``.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.
        checkpoint: to go on from.
    """
    torch.set_num_threads(threads_of(cfg))
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision("highest")
    cfg = with_particles(cfg, run_dir)
    table, excluded = load(cfg)
    frame = frame_of(cfg, table)
    trainer = make_trainer(cfg, run_dir)
    given = references_of(cfg, frame, int(table.box[0]))
    ranks = joined(trainer)
    if ranks.rank == 0:
        found = fingerprint(table, input_files(cfg))
        if checkpoint is not None:
            check_input(checkpoint, found)
        record.add(run_dir, input=found)
        files = trainer.strategy.checkpoint_io
        assert isinstance(files, CheckpointFiles)
        files.facts["input"] = found
    particles = make_particles(cfg, table, excluded, frame, trainer.strategy.root_device, ranks)
    cache = particles.read()
    check_classes(cfg, len(cache))
    particles.plan = VisitPlan(
        num_particles=len(cache),
        batch=cfg.model.num_classes * cfg.optimizer.batch_per_class,
        iterations=cfg.optimizer.iterations,
        full_iterations=cfg.optimizer.full_iterations,
        seed=cfg.seed,
        growth=cfg.optimizer.batch_growth,
    )
    known = known_poses(cfg, particles, frame)
    module = module_of(Classification, cfg, particles, frame, known, given)
    log_settings(trainer.loggers, told_settings(cfg))
    trainer.fit(module, datamodule=particles, ckpt_path=checkpoint)
    return module


def module_of(
    kind: type[Kind],
    cfg: DictConfig,
    particles: Particles | LiveParticles,
    frame: Frame,
    known: KeepPoses | None,
    given: Tensor | None,
) -> Kind:
    """The module of particles that were read, before its first iteration.

    Args:
        kind: its class.
        cfg: composed configuration of the job.
        particles: with their plan.
        frame: sizes.
        known: poses to keep, None to search.
        given: averages to start from ``[k y x]``, None for random ones.
    """
    cache, plan, preprocessor = particles.cache, particles.plan, particles.preprocessor
    assert cache is not None
    assert plan is not None
    assert preprocessor is not None
    return kind(
        first_model(cfg, particles, frame, known, given),
        frame.grid,
        frame.search,
        plan,
        em_settings(cfg, frame, known, preprocessor.independent),
        optimizer_maker(cfg, frame),
        halves=cache.half.cpu(),
        optics=cache.optics.cpu(),
        pixel_size=frame.pixel_size,
        ranks=particles.ranks,
        shares=particles.shares,
    )


def silent(cfg: DictConfig) -> DictConfig:
    """The settings for the other processes of a run: nothing to resolve, and no loggers."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return OmegaConf.create({**plain, "logger": None})


def input_files(cfg: DictConfig) -> list[str]:
    """Files besides the stacks that a classification reads."""
    given = [cfg.data.path, *cfg.data.passthrough, cfg.model.initial_references]
    return [to_absolute_path(path) for path in given if path is not None]


def frame_of(cfg: DictConfig, table: ParticleTable) -> Frame:
    """Working box, mask and limits, checked against each other.

    Raises:
        InputError: for more classes than particles, bands that leave nothing to align on, or
            lengths that do not fit the box.
    """
    model = cfg.model
    raw_box, raw_pixel = int(table.box[0]), float(table.pixel_size[0])
    box = working_box(raw_box, raw_pixel, model.max_resolution)
    frame = Frame(
        box=box,
        pixel_size=raw_pixel * raw_box / box,
        max_resolution=model.max_resolution,
        max_align_resolution=model.max_align_resolution,
        min_align_resolution=model.min_align_resolution,
        mask_diameter=model.mask_diameter,
        mask_diameter_outer=model.mask_diameter_outer,
        max_shift=model.max_shift,
        padding=model.zeropad,
        remove_neighbours=model.remove_neighbours,
    )
    check_classes(cfg, len(table))
    check_frame(cfg, frame)
    return frame


def make_trainer(cfg: DictConfig, run_dir: Path) -> pl.Trainer:
    """Lightning's trainer with the loggers and callbacks of the configuration."""
    total = cfg.optimizer.iterations + cfg.optimizer.full_iterations
    if total < 1:
        found = "optimizer.iterations=0 and optimizer.full_iterations=0"
        expected, action = "at least one iteration", "raise one of them"
        raise InputError([Problem("command line", found, expected, action)])
    try:
        return instantiate(
            cfg.hardware.trainer,
            max_epochs=total,
            default_root_dir=str(run_dir),
            callbacks=[instantiate(item) for item in (cfg.callbacks or {}).values()],
            logger=[instantiate(item) for item in (cfg.logger or {}).values()],
            plugins=plugins_of(cfg),
            reload_dataloaders_every_n_epochs=1,
            _convert_="all",
        )
    except Exception as error:
        if "accelerator" in str(error).lower() or "cuda" in str(error).lower():
            raise EnvironmentFault(f"the device asked for is not there: {error}") from error
        raise


def plugins_of(cfg: DictConfig) -> list[Any]:
    """How Lightning writes checkpoints, and that it leaves signals of a queue to us."""
    found: list[Any] = [CheckpointFiles(remembered(cfg))]
    if SLURMEnvironment.detect():
        # its own handler saves in the middle of an iteration
        found.append(SLURMEnvironment(auto_requeue=False))
    return found


def told_settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings that the loggers show: those that the classes depend on."""
    groups = ["data", "model", "optimizer", "post", "seed"]
    # within the whole, which they may refer to
    chosen = {name: cfg[name] for name in groups}
    return {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in chosen.items()
    }


def known_poses(cfg: DictConfig, particles: Particles, frame: Frame) -> KeepPoses | None:
    """The poses that the particles came with, if they are to be kept."""
    if cfg.model.align:
        return None
    assert particles.given_poses is not None
    return KeepPoses(particles.given_poses, frame.pixel_size)


def first_model(
    cfg: DictConfig,
    particles: Particles | LiveParticles,
    frame: Frame,
    known: KeepPoses | None,
    given: Tensor | None,
) -> ClassModel:
    """First references and noise."""
    assert particles.cache is not None
    assert particles.plan is not None
    groups = int(particles.table.optics.max()) + 1
    ranks = particles.ranks
    noise = particles.cache.mean_power(groups, total=ranks.total)
    if given is not None:
        return ClassModel(given, noise.cpu())
    generator = torch.Generator().manual_seed(cfg.seed)
    references = random_references(
        particles.cache,
        frame,
        particles.plan.rows(0),
        num_classes=cfg.model.num_classes,
        noise=noise,
        transfer=TRANSFER[cfg.model.ctf],
        scale=cfg.model.initial_scale,
        batch_size=particles.batch_size,
        generator=generator,
        known=known,
        total=ranks.total,
    )
    return ClassModel(references, noise.cpu())


def references_of(cfg: DictConfig, frame: Frame, raw_box: int) -> Tensor | None:
    """The averages to start from, if they are given."""
    path = cfg.model.initial_references
    if path is None:
        return None
    return given_references(to_absolute_path(path), frame, cfg.model.num_classes, raw_box)
