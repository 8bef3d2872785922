"""Job ``relion``: the classification as an External job of a RELION project."""

import json
import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from cryo2d.io.averages import read_class_averages
from cryo2d.io.relion_job import OUTPUT_NODES, write_model, write_output_nodes
from cryo2d.jobs import classify
from cryo2d.jobs.resume import keep_settings
from cryo2d.training.callbacks.checkpoint import FOLDER, has_checkpoint
from cryo2d.training.manifest import write_manifest

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Classify particles and hand the classes to RELION.

    A job that RELION continues goes on from its last checkpoint with the settings it began with; a
    finished one begins again.

    Args:
        cfg: composed configuration of the job.
        run_dir: output folder of the job, inside the project that is the current folder.

    Returns:
        Mean resolution of the classes by particles (Angstrom).

    Raises:
        InputError: for anything wrong with the particles or with settings that depend on them.
        EnvironmentFault: if they do not fit into memory, or the device is missing.
    """
    (run_dir / OUTPUT_NODES).unlink(missing_ok=True)
    go_on(cfg, run_dir)
    resolution = classify.run(cfg, run_dir)
    hand_over(run_dir, Path.cwd(), cfg.model.mask_diameter)
    return resolution


def go_on(cfg: DictConfig, run_dir: Path) -> None:
    """Set ``cfg.resume`` if the folder has an unfinished run; else clear what an older one left."""
    unfinished = not (run_dir / MANIFEST).is_file() and has_checkpoint(run_dir)
    if cfg.resume is None and unfinished:
        keep_settings(cfg, run_dir)
        cfg.resume = str(run_dir)
        return
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    (run_dir / MANIFEST).unlink(missing_ok=True)


def hand_over(run_dir: Path, project: Path, mask_diameter: float | None) -> None:
    """Write what RELION's next jobs read, and add it to the manifest.

    Args:
        run_dir: of the finished classification.
        project: folder of the project.
        mask_diameter: of the particle (Angstrom), None for the whole box.
    """
    averages = read_class_averages(run_dir)
    diameter = mask_diameter or averages.images.shape[-1] * averages.pixel_size
    nodes = write_model(run_dir, project, averages, diameter)
    facts = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
    written = [*facts.pop("files"), *nodes, write_output_nodes(run_dir, project, nodes)]
    write_manifest(run_dir, written, facts)
    log.info("For RELION: %s", ", ".join(nodes))
