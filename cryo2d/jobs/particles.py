"""The particles of a job as its settings want them: how prepared, and where kept."""

import copy
import logging
import os
from pathlib import Path

import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.outcome import DuplicateRule, location_problems
from cryo2d.data.store import InMemory, Nowhere, OnDisk, Shared, Store
from cryo2d.errors import InputError
from cryo2d.io.particles import Excluded, ParticleTable, pose_problems, read_particles
from cryo2d.jobs import sweep
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.training.assembly import Frame
from cryo2d.training.datamodule import Particles
from cryo2d.training.hardware import number_of
from cryo2d.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


def with_particles(cfg: DictConfig, run_dir: Path) -> DictConfig:
    """The settings with a path to particles, which are simulated if none is given."""
    if cfg.data.path is not None:
        return cfg
    from cryo2d.simulate.particles import simulate

    log.info("No data.path: simulating %d particles.", cfg.simulation.num_particles)
    cfg = copy.deepcopy(cfg)
    cfg.data.path = str(simulate(run_dir / "simulated", **cfg.simulation))
    return cfg


def load(cfg: DictConfig) -> tuple[ParticleTable, Excluded]:
    """Read and check the metadata.

    Raises:
        InputError: for anything wrong with them, if duplicates cannot be found as asked, or if they
            have no poses to keep.
    """
    data = cfg.data
    table, excluded = read_particles(
        to_absolute_path(data.path),
        passthrough=[to_absolute_path(p) for p in data.passthrough],
        pixel_size=data.pixel_size,
        require_ctf=cfg.model.ctf != "none",
        max_particles=data.max_particles,
        max_bad_fraction=data.max_bad_fraction,
    )
    problems = [] if cfg.model.align else pose_problems(table)
    if cfg.post.remove_duplicates:
        rule = DuplicateRule(True, micrograph_pixel_size=cfg.post.micrograph_pixel_size)
        problems += location_problems(table, rule)
    if problems:
        raise InputError(problems)
    return table, excluded


def make_particles(
    cfg: DictConfig,
    table: ParticleTable,
    excluded: Excluded,
    frame: Frame,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Particles:
    """The particles with their preprocessing, not yet read."""
    return Particles(
        table,
        excluded,
        preprocessor_of(cfg, frame, int(table.box[0])),
        seed=cfg.seed,
        device=device,
        threads=threads_of(cfg),
        store=store_of(cfg),
        int8_signed=cfg.data.int8_signed,
        memory_fraction=cfg.hardware.memory_fraction,
        max_bad_fraction=cfg.data.max_bad_fraction,
        ranks=ranks,
    )


def preprocessor_of(cfg: DictConfig, frame: Frame, raw_box: int) -> Preprocessor:
    """Raw boxes to the samples of the working box."""
    return Preprocessor(
        frame.grid,
        raw_box,
        window=cfg.data.window,
        window_inner=cfg.data.window_inner,
        window_outer=cfg.data.window_outer,
        invert=cfg.data.invert,
        ignore_dc=cfg.data.ignore_dc,
        remove_ramp=cfg.data.remove_ramp,
    )


def store_of(cfg: DictConfig) -> Store:
    """Where the preprocessed particles are kept."""
    cache = cfg.data.cache
    fraction = cfg.hardware.memory_fraction / number_of(cfg.hardware.devices)
    if cache == "off":
        return Nowhere()
    if cache == "ram":
        return InMemory(fraction)
    folder = Path(to_absolute_path(cache))
    return Shared(folder, fraction) if folder.name == sweep.CACHE else OnDisk(folder, fraction)


def threads_of(cfg: DictConfig) -> int:
    """Threads of each process to compute and read with."""
    share = (os.cpu_count() or 1) // number_of(cfg.hardware.devices)
    return cfg.hardware.threads or max(1, share)
