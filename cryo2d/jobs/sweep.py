"""Sweeps: what their runs share, what a sweeper looks for, and how they end."""

import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cryo2d.errors import Problem

log = logging.getLogger(__name__)

DIRECTION: Mapping[str, str] = {
    "mean_frc_resolution": "minimize",
    "effective_classes": "maximize",
    "stability": "maximize",
    "junk_separation": "maximize",
    "likelihood": "maximize",
}
"""What a run may be judged by, and which way is better."""

SWEEPER_PROBLEMS: Sequence[tuple[str, str, str, str]] = (
    (
        "does not support dynamic value space",
        "a space of settings other than that of the study so far",
        "the same choices for as long as a study has the same name",
        "begin another: hydra.sweeper.study_name=NAME",
    ),
    (
        "No trials are completed yet",
        "no trial of the study that succeeded",
        "at least one",
        "correct what the runs say",
    ),
)
"""What sweepers raise for a mistake of the user: their words, and what a problem says."""

FAILURE = "failure.json"
CACHE = "shared_particles"
"""Folder in that of a sweep."""


def sweep_name() -> str | None:
    """Name of the sweep that this run is part of, None for a run of its own."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).name


OmegaConf.register_new_resolver("sweep", sweep_name, replace=True)
OmegaConf.register_new_resolver("direction", DIRECTION.__getitem__, replace=True)


def share_particles(cfg: DictConfig, folder: Path) -> None:
    """Let the runs of a sweep read the particles once: into its folder, in place of memory alone.

    Only where nothing was said of ``data.cache``. Of runs at the same time one reads while the
    others wait; where the disk has no room each reads.

    Args:
        cfg: of one run; ``data.cache`` is changed.
        folder: of the sweep.
    """
    path, cache = (OmegaConf.select(cfg, key) for key in ("data.path", "data.cache"))
    said = any("data.cache=" in text for text in HydraConfig.get().overrides.task)
    if path is not None and cache == "ram" and not said:
        cfg.data.cache = str((folder / CACHE).resolve())


def sweeper_problem(error: BaseException) -> Problem | None:
    """The user's mistake that a sweeper could not go on from, None if it was another error."""
    for words, found, expected, action in SWEEPER_PROBLEMS:
        if words in str(error):
            return Problem("command line", found, expected, action)
    return None


def record_failure(run_dir: Path, code: int, text: str) -> None:
    """Leave word of a run that failed, for the end of its sweep."""
    told = json.dumps({"exit_code": code, "message": text})
    (run_dir / FAILURE).write_text(told + "\n", encoding="utf-8")


def failures(folder: Path) -> list[tuple[str, int, str]]:
    """Number, exit code and message of the failed runs of a sweep."""
    found = []
    for path in folder.glob(f"*/{FAILURE}"):
        told = json.loads(path.read_text(encoding="utf-8"))
        found.append((path.parent.name, int(told["exit_code"]), str(told["message"])))
    return sorted(found, key=lambda failure: (len(failure[0]), failure[0]))


class SweepEnd(Callback):
    """Hydra's callback that ends a sweep: says what failed, compares the rest, exits.

    Args:
        compare: run ``cryo2d compare`` over the finished runs, if there are two; else print it.
    """

    def __init__(self, compare: bool = True) -> None:
        self.compare = compare

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of the sweep, in which a sweeper may keep its own file."""
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how the sweep went.

        Raises:
            SystemExit: with the worst exit code, if a run failed.
        """
        folder = Path(config.hydra.sweep.dir)
        shutil.rmtree(folder / CACHE, ignore_errors=True)
        failed = failures(folder)
        for name, code, text in failed:
            first = text.splitlines()[1 if text.count("\n") else 0].strip()
            sys.stderr.write(f"cryo2d: run {name} of {folder} failed ({code}): {first}\n")
        finished = [path.parent for path in folder.glob("*/manifest.json")]
        if config.hydra.job.config_name == "classify" and len(finished) > 1:
            command = ["compare", str(folder)]
            sys.stdout.write(f"\n{shlex.join(['cryo2d', *command])}\n")
            sys.stdout.flush()
            if self.compare:
                subprocess.run([sys.executable, "-m", "cryo2d", *command], check=False)
        if failed:
            raise SystemExit(max(code for _, code, _ in failed))
