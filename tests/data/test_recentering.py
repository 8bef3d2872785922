"""Moved picks: the particle stays where it is, whatever the format."""

from dataclasses import replace

import numpy as np
import pytest

from cryo2d.data.outcome import DuplicateRule, aligned_places
from cryo2d.data.recentering import pick_problems, recentred
from cryo2d.io.columns import CsColumns
from cryo2d.io.cs import build
from cryo2d.io.particles import AlignmentColumns, Locations, ParticleTable, read_particles
from cryo2d.io.particles import write_particles as write

COUNT, PIXEL, MICROGRAPH = 40, 3.0, 1.2
SHAPE = np.array([900, 700])


def table(rng: np.random.Generator, cs: bool) -> ParticleTable:
    """Picks with shifts; as a .cs, rows of whose images run up."""
    pick = rng.integers(100, 600, (COUNT, 2)).astype(float)
    shift = rng.uniform(-20, 20, (COUNT, 2))
    fields = {"uid": np.arange(COUNT, dtype="<u8")}
    if cs:
        fields |= {
            "location/micrograph_path": np.full(COUNT, b"m.mrc"),
            "location/micrograph_shape": np.tile(SHAPE.astype("<u4"), (COUNT, 1)),
            "location/center_x_frac": (pick[:, 0] / SHAPE[1]).astype("<f4"),
            "location/center_y_frac": (1 - pick[:, 1] / SHAPE[0]).astype("<f4"),
            "location/micrograph_psize_A": np.full(COUNT, MICROGRAPH, "<f4"),
            "alignments3D/shift": (shift / PIXEL).astype("<f4"),
        }
    made = ParticleTable(
        source="p",
        source_row=np.arange(1, COUNT + 1),
        stacks=("p.mrcs",),
        stack_names=("p.mrcs",),
        stack_id=np.zeros(COUNT, np.int32),
        image_index=np.arange(COUNT),
        optics_names=("g",),
        box=np.array([64]),
        optics=np.zeros(COUNT, np.int32),
        pixel_size=np.full(COUNT, PIXEL),
        sign=np.ones(COUNT, np.float32),
        locations=Locations(
            np.full(COUNT, "m.mrc", object),
            pick[:, 0],
            pick[:, 1],
            np.full(COUNT, MICROGRAPH),
            np.tile(SHAPE if cs else SHAPE * 0, (COUNT, 1)),
        ),
        columns=CsColumns(build(fields, COUNT)) if cs else None,
    )
    poses = {"psi": rng.uniform(-3, 3, COUNT), "class_index": np.zeros(COUNT, np.int64)}
    return made.with_alignment(AlignmentColumns(shift=shift, **poses))


@pytest.mark.parametrize("cs", [False, True])
def test_the_particle_stays_and_the_pick_comes_to_it(rng, cs):
    before = table(rng, cs)
    found = recentred(before)
    rule = DuplicateRule()
    np.testing.assert_allclose(
        aligned_places(found.table, rule), aligned_places(before, rule), atol=1e-9
    )
    place = found.table.locations
    assert (place.x == np.round(place.x)).all()
    assert (place.y == np.round(place.y)).all()
    assert (np.abs(found.table.alignment.shift) <= MICROGRAPH / 2 + 1e-9).all()
    assert not found.outside.any()
    again = recentred(found.table)
    np.testing.assert_array_equal(again.table.locations.x, place.x)
    assert (again.distance == 0).all()


def test_the_direction_is_that_of_relion_and_of_cryosparc(rng):
    """RELION: new coordinate = coordinate - origin / pixel; in a .cs y counts from below."""
    for cs in (False, True):
        one = table(rng, cs)
        place, new = one.locations, recentred(one).table.locations
        step = one.alignment.shift / MICROGRAPH
        assert np.abs(new.x - (place.x - step[:, 0])).max() <= 0.5
        down = place.y - step[:, 1] if not cs else place.y + step[:, 1]
        assert np.abs(new.y - down).max() <= 0.5


@pytest.mark.parametrize("cs", [False, True])
@pytest.mark.parametrize(
    "kinds", [("star",), ("cs",), ("star", "cs"), ("cs", "star"), ("cs", "cs")]
)
def test_new_picks_survive_every_format(rng, tmp_path, cs, kinds):
    before = table(rng, cs)
    # through a file, so that old picks stand in its columns
    write(tmp_path / "in.star", before)
    old, _ = read_particles(tmp_path / "in.star", require_ctf=False, require_stacks=False)
    if cs:
        old = before
    new = got = recentred(old, MICROGRAPH).table
    for i, kind in enumerate(kinds):
        path = tmp_path / f"{i}.{kind}"
        write(path, got)
        got, _ = read_particles(path, require_ctf=False, require_stacks=False)
    np.testing.assert_allclose(got.locations.x, new.locations.x, atol=2e-3)
    np.testing.assert_allclose(got.locations.y, new.locations.y, atol=2e-3)
    np.testing.assert_allclose(got.alignment.shift, new.alignment.shift, atol=1e-4)


def test_3d_shifts_change_by_the_same(rng):
    before = table(rng, cs=True)
    after = recentred(before).table
    field = "alignments3D/shift"
    step = (after.columns.array[field] - before.columns.array[field]) * PIXEL
    expected = after.alignment.shift - before.alignment.shift
    np.testing.assert_allclose(step, expected, atol=1e-4)


def test_picks_that_leave_the_micrograph_are_counted(rng):
    before = table(rng, cs=True)
    shift = before.alignment.shift.copy()
    shift[3, 0] = 5000.0
    moved = recentred(before.with_alignment(replace(before.alignment, shift=shift)))
    assert np.flatnonzero(moved.outside).tolist() == [3]


def test_what_is_missing_is_said(rng):
    one = table(rng, cs=False)
    assert not pick_problems(one, None)
    assert "no pick locations" in str(pick_problems(replace(one, locations=None), None)[0])
    bare = replace(one, alignment=None)
    assert "no shifts" in str(pick_problems(bare, None)[0])
    unknown = replace(one.locations, pixel_size=np.full(COUNT, np.nan))
    unsized = replace(one, locations=unknown)
    assert "micrograph_pixel_size" in str(pick_problems(unsized, None)[0])
    assert not pick_problems(unsized, 1.2)
