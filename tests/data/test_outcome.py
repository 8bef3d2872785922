from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_run import make_assignments, make_table

from cryo2d.data.duplicates import UnknownPositionError
from cryo2d.data.outcome import (
    NEVER_VISITED,
    DuplicateRule,
    alignment_columns,
    extended,
    image_names,
    joined,
    location_problems,
    settle,
    with_text_column,
)
from cryo2d.io.columns import CsColumns, StarColumns
from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.io.rows import from_columns

HERE = Path("/runs/1")


def _half(count: int) -> np.ndarray:
    return np.arange(count) % 2


def _excluded(table: ParticleTable, count: int) -> Excluded:
    return Excluded(table.take(np.arange(count)), ("is constant",) * count)


def _text(table: ParticleTable, label: str) -> list[str]:
    columns = table.columns
    assert isinstance(columns, StarColumns)
    return [word.decode() for word in columns.rows.column(label)]


def _with_star(table: ParticleTable) -> ParticleTable:
    names = np.array([name.encode() for name in image_names(table, HERE)])
    odd = np.array([b'"two words"'] * len(table))
    rows = from_columns({"rlnImageName": names, "userNote": odd})
    return replace(table, columns=StarColumns(rows, blocks=(b"data_extra\n",)))


def test_every_row_ends_in_exactly_one_table():
    table = make_table(300)
    found = make_assignments(300)
    posterior = found.class_posterior.clone()
    posterior[:7] = torch.nan
    found = replace(found, class_posterior=posterior)
    outcome = settle(
        table,
        _excluded(make_table(4), 4),
        found,
        _half(300),
        DuplicateRule(min_separation=30),
        HERE,
    )
    assert outcome.total == 304
    assert len(outcome.rejected) > 10
    assert len(outcome.excluded) == 11
    reasons = _text(outcome.excluded, "cryo2dReason")
    assert reasons == ["is constant"] * 4 + [NEVER_VISITED] * 7
    rows = np.concatenate([outcome.classified.source_row, outcome.rejected.source_row])
    assert sorted(rows) == table.source_row[7:].tolist()
    assert (
        _text(outcome.excluded, "cryo2dSourceRow")[4:] == table.source_row[:7].astype(str).tolist()
    )
    assert any("never visited" in note for note in outcome.notes)


def test_rejected_particles_name_a_kept_image_of_their_micrograph():
    table = make_table(200)
    outcome = settle(
        table, _excluded(table, 0), make_assignments(200), _half(200), DuplicateRule(None, 30), HERE
    )
    kept = dict(
        zip(
            image_names(outcome.classified, HERE),
            outcome.classified.locations.micrograph,
            strict=True,
        )
    )
    survivors = _text(outcome.rejected, "cryo2dKeptImage")
    assert survivors
    for survivor, micrograph in zip(survivors, outcome.rejected.locations.micrograph, strict=True):
        assert kept[survivor] == micrograph


def test_results_travel_with_their_particles():
    table, found = make_table(200), make_assignments(200)
    outcome = settle(table, _excluded(table, 0), found, _half(200), DuplicateRule(None, 30), HERE)
    alignment = outcome.classified.alignment
    np.testing.assert_array_equal(alignment.psi, found.psi.numpy()[outcome.keep])
    np.testing.assert_array_equal(alignment.error, found.error.numpy()[outcome.keep])
    np.testing.assert_array_equal(alignment.half, _half(200)[outcome.keep])
    assert outcome.classified.aligned


@pytest.mark.parametrize("remove", [None, True])
def test_without_locations_nothing_is_rejected(remove: bool | None):
    table = replace(make_table(50), locations=None)
    rule = DuplicateRule(remove)
    outcome = settle(table, _excluded(table, 0), make_assignments(50), _half(50), rule, HERE)
    assert len(outcome.classified) == 50
    assert bool(outcome.notes) == bool(remove)


def test_unknown_micrograph_pixel_size_is_said_not_guessed():
    table = make_table(50)
    unknown = replace(table, locations=replace(table.locations, pixel_size=np.full(50, np.nan)))
    arguments = (_excluded(table, 0), make_assignments(50), _half(50))
    outcome = settle(unknown, *arguments, DuplicateRule(), HERE)
    assert len(outcome.classified) == 50
    assert "micrograph_pixel_size" in outcome.notes[0]
    with pytest.raises(UnknownPositionError):
        settle(unknown, *arguments, DuplicateRule(remove=True), HERE)
    given = settle(unknown, *arguments, DuplicateRule(micrograph_pixel_size=1.0), HERE)
    expected = settle(table, *arguments, DuplicateRule(), HERE)
    np.testing.assert_array_equal(given.keep, expected.keep)


@pytest.mark.parametrize("place", [np.nan, np.inf, -1e300])
def test_picks_without_coordinates_stay_and_are_told_of(place: float):
    table = make_table(300)
    arguments = (_excluded(table, 0), make_assignments(300), _half(300))
    rule = DuplicateRule(min_separation=30)
    x = table.locations.x.copy()
    x[[5, 9]] = place
    lost = replace(table, locations=replace(table.locations, x=x))
    outcome = settle(lost, *arguments, rule, HERE)
    assert outcome.keep[[5, 9]].all()
    assert len(outcome.rejected) > 0
    assert outcome.total == 300
    assert "2 particles without coordinates" in outcome.notes[0]
    (problem,) = location_problems(lost, rule)
    assert problem.count == 2


def test_a_run_that_loses_most_particles_as_duplicates_says_so():
    table = make_table(60)
    at_once = replace(table.locations, x=np.zeros(60), y=np.zeros(60))
    arguments = (_excluded(table, 0), make_assignments(60), _half(60))
    rule = DuplicateRule(min_separation=1e4)
    outcome = settle(replace(table, locations=at_once), *arguments, rule, HERE)
    assert len(outcome.classified) < 30
    assert "post.remove_duplicates=false keeps all" in outcome.notes[-1]


def test_filaments_keep_their_overlapping_segments():
    table = make_table(200)
    helical = with_text_column(table, "rlnHelicalTubeID", np.ones(200, dtype=int))
    arguments = (_excluded(table, 0), make_assignments(200), _half(200))
    assert len(settle(helical, *arguments, DuplicateRule(None, 30), HERE).rejected) == 0
    assert len(settle(helical, *arguments, DuplicateRule(True, 30), HERE).rejected) > 0


def test_one_particle_picked_twice_is_found_in_both_frames():
    count = 40
    rng = np.random.default_rng(0)
    true = np.repeat(rng.uniform(0, 4000, (count // 2, 2)), 2, axis=0)
    shift = rng.uniform(-60, 60, (count, 2))
    found = replace(make_assignments(count), shift=torch.from_numpy(shift))
    table = make_table(count, micrographs=1)
    down = replace(table.locations, x=(true + shift)[:, 0], y=(true + shift)[:, 1])
    # cryoSPARC counts rows of the micrograph from below: 1 - y in the table
    up = replace(down, y=4000 - down.y)
    star = replace(table, locations=down)
    cs = replace(table, locations=up, columns=CsColumns(np.zeros(count, dtype=[("uid", "u8")])))
    for picked in (star, cs):
        outcome = settle(picked, _excluded(table, 0), found, _half(count), DuplicateRule(), HERE)
        assert len(outcome.classified) == count // 2


def test_added_column_leaves_the_others_and_is_replaced_when_given_again():
    table = _with_star(make_table(3))
    once = with_text_column(table, "cryo2dReason", np.array(["plain", 'a "b" c', ""]))
    assert _text(once, "cryo2dReason") == ["plain", 'a "b" c', ""]
    assert _text(once, "userNote") == ["two words"] * 3
    assert once.columns.blocks == (b"data_extra\n",)
    twice = with_text_column(once, "cryo2dReason", np.array(["x"] * 3))
    assert _text(twice, "cryo2dReason") == ["x"] * 3
    assert twice.columns.rows.labels == once.columns.rows.labels


def test_added_column_of_a_cs():
    array = np.zeros(2, dtype=[("uid", "u8"), ("blob/shape", "u4", (2,))])
    array["uid"] = [5, 6]
    table = replace(make_table(2), columns=CsColumns(array))
    table = with_text_column(table, "cryo2dReason", np.array(["a b", "c"]))
    table = with_text_column(table, "cryo2dReason", np.array(["a b", "longer than before"]))
    assert table.columns.names == ("uid", "blob/shape", "cryo2dReason")
    assert table.columns.array["star/cryo2dReason"].tolist() == [b"a b", b"longer than before"]
    assert table.columns.array["uid"].tolist() == [5, 6]


def test_extended_with_nothing_and_from_nothing():
    table = make_table(5)
    none, two = table.take(np.arange(0)), table.take(np.array([1, 3]))
    start = Excluded(none, ())
    once = extended(start, two, ["a", "b"])
    assert once.reasons == ("a", "b")
    assert once.table.source_row.tolist() == two.source_row.tolist()
    assert extended(once, none, []).reasons == ("a", "b")
    assert len(extended(start, none, []).table) == 0


def test_joined_parts_are_the_whole():
    table = _with_star(make_table(9))
    table = table.with_alignment(alignment_columns(make_assignments(9), _half(9)))
    first, second = np.arange(4), np.arange(4, 9)
    whole = joined(table.take(first), table.take(second))
    np.testing.assert_array_equal(whole.source_row, table.source_row)
    np.testing.assert_array_equal(whole.locations.micrograph, table.locations.micrograph)
    np.testing.assert_array_equal(whole.alignment.shift, table.alignment.shift)
    for label in ("rlnImageName", "userNote"):
        assert _text(whole, label) == _text(table, label)
