"""Job ``convert``: particles in the other format, recentred on request."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.outcome import with_reasons
from cryo2d.data.recentering import pick_problems, recentred
from cryo2d.errors import InputError, Problem
from cryo2d.io.particles import Excluded, write_particles
from cryo2d.jobs.source import Source, read_source
from cryo2d.training.manifest import versions, write_manifest

log = logging.getLogger(__name__)

KINDS = (".star", ".cs")


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Write the particles of a file as another file.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder of the log and of what has no other place.

    Returns:
        Number of particles written, for sweeps.

    Raises:
        InputError: for anything wrong with the files, or picks that cannot be moved.
    """
    path = Path(to_absolute_path(cfg.data.path))
    out = target(cfg.out, path, run_dir)
    source = read_source(cfg)
    facts: dict[str, Any] = {}
    table = source.table
    if cfg.recenter:
        problems = pick_problems(table, cfg.micrograph_pixel_size)
        if problems:
            raise InputError(problems)
        moved = recentred(table, cfg.micrograph_pixel_size)
        table = moved.table
        facts = {
            "median_move": float(np.median(moved.distance)),
            "longest_move": float(moved.distance.max(initial=0.0)),
            "picks_outside": int(moved.outside.sum()),
        }
    write_particles(out, table)
    files = [out.name] if out.parent == run_dir.resolve() else []
    files += write_excluded(run_dir, source.excluded)
    counts = {"total": source.total, "written": len(table), "excluded": len(source.excluded.table)}
    common = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": table.source,
        "written": str(out),
        "particles": counts,
        "versions": versions(),
    }
    write_manifest(run_dir, files, common | facts)
    log.info("%s", summary(source, counts, facts, out))
    return float(len(table))


def target(out: str | None, path: Path, run_dir: Path) -> Path:
    """The file to write.

    Raises:
        InputError: if it is none of the two kinds, or the file that is read.
    """
    if out is None:
        kind = ".star" if path.suffix == ".cs" else ".cs"
        return run_dir.resolve() / f"particles{kind}"
    found = Path(to_absolute_path(out)).resolve()
    if found.suffix not in KINDS:
        action = "name the file NAME.star or NAME.cs"
        raise InputError([Problem("command line", f"out={out}", "a .star or .cs file", action)])
    if found == path.resolve():
        expected = "another file than data.path"
        raise InputError([Problem("command line", f"out={out}", expected, "choose another name")])
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


def write_excluded(folder: Path, excluded: Excluded) -> list[str]:
    """Write particles that cannot be used, with the reason; the names of the files."""
    if not len(excluded.table):
        return []
    write_particles(folder / "excluded.star", with_reasons(excluded))
    return ["excluded.star"]


def summary(source: Source, counts: dict[str, int], facts: dict[str, Any], out: Path) -> str:
    """What the terminal shows."""
    lines = [f"{counts['written']:,} of {source.total:,} particles"]
    if facts:
        lines.append(
            f"picks moved by {facts['median_move']:.1f} A (median), "
            f"{facts['longest_move']:.1f} A at most"
        )
    if facts.get("picks_outside"):
        lines.append(
            f"{facts['picks_outside']:,} picks no longer lie on their micrograph; extraction will "
            "leave them out"
        )
    return "\n".join([*lines, str(out)])
