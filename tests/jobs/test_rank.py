from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
from averages import classes
from classified import configured
from finished_run import finished_run

from cryo2d.errors import InputError
from cryo2d.io.averages import read_class_averages
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import read_particles
from cryo2d.jobs.rank import run
from cryo2d.jobs.selection.choice import by_rule
from cryo2d.jobs.selection.classification import Classification
from cryo2d.ranking.ranker import read_ranker


def ranked(folder: Path, out: Path, *overrides: str) -> float:
    out.mkdir()
    return run(configured("rank", f"run={folder}", *overrides), out)


def test_the_output_is_the_run_with_scores(tmp_path):
    before = finished_run(tmp_path / "run")
    kept = ranked(before.folder, tmp_path / "out")
    averages = read_class_averages(tmp_path / "out")
    np.testing.assert_array_equal(averages.images, before.averages.images)
    np.testing.assert_array_equal(averages.columns["count"], before.averages.columns["count"])
    score = averages.columns["score"]
    assert ((score >= 0) & (score <= 1)).all()
    assert score[5] == 0.0
    assert averages.columns["reason"][5] == b"no particles"
    table, _ = read_particles(tmp_path / "out" / "particles.star", require_ctf=False)
    assert table.alignment is not None
    assert before.table.alignment is not None
    np.testing.assert_array_equal(table.alignment.class_index, before.table.alignment.class_index)
    assert kept == before.averages.columns["count"][score > 0.5].sum()
    words = starfile.read(tmp_path / "out" / "class_averages.star", always_dict=True)
    assert words["model_classes"]["cryo2dReason"].tolist()[5] == "no particles"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "against it" in page
    assert (tmp_path / "out" / "classes.png").stat().st_size > 1000


def test_classes_are_selected_by_their_score(tmp_path):
    before = finished_run(tmp_path / "run")
    ranked(before.folder, tmp_path / "out")
    classification = Classification.read(tmp_path / "out")
    score = classification.measures["score"]
    middle = float(np.median(score))
    chosen = by_rule(f"score > {middle}", classification.measures)
    np.testing.assert_array_equal(chosen, score > middle)
    assert "reason" not in classification.measures


def test_another_ranker_gives_other_scores(tmp_path):
    before = finished_run(tmp_path / "run")
    other = replace(read_ranker(), offset=read_ranker().offset - 3.0)
    (tmp_path / "other.json").write_text(other.text())
    ranked(before.folder, tmp_path / "one")
    ranked(before.folder, tmp_path / "two", f"ranker={tmp_path / 'other.json'}")
    one, two = (read_class_averages(tmp_path / n).columns["score"] for n in ("one", "two"))
    assert not np.allclose(one, two)


def test_references_add_columns(tmp_path):
    before = finished_run(tmp_path / "run")
    volume = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    write_stack(tmp_path / "map.mrc", volume, 6.0)
    ranked(before.folder, tmp_path / "out", f"references={tmp_path / 'map.mrc'}")
    columns = read_class_averages(tmp_path / "out").columns
    assert (np.abs(columns["reference_correlation"]) <= 1).all()
    assert {"reference_resolution", "reference_sharpness"} <= columns.keys()
    assert "sharpness" in (tmp_path / "out" / "report.html").read_text()


def test_something_else_is_no_run(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        ranked(tmp_path / "run", tmp_path / "out")


def test_scores_follow_the_averages_not_the_numbers():
    one = classes()
    order = np.array([3, 1, 0, 2, 4, 5])
    ranker = read_ranker()
    np.testing.assert_allclose(ranker(one.take(order)).score, ranker(one).score[order])
