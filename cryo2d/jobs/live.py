"""Job ``live``: classification while a microscope runs."""

import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.feed import Feed
from cryo2d.data.visits import GrowingPlan
from cryo2d.errors import InputError, Problem
from cryo2d.jobs.classify import (
    frame_of,
    make_trainer,
    module_of,
    references_of,
    told_settings,
)
from cryo2d.jobs.conflicts import as_typed
from cryo2d.jobs.limits import check_classes
from cryo2d.jobs.particles import preprocessor_of, threads_of
from cryo2d.jobs.resume import resumed
from cryo2d.training.assembly import Frame
from cryo2d.training.callbacks.page import waiting_page, write_page
from cryo2d.training.hardware import number_of
from cryo2d.training.live import STOP, LiveClassification, LiveParticles
from cryo2d.training.loggers import log_settings

log = logging.getLogger(__name__)

DELIVERIES = "deliveries"
FIRST_PER_CLASS = 50
STOPPED = 143

# What a job whose particles are not known in advance cannot do.
FIXED = {
    "data.passthrough": [],
    "data.cache": "ram",
    "data.max_bad_fraction": 0.1,
    "model.align": True,
    "model.align_filaments": False,
}


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Classify particles as they arrive.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Median resolution of the classes at FRC 0.5 (Angstrom).

    Raises:
        InputError: for settings that need all particles, or if the source ends without any.
        EnvironmentFault: if they do not fit into memory, or the device is missing.
        SystemExit: if it is stopped before there are any classes.
    """
    cfg, checkpoint = resumed(cfg, run_dir)
    check_fixed(cfg)
    torch.set_num_threads(threads_of(cfg))
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_float32_matmul_precision("highest")
    (run_dir / STOP).unlink(missing_ok=True)
    trainer = make_trainer(cfg, run_dir)
    log_settings(trainer.loggers, told_settings(cfg))
    particles = particles_of(cfg, run_dir, trainer.strategy.root_device)
    particles.interruption.listen()
    begin_page(cfg, particles)
    try:
        if checkpoint is not None:
            particles.receive(particles.feed.restore(Path(checkpoint).parents[1] / DELIVERIES))
        frame = opened(cfg, particles)
        given = references_of(cfg, frame, int(particles.table.box[0]))
        module = module_of(LiveClassification, cfg, particles, frame, None, given)
        # how many iterations there will be shows as the particles come
        trainer.fit_loop.max_epochs = -1
        trainer.fit(module, datamodule=particles, ckpt_path=checkpoint)
    finally:
        particles.interruption.restore()
    if particles.feed.waiting:
        waited = ", ".join(sorted(particles.feed.waiting)[:10])
        log.warning("Not whole at the end, and left for resume: %s", waited)
    for path, reason in particles.feed.unreadable.items():
        log.warning("%s was never whole: %s", path, reason)
    log.info("cryo2d live resume=%s goes on from here.", run_dir)
    assert module.summary is not None
    return float(module.summary.class_resolution[:, 0].median())


def begin_page(cfg: DictConfig, particles: LiveParticles) -> None:
    """Write the page that says what is waited for, if there is to be one."""
    page = (cfg.callbacks or {}).get("page")
    if page is not None:
        write_page(particles.folder, waiting_page(particles.feed.watch, least(cfg), page.every))


def least(cfg: DictConfig) -> int:
    """Particles that it begins with."""
    return int(cfg.live.first or FIRST_PER_CLASS * cfg.model.num_classes)


def check_fixed(cfg: DictConfig) -> None:
    """Refuse settings that need all particles at once, and a source that is not there.

    Raises:
        InputError: with each of them.
    """
    problems = []
    for key, value in FIXED.items():
        group, name = key.split(".")
        if cfg[group][name] != value:
            found = f"{key}={as_typed(cfg[group][name])}"
            expected = f"{key}={as_typed(value)} in the job live"
            problems.append(Problem("command line", found, expected, "leave it out"))
    if cfg.data.path != cfg.watch:
        found, expected = f"data.path={cfg.data.path}", "that of watch"
        problems.append(Problem("command line", found, expected, "leave it out and set watch"))
    if number_of(cfg.hardware.devices) > 1:
        found = f"hardware.devices={cfg.hardware.devices}"
        problems.append(Problem("command line", found, "one device in the job live", "set it to 1"))
    watch = Path(to_absolute_path(cfg.watch or "."))
    if cfg.watch is None:
        problems.append(Problem("command line", "no watch", "a folder or a .star file", "add it"))
    elif not (watch.is_dir() or watch.suffix == ".star"):
        expected = "a folder, or a .star file that is there or will be"
        problems.append(Problem(str(watch), "neither", expected, "correct watch"))
    if problems:
        raise InputError(problems)


def particles_of(cfg: DictConfig, run_dir: Path, device: torch.device) -> LiveParticles:
    """The particles to come."""
    live = cfg.live
    feed = Feed(
        Path(to_absolute_path(cfg.watch)),
        run_dir / DELIVERIES,
        pattern=live.pattern,
        patience=live.patience,
        pixel_size=cfg.data.pixel_size,
        require_ctf=cfg.model.ctf != "none",
    )
    plan = GrowingPlan(
        cfg.model.num_classes * cfg.optimizer.batch_per_class,
        cfg.optimizer.iterations,
        cfg.optimizer.full_iterations,
        visits=live.visits,
        old_share=live.old_share,
        seed=cfg.seed,
        growth=cfg.optimizer.batch_growth,
    )
    return LiveParticles(
        feed,
        plan,
        seed=cfg.seed,
        device=device,
        threads=threads_of(cfg),
        folder=run_dir,
        poll=live.poll,
        idle=live.idle,
        most=cfg.data.max_particles,
        int8_signed=cfg.data.int8_signed,
        memory_fraction=cfg.hardware.memory_fraction,
    )


def opened(cfg: DictConfig, particles: LiveParticles) -> Frame:
    """Wait for the first particles, read them, and lay out what they are compared in.

    Raises:
        InputError: if the source ends without enough of them.
        SystemExit: if it is stopped before.
    """
    first = least(cfg)
    log.info("Waiting for %s particles in %s.", f"{first:,}", particles.feed.watch)
    particles.wait(lambda: particles.arrived >= first)
    table = particles.waiting
    if particles.interruption.asked and particles.arrived < cfg.model.num_classes:
        raise SystemExit(STOPPED)
    if table is None:
        reasons = "; ".join(particles.feed.unreadable.values()) or "no particles"
        source = str(particles.feed.watch)
        raise InputError([Problem(source, reasons, "star files with stacks", "check watch")])
    frame = frame_of(cfg, table)
    particles.preprocessor = preprocessor_of(cfg, frame, int(table.box[0]))
    particles.read()
    check_classes(cfg, len(particles.held))
    return frame
