"""The particles of a job as its settings want them: how prepared, and where kept."""

import os
from pathlib import Path

import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.store import InMemory, Nowhere, OnDisk, Store
from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.training.assembly import Frame
from cryo2d.training.datamodule import Particles


def make_particles(
    cfg: DictConfig,
    table: ParticleTable,
    excluded: Excluded,
    frame: Frame,
    device: torch.device,
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
    )


def store_of(cfg: DictConfig) -> Store:
    """Where the preprocessed particles are kept."""
    cache, fraction = cfg.data.cache, cfg.hardware.memory_fraction
    if cache == "off":
        return Nowhere()
    if cache == "ram":
        return InMemory(fraction)
    return OnDisk(Path(to_absolute_path(cache)), fraction)


def threads_of(cfg: DictConfig) -> int:
    """Threads to compute and read with."""
    return cfg.hardware.threads or os.cpu_count() or 1
