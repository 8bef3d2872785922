"""Job ``select``: the good classes of a classification, and their particles."""

import logging
import os
from pathlib import Path

from hydra.utils import to_absolute_path
from omegaconf import DictConfig, ListConfig

from cryo2d.errors import InputError, Problem
from cryo2d.jobs.selection.choice import by_number, by_rule
from cryo2d.jobs.selection.classification import Classification
from cryo2d.jobs.selection.memory import FILE
from cryo2d.jobs.selection.server import serve
from cryo2d.jobs.selection.session import Session
from cryo2d.jobs.selection.writing import Selection, write_selection

log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Select classes by a rule, by their numbers, or on a page in the browser.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Number of selected particles, for sweeps.

    Raises:
        InputError: for a folder that is no finished run, or a rule that is not understood.
        EnvironmentFault: if the page cannot be served.
    """
    folder = Path(to_absolute_path(cfg.run))
    if cfg.rules is None and cfg.classes is None:
        session = Session(folder, run_dir, memory_of(folder, run_dir), templates=cfg.templates)
        serve(session, cfg.host, cfg.port)
        written = session.written
        assert written is not None
    else:
        classification = Classification.read(folder)
        selection = chosen(cfg, classification)
        written = write_selection(run_dir, classification, selection, templates=cfg.templates)
    log.info("%s", written.summary)
    return float(written.selected)


def memory_of(folder: Path, run_dir: Path) -> Path:
    """The file that keeps the choice on the page: in the run's folder, where it is found again."""
    if os.access(folder, os.W_OK):
        return folder / FILE
    log.warning("%s cannot be written to: the choice is kept in %s", folder, run_dir)
    return run_dir / FILE


def chosen(cfg: DictConfig, classification: Classification) -> Selection:
    """The classes that the settings name.

    Raises:
        InputError: for a rule and numbers at once, or what neither of them can be.
    """
    if cfg.rules is not None and cfg.classes is not None:
        found, expected = "rules and classes", "one of them, or neither for the page"
        raise InputError([Problem("command line", found, expected, "leave one of them out")])
    if cfg.rules is not None:
        mask = by_rule(cfg.rules, classification.measures)
        return Selection(mask, "rules", cfg.rules)
    numbers = list(cfg.classes) if isinstance(cfg.classes, ListConfig) else [cfg.classes]
    return Selection(by_number(numbers, len(classification)), "classes")
