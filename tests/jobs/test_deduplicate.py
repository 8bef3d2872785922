import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from cryo2d.errors import InputError
from cryo2d.io.cs import build, read_array, write_array
from cryo2d.io.particles import read_particles, write_particles
from cryo2d.jobs.deduplicate import run

MICROGRAPH_PIXEL, PIXEL = 0.8, 3.2
KEPT = "cryo2dKeptImage"


def scene(count: int = 60) -> dict[str, np.ndarray]:
    """Particles far apart; every tenth one is picked again, 25 A off, with a worse posterior."""
    rng = np.random.default_rng(0)
    step = np.arange(count)
    true = np.stack([(step % 8) * 150.0 + 100, (step // 8) * 150.0 + 100], axis=1)
    again = step[::10]
    true = np.concatenate([true, true[again]])
    offset = np.concatenate([np.zeros((count, 2)), np.tile([20.0, 15.0], (len(again), 1))])
    posterior = np.concatenate([rng.uniform(0.6, 0.9, count), np.full(len(again), 0.5)])
    return {"true": true, "offset": offset, "posterior": posterior, "again": again}


def write_star(path: Path, *, size: bool = True, shift: bool = True, helical: bool = False) -> Path:
    held = scene()
    pick = (held["true"] + held["offset"]) / MICROGRAPH_PIXEL
    labels = [
        "ImageName",
        "MicrographName",
        "CoordinateX",
        "CoordinateY",
        "OpticsGroup",
        "ClassNumber",
        "AnglePsi",
    ]
    labels += ["OriginXAngst", "OriginYAngst", "MaxValueProbDistribution"] if shift else []
    labels += ["HelicalTubeID"] if helical else []
    rows = []
    for i, ((x, y), (dx, dy), p) in enumerate(
        zip(pick, held["offset"], held["posterior"], strict=True)
    ):
        row = f"{i + 1:06d}@p.mrcs mic1.mrc {x:.3f} {y:.3f} 1 {i % 5 + 1} {7 * i}"
        row += f" {dx:.4f} {dy:.4f} {p:.6f}" if shift else ""
        rows.append(row + (" 3" if helical else ""))
    optics = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnImageSize\n"
    optics += "_rlnMicrographPixelSize\n" if size else ""
    optics += f"1 {PIXEL} 64 {MICROGRAPH_PIXEL if size else ''}\n\n"
    header = "".join(f"_rln{label}\n" for label in labels)
    text = f"{optics}data_particles\nloop_\n{header}" + "\n".join(rows) + "\n"
    path.write_text(text)
    return path


def write_cs(path: Path) -> Path:
    """The same picks as cryoSPARC has them: fractions from below, rows of the images too."""
    held = scene()
    count = len(held["posterior"])
    height = width = 2000
    row = height * MICROGRAPH_PIXEL - held["true"][:, 1]
    # its rows run up, those of its images too: an image's offset counts in that direction
    pick_x = (held["true"][:, 0] + held["offset"][:, 0]) / MICROGRAPH_PIXEL
    pick_y = (row + held["offset"][:, 1]) / MICROGRAPH_PIXEL
    fields = {
        "uid": np.arange(count, dtype="<u8") + 1,
        "blob/path": np.full(count, b"p.mrc"),
        "blob/idx": np.arange(count, dtype="<u4"),
        "blob/shape": np.full((count, 2), 64, "<u4"),
        "blob/psize_A": np.full(count, PIXEL, "<f4"),
        "location/micrograph_path": np.full(count, b"mic1.mrc"),
        "location/micrograph_shape": np.tile(np.array([height, width], "<u4"), (count, 1)),
        "location/micrograph_psize_A": np.full(count, MICROGRAPH_PIXEL, "<f4"),
        "location/center_x_frac": (pick_x / width).astype("<f4"),
        "location/center_y_frac": (pick_y / height).astype("<f4"),
        "alignments2D/class": np.zeros(count, "<u4"),
        "alignments2D/pose": np.zeros(count, "<f4"),
        "alignments2D/shift": (held["offset"] / PIXEL).astype("<f4"),
        "alignments2D/psize_A": np.full(count, PIXEL, "<f4"),
        "alignments2D/class_posterior": held["posterior"].astype("<f4"),
    }
    with path.open("wb") as file:
        write_array(file, build(fields, count))
    return path


def settings(path: Path, **post: object) -> DictConfig:
    values = {"remove_duplicates": None, "min_separation": 20, "micrograph_pixel_size": None}
    return OmegaConf.create({"data": {"path": str(path), "passthrough": []}, "post": values | post})


def column(path: Path, label: str) -> list[str]:
    table, _ = read_particles(path, require_ctf=False, require_stacks=False)
    return [word.decode() for word in table.columns.rows.column(label)]


def numbers(path: Path) -> list[int]:
    table, _ = read_particles(path, require_ctf=False, require_stacks=False)
    return sorted(table.image_index.tolist())


@pytest.mark.parametrize("write", [write_star, write_cs])
def test_second_picks_go_and_say_who_stays(tmp_path, write):
    path = write(tmp_path / ("p.cs" if write is write_cs else "p.star"))
    held, out = scene(), tmp_path / "out"
    out.mkdir()
    kept = run(settings(path), out)
    count = len(held["posterior"]) - len(held["again"])
    assert kept == count
    assert numbers(out / "particles.star") == list(range(count))
    assert numbers(out / "particles.cs") == list(range(count))
    assert numbers(out / "rejected.star") == list(range(count, len(held["posterior"])))
    survivors = [int(name.split("@")[0]) - 1 for name in column(out / "rejected.star", KEPT)]
    assert survivors == held["again"].tolist()
    manifest = json.loads((out / "manifest.json").read_text())
    assert {"report.html", "picks.png", "rejected.star"} <= set(manifest["files"])
    assert f"{int(kept):,} kept" in (out / "report.html").read_text()
    particles = manifest["particles"]
    assert particles["total"] == particles["kept"] + particles["rejected"] + particles["excluded"]


def test_nothing_is_left_to_remove_from_what_a_removal_keeps(tmp_path):
    path, folders = write_cs(tmp_path / "p.cs"), [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for folder in folders:
        folder.mkdir()
    kept = run(settings(path), folders[0])
    # through a star and through a .cs: the direction of the images' rows is not forgotten
    assert run(settings(folders[0] / "particles.star"), folders[1]) == kept
    assert run(settings(folders[1] / "particles.cs"), folders[2]) == kept


def test_a_cs_made_from_a_star_knows_where_its_particles_are(tmp_path):
    table, _ = read_particles(
        write_star(tmp_path / "p.star"), require_ctf=False, require_stacks=False
    )
    write_particles(tmp_path / "p.cs", table)
    fields = read_array(tmp_path / "p.cs").dtype.names
    assert "location/center_x_frac" not in fields, "the size of the micrograph is not known"
    assert run(settings(tmp_path / "p.cs"), tmp_path) == 60


def test_every_column_survives(tmp_path):
    path = write_star(tmp_path / "p.star")
    run(settings(path), tmp_path)
    before, after = (
        column(path, "rlnOriginXAngst"),
        column(tmp_path / "particles.star", "rlnOriginXAngst"),
    )
    assert after == before[: len(after)]


def test_without_shifts_the_picks_count(tmp_path, caplog):
    path = write_star(tmp_path / "p.star", shift=False)
    kept = run(settings(path, min_separation=20), tmp_path)
    assert kept == len(scene()["posterior"])
    assert "no shifts" in caplog.text
    assert run(settings(path, min_separation=30), tmp_path) == 60


def test_filaments_only_when_asked(tmp_path, caplog):
    path = write_star(tmp_path / "p.star", helical=True)
    everything = len(scene()["posterior"])
    assert run(settings(path), tmp_path) == everything
    assert "filaments" in caplog.text
    assert not (tmp_path / "rejected.star").exists()
    assert run(settings(path, remove_duplicates=True), tmp_path) == 60


def test_unknown_pixel_size_is_refused_before_anything_is_written(tmp_path):
    path, out = write_star(tmp_path / "p.star", size=False), tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        InputError, match="unknown pixel size .* give post.micrograph_pixel_size"
    ) as error:
        run(settings(path), out)
    assert "and 65 more" in str(error.value)
    assert not list(out.iterdir())
    assert run(settings(path, micrograph_pixel_size=MICROGRAPH_PIXEL), out) == 60


def test_missing_locations_are_refused(tmp_path):
    path = write_star(tmp_path / "p.star")
    path.write_text(path.read_text().replace("_rlnCoordinateX", "_userX"))
    with pytest.raises(InputError, match="no pick locations"):
        run(settings(path), tmp_path)
