"""Going on with an interrupted run: in its folder, with its particles and its settings.

The settings are composed anew from what was typed (`settings_file`) and compared with
those that the checkpoint holds.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from cryo2d import __version__
from cryo2d.errors import InputError, Problem
from cryo2d.jobs.conflicts import COMMAND_LINE
from cryo2d.jobs.settings_file import (
    REFERENCE,
    as_text,
    leaves,
    read_settings,
    write_settings,
)
from cryo2d.jobs.targets import TARGET
from cryo2d.training.callbacks.checkpoint import newest_checkpoint
from cryo2d.training.checkpoint import FACTS, read_state

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
GROUPS = ("data", "model", "optimizer", "post", "simulation", "live", "seed")
"""Settings that the result depends on."""

FREE = (
    *("data.path", "data.passthrough", "data.cache"),
    *("live.poll", "live.patience", "live.idle", "live.pattern"),
)
"""Except these; the particles themselves are compared."""


def remembered(cfg: DictConfig) -> dict[str, Any]:
    """What every checkpoint of a run says of it, beside its state; its input comes later."""
    chosen = {name: cfg[name] for name in GROUPS if name in cfg}
    plain = {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in chosen.items()
    }
    return {"version": __version__, "settings": plain, "input": {}}


def resumed(cfg: DictConfig, run_dir: Path) -> tuple[DictConfig, str | None]:
    """The settings to run with, and the checkpoint to go on from.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder of the run, which gets the settings.

    Raises:
        InputError: if the folder is not that of an interrupted run, or of one with other settings.
    """
    if cfg.resume is None:
        return cfg, None
    folder = Path(to_absolute_path(cfg.resume))
    # a live run goes on whenever there are more particles
    if "live" not in cfg and (folder / MANIFEST).is_file():
        expected, action = "an interrupted run", "start one of its own for other settings"
        raise InputError([Problem(str(folder), "a finished run", expected, action)])
    newest = newest_checkpoint(folder)
    held = dict(leaves(_begun(folder) if newest is None else newest[1][FACTS]["settings"]))
    if cfg.seed is None:
        cfg.seed = held.get("seed")
    _refuse_others(folder, held, cfg)
    simulated = folder / "simulated" / "particles.star"
    if cfg.data.path is None and simulated.is_file():
        cfg.data.path = str(simulated)
    if folder.resolve() == run_dir.resolve():
        cfg.resume = None
    write_settings(cfg, run_dir)
    if newest is None:
        log.info("No iteration of %s was finished: it begins again.", folder)
        return cfg, None
    checkpoint, state = newest
    if state[FACTS]["version"] != __version__:
        log.warning("The run was begun by version %s of cryo2d.", state[FACTS]["version"])
    log.info("Going on from %s after iteration %d.", checkpoint, state["epoch"] + 1)
    return cfg, str(checkpoint)


def _begun(folder: Path) -> dict[str, Any]:
    """The settings of a run that was interrupted before its first checkpoint.

    Raises:
        InputError: if the folder is not that of a run.
    """
    found = read_settings(folder)
    if found is None or "optimizer" not in found:
        shown = "no checkpoint" if folder.is_dir() else "no such folder"
        expected = "the folder of an interrupted run, with checkpoints/last.safetensors"
        raise InputError([Problem(str(folder), shown, expected, "give that of an earlier run")])
    return remembered(found)["settings"]


def _refuse_others(folder: Path, held: Mapping[str, Any], cfg: DictConfig) -> None:
    """Refuse settings that are not those of the run.

    Raises:
        InputError: with each of them.
    """
    problems = []
    for key, was, value in _changed(held, cfg):
        found, expected = f"{key}={as_text(value)}", f"{key}={as_text(was)}, as in {folder}"
        action = "leave it out, or start a run of its own"
        problems.append(Problem(COMMAND_LINE, found, expected, action))
    if problems:
        raise InputError(problems)


def _changed(held: Mapping[str, Any], cfg: DictConfig) -> Iterator[tuple[str, Any, Any]]:
    """Settings with the value that a run has and the one that was composed."""
    composed = dict(leaves(remembered(cfg)["settings"]))
    for key in dict.fromkeys([*held, *composed]):
        was, value = held.get(key), composed.get(key)
        if key not in FREE and as_text(was) != as_text(value):
            yield key, was, value


def keep_settings(cfg: DictConfig, folder: Path) -> None:
    """Put the plain settings of an interrupted run in place of others, and say so."""
    newest = newest_checkpoint(folder)
    held = {} if newest is None else dict(leaves(newest[1][FACTS]["settings"]))
    for key, was, value in list(_changed(held, cfg)):
        if TARGET in key or REFERENCE in str(was):
            continue
        if key != "seed":
            shown = key, as_text(was), as_text(value)
            log.warning("The run goes on with %s=%s as it began, not %s.", *shown)
        OmegaConf.update(cfg, key, was)


def check_input(checkpoint: str, now: Mapping[str, str]) -> None:
    """Refuse to go on with other particles.

    Args:
        checkpoint: to go on from.
        now: fingerprint of the input.

    Raises:
        InputError: with each file that has changed.
    """
    before = read_state(Path(checkpoint))[FACTS]["input"]
    action = "give back the files of the run, or start a run of its own"
    problems = [
        Problem(name, now.get(name, "no such file"), f"{was}, as at the checkpoint", action)
        for name, was in before.items()
        if now.get(name) != was
    ]
    if problems:
        raise InputError(problems)
