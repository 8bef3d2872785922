"""Job ``simulate``: a particle stack whose truth is known."""

import logging
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from cryo2d.simulate.particles import simulate

_log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path) -> None:
    """Simulates what ``cfg.simulation`` says into the run folder.

    Args:
        cfg: the resolved configuration; ``simulation`` holds the fields of ``Recipe``.
        run_dir: existing folder.

    Raises:
        InputError: for settings that cannot be simulated.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg.simulation, resolve=True))
    star = simulate(run_dir, **settings)
    _log.info("Simulated %d particles: %s", settings["num_particles"], star)
