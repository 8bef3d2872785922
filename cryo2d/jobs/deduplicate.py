"""Job ``deduplicate``: of particles picked twice only the best one stays."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig

from cryo2d.data.outcome import (
    DuplicateRule,
    aligned_places,
    duplicates_of,
    image_names,
    location_problems,
    with_reasons,
    with_text_column,
)
from cryo2d.errors import InputError
from cryo2d.io.particles import Excluded, ParticleTable, read_particles, write_particles
from cryo2d.jobs.delivery import Delivery
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.picks import draw_duplicates
from cryo2d.training.drawing.report import Flow

log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Sort the particles of a file into particles.star, particles.cs and rejected.star.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Number of particles kept, for sweeps.

    Raises:
        InputError: for anything wrong with the file, or locations that are not known.
    """
    more = cfg.data.passthrough
    table, excluded = read_particles(
        to_absolute_path(cfg.data.path),
        passthrough=[to_absolute_path(p) for p in ([more] if isinstance(more, str) else more)],
        require_ctf=False,
        require_stacks=False,
    )
    post = cfg.post
    rule = DuplicateRule(post.remove_duplicates, post.min_separation, post.micrograph_pixel_size)
    kept, rejected, distance = separate(table, rule, run_dir)
    total = len(table) + len(excluded.table)
    counts = {
        "total": total,
        "kept": len(kept),
        "rejected": len(rejected),
        "excluded": len(excluded.table),
    }
    facts = {
        "micrographs": 0 if table.locations is None else len(set(table.locations.micrograph)),
        "min_separation": float(rule.min_separation),
        "median_distance": None if not len(distance) else float(np.median(distance)),
    }
    out = Delivery(run_dir, table.source)
    out.files += write_tables(run_dir, kept, rejected, excluded)
    if len(rejected):
        out.picture(picture(kept, rejected, distance, rule))
    parts = {name: count for name, count in counts.items() if name != "total"}
    headline = {
        "kept": f"{len(kept):,}",
        "rejected": f"{len(rejected):,}",
        "micrographs": f"{facts['micrographs']:,}",
        "least distance": f"{rule.min_separation:g} A",
    }
    out.close("Particles picked twice", Flow(total, parts), headline, facts=facts)
    log.info("%s", summary(facts, counts, run_dir))
    return float(len(kept))


def separate(
    table: ParticleTable, rule: DuplicateRule, folder: Path
) -> tuple[ParticleTable, ParticleTable, np.ndarray]:
    """The particles that stay, the others, and how far those are from what stays (Angstrom).

    Args:
        table: particles ``[n]``.
        rule: when two particles are one; None removes unless the data are filaments.
        folder: where the tables will be written, which decides how they name their stacks.

    Raises:
        InputError: if the locations are not known.
    """
    none, nothing = table.take(np.zeros(len(table), bool)), np.empty(0)
    if rule.remove is None and table.is_filament:
        log.warning(
            "The segments of filaments overlap on purpose: all are kept. "
            "post.remove_duplicates=true removes the nearer ones all the same."
        )
        return table, none, nothing
    if rule.remove is False:
        return table, none, nothing
    problems = location_problems(table, rule)
    if problems:
        raise InputError(problems)
    found = table.alignment
    if found is None or found.shift is None:
        log.warning("The file has no shifts: the particles are taken to lie at their picks.")
    if found is None or found.class_posterior is None:
        log.warning("The file has no class posterior: of two particles the first one stays.")
    duplicates = duplicates_of(table, rule)
    rows, survivors = ~duplicates.keep, duplicates.survivor[~duplicates.keep]
    names = image_names(table.take(survivors), folder)
    rejected = with_text_column(table.take(rows), "cryo2dKeptImage", names)
    place = aligned_places(table, rule)
    distance = np.linalg.norm(place[rows] - place[survivors], axis=1)
    return table.take(duplicates.keep), rejected, distance


def picture(
    kept: ParticleTable, rejected: ParticleTable, distance: np.ndarray, rule: DuplicateRule
) -> Picture:
    """Where the picks are that stay, and those that go."""
    stay, go = (
        (table.locations.micrograph, aligned_places(table, rule))
        for table in (kept, rejected)
        if table.locations is not None
    )
    png = draw_duplicates(stay, go, distance, rule.min_separation)
    caption = (
        "Left: the micrograph that loses most picks, after the shifts of the particles. Distances "
        "that all crowd at the limit are neighbours, not particles picked twice."
    )
    return Picture("Picks", png, caption, "picks.png")


def write_tables(
    folder: Path, kept: ParticleTable, rejected: ParticleTable, excluded: Excluded
) -> list[str]:
    """Write the particles; the names of the files."""
    write_particles(folder / "particles.star", kept)
    write_particles(folder / "particles.cs", kept)
    written = ["particles.star", "particles.cs"]
    for name, table in (("rejected.star", rejected), ("excluded.star", with_reasons(excluded))):
        if len(table):
            write_particles(folder / name, table)
            written.append(name)
    return written


def summary(facts: Mapping[str, object], counts: Mapping[str, int], folder: Path) -> str:
    """What the terminal shows."""
    total = counts["total"]
    place = f" on {facts['micrographs']:,} micrographs" if facts["micrographs"] else ""
    lines = [f"{total:,} particles{place}"]
    lines += [f"  {name:9}{counts[name]:>12,}" for name in ("kept", "rejected", "excluded")]
    if counts["rejected"]:
        lines[2] += (
            f"   {counts['rejected'] / total:.1%} nearer than {facts['min_separation']:g} A "
            f"to a better one (median {facts['median_distance']:.1f} A)"
        )
    return "\n".join([*lines, str(folder / "particles.star")])
