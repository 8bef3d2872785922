"""Job ``convert``: particles in the other format, recentred on request."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.outcome import with_reasons
from cryo2d.data.recentering import Recentred, pick_problems, recentred
from cryo2d.errors import InputError, Problem
from cryo2d.io.particles import Excluded, ParticleTable, write_particles
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.source import Source, read_source
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.picks import draw_moves
from cryo2d.training.drawing.report import Flow

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
    table, pictures = source.table, []
    if cfg.recenter:
        problems = pick_problems(table, cfg.micrograph_pixel_size)
        if problems:
            raise InputError(problems)
        moved = recentred(table, cfg.micrograph_pixel_size)
        facts = {
            "median_move": float(np.median(moved.distance)),
            "longest_move": float(moved.distance.max(initial=0.0)),
            "picks_outside": int(moved.outside.sum()),
        }
        pictures.append(picture(table, moved, cfg.micrograph_pixel_size))
        table = moved.table
    write_particles(out, table)
    delivery = Delivery(run_dir, source.table.source)
    delivery.files += [out.name] if out.parent == run_dir.resolve() else []
    delivery.files += write_excluded(run_dir, source.excluded)
    for one in pictures:
        delivery.picture(one)
    counts = {"total": source.total, "written": len(table), "excluded": len(source.excluded.table)}
    headline = {"particles": f"{len(table):,}", "written as": out.suffix}
    if facts:
        headline["median move"] = f"{facts['median_move']:.1f} A"
    parts = {name: count for name, count in counts.items() if name != "total"}
    delivery.close(
        "Particles converted",
        Flow(source.total, parts),
        headline,
        facts={"written": str(out)} | facts,
    )
    log.info("%s", summary(source, counts, facts, out))
    return float(len(table))


def picture(table: ParticleTable, moved: Recentred, pixel_size: float | None) -> Picture:
    """Where the picks were, and where they are."""
    before, after = table.locations, moved.table.locations
    assert before is not None
    assert after is not None
    size = before.pixel_size if pixel_size is None else np.full(len(table), pixel_size)
    places = [np.stack([place.x, place.y], axis=1) * size[:, None] for place in (before, after)]
    png = draw_moves(before.micrograph, places[0], places[1], moved.distance)
    caption = "Left: the micrograph with most picks. Right: how far each pick moved."
    return Picture("Recentred picks", png, caption, "moves.png")


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
