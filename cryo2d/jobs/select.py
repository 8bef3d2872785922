"""Job ``select``: the good classes of a classification, and their particles."""

import logging
from pathlib import Path

from hydra.utils import to_absolute_path
from omegaconf import DictConfig, ListConfig

from cryo2d.errors import InputError, Problem
from cryo2d.jobs.selection.choice import by_number, by_rule
from cryo2d.jobs.selection.classification import Classification
from cryo2d.jobs.selection.writing import Selection, write_selection

log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Select classes by a rule or by their numbers.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Number of selected particles, for sweeps.

    Raises:
        InputError: for a folder that is no finished run, or a rule that is not understood.
    """
    classification = Classification.read(Path(to_absolute_path(cfg.run)))
    selection = chosen(cfg, classification)
    written = write_selection(run_dir, classification, selection, templates=cfg.templates)
    log.info("%s", written.summary)
    return float(written.selected)


def chosen(cfg: DictConfig, classification: Classification) -> Selection:
    """The classes that the settings name.

    Raises:
        InputError: for a rule and numbers at once, or what neither of them can be.
    """
    if (cfg.rules is None) == (cfg.classes is None):
        found = "neither rules nor classes" if cfg.rules is None else "rules and classes"
        raise InputError([Problem("command line", found, "one of them", "give rules or classes")])
    if cfg.rules is not None:
        mask = by_rule(cfg.rules, classification.measures)
        return Selection(mask, "rules", cfg.rules)
    numbers = list(cfg.classes) if isinstance(cfg.classes, ListConfig) else [cfg.classes]
    return Selection(by_number(numbers, len(classification)), "classes")
