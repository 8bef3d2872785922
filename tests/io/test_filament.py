from pathlib import Path

import numpy as np
import pytest

from cryo2d.io.cs import build, read_array, write_array
from cryo2d.io.filament import SLOT
from cryo2d.io.particles import read_particles, write_particles
from cryo2d.simulate.particles import simulate


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(
        tmp_path_factory.mktemp("tubes"),
        num_particles=60,
        box=16,
        pixel_size=10.0,
        num_tubes=2,
        num_micrographs=2,
        tube_step=30.0,
    )


def cs_of(star: Path, folder: Path) -> np.ndarray:
    table, _ = read_particles(star)
    write_particles(folder / "particles.cs", table)
    return read_array(folder / "particles.cs")


def text(path: Path, label: str) -> np.ndarray:
    return read_particles(path, require_stacks=False)[0].columns.rows.column(label).astype(float)


def test_a_star_with_tubes_fills_the_slot_of_a_cs(star, tmp_path):
    array = cs_of(star, tmp_path)
    np.testing.assert_allclose(
        array["filament/filament_pose"], np.radians(-text(star, "rlnAnglePsiPrior")), atol=1e-6
    )
    track = text(star, "rlnHelicalTrackLengthAngst")
    np.testing.assert_allclose(array["filament/position_A"], track)
    np.testing.assert_allclose(array["filament/inter_box_dist_A"], 30.0)
    # three tubes: the first of both micrographs have the same number and are not the same
    assert array["filament/filament_uid"].dtype == np.uint64
    assert len(np.unique(array["filament/filament_uid"])) == 3
    assert len(np.unique(text(star, "rlnHelicalTubeID"))) == 2


def test_a_cs_with_tubes_becomes_a_star_with_them(star, tmp_path):
    array = cs_of(star, tmp_path)
    bare = {n: array[n] for n in array.dtype.names if not n.startswith("star/")}
    # the slot counts from anywhere
    bare["filament/position_A"] = bare["filament/position_A"] + np.float32(50.0)
    with (tmp_path / "bare.cs").open("wb") as file:
        write_array(file, build(bare, len(array)))
    table, _ = read_particles(tmp_path / "bare.cs", require_stacks=False)
    assert table.is_filament
    write_particles(tmp_path / "back.star", table)
    back = tmp_path / "back.star"
    np.testing.assert_allclose(
        text(back, "rlnHelicalTrackLengthAngst"),
        text(star, "rlnHelicalTrackLengthAngst"),
        atol=1e-3,
    )
    np.testing.assert_allclose(
        text(back, "rlnAnglePsiPrior"), text(star, "rlnAnglePsiPrior"), atol=1e-3
    )
    pairs = [
        set(zip(text(path, "rlnHelicalTubeID"), array["filament/filament_uid"], strict=True))
        for path in (star, back)
    ]
    assert len(pairs[0]) == len(pairs[1]) == 3


def test_there_and_back_the_columns_are_as_they_were(star, tmp_path):
    array = cs_of(star, tmp_path)
    write_particles(tmp_path / "again.star", read_particles(tmp_path / "particles.cs")[0])
    before, after = read_particles(star)[0], read_particles(tmp_path / "again.star")[0]
    for label in ("rlnHelicalTubeID", "rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst"):
        assert after.columns.rows.labels.count(label) == 1
        np.testing.assert_array_equal(
            after.columns.rows.column(label), before.columns.rows.column(label)
        )
    write_particles(tmp_path / "again.cs", after)
    again = read_array(tmp_path / "again.cs")
    for name in (name for name in array.dtype.names if name.startswith(SLOT)):
        np.testing.assert_array_equal(again[name], array[name])


def test_particles_without_tubes_have_no_slot(tmp_path):
    plain = simulate(tmp_path, num_particles=4, box=16, pixel_size=10.0, num_micrographs=2)
    assert not any(name.startswith(SLOT) for name in cs_of(plain, tmp_path).dtype.names)
