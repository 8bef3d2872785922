import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from cryosparc.dataset import Dataset
from fake_run import BOX, CLASSES, FakeData, FakeModule, make_assignments, make_table
from PIL import Image

from cryo2d.io.averages import read_class_averages
from cryo2d.io.mrc import read_header, write_stack
from cryo2d.io.particles import Excluded, read_particles
from cryo2d.ranking.ranker import read_ranker
from cryo2d.training.callbacks.export import Export, given_settings
from cryo2d.training.callbacks.metrics import Metrics
from cryo2d.training.objectives import OBJECTIVES
from cryo2d.training.superclasses import Grouping

PARTICLES, UNUSABLE = 120, 4


class StackData(FakeData):
    """A table whose stack exists, so that what was written can be read again."""

    def __init__(self, folder: Path, **changes: object) -> None:
        super().__init__()
        total = PARTICLES + UNUSABLE
        stack = folder / "stack.mrcs"
        rng = np.random.default_rng(0)
        write_stack(stack, rng.normal(size=(total, BOX, BOX)).astype(np.float32), 3.0)
        table = replace(make_table(total), stacks=(str(stack),), **changes)
        bad = np.arange(total) >= PARTICLES
        self.table = table.take(~bad)
        self.excluded = Excluded(table.take(bad), ("image is constant",) * UNUSABLE)


def _finish(folder: Path, data: StackData, **options: object) -> FakeModule:
    module = FakeModule(total=3)
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=3,
        callbacks=[Metrics(), Export(**options)],
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=data)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StackData]:
    base = tmp_path_factory.mktemp("project")
    folder = base / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- model.num_classes=6\n")
    (folder / "config.yaml").write_text("model:\n  num_classes: 6\n")
    data = StackData(base)
    _finish(folder, data, min_separation=25.0, seed=7)
    return folder, data


def test_a_ranker_scores_the_classes(finished: tuple[Path, StackData], tmp_path: Path):
    folder, data = finished
    _finish(tmp_path, data, ranker=read_ranker(), remove_duplicates=False)
    columns = read_class_averages(tmp_path).columns
    assert ((columns["score"] >= 0) & (columns["score"] <= 1)).all()
    assert columns["reason"][-1] == b"no particles"
    assert "against it" in (tmp_path / "report.html").read_text()
    heights = [(path / "classes.png").read_bytes()[20:24] for path in (tmp_path, folder)]
    assert heights[0] > heights[1]
    assert "score" not in read_class_averages(folder).columns
    assert "against it" not in (folder / "report.html").read_text()


def test_classes_of_one_view_have_one_superclass(
    finished: tuple[Path, StackData], tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder, data = finished
    grouping = Grouping(number=3)
    _finish(tmp_path, data, superclasses=grouping, remove_duplicates=False)
    written = read_class_averages(tmp_path)
    found, count = written.columns["superclass"], written.columns["count"]
    assert set(found[:-1]) == {1, 2, 3}
    assert found[-1] == 0
    assert (grouping.labels(written.images, count, 3.0) + 1 == found).all()
    cs = Dataset.load(tmp_path / "class_averages.cs")
    np.testing.assert_array_equal(cs["cryo2d/superclass"], found)
    page = (tmp_path / "report.html").read_text()
    assert 'title="classes of one number show one view' in page
    same = [np.flatnonzero(found == g) + 1 for g in (1, 2, 3)]
    numbers = "; ".join(", ".join(map(str, one)) for one in same if len(one) > 1)
    assert f"<li>Classes that show one view: {numbers}.</li>" in page
    assert f"one view: classes {numbers.partition(';')[0]}\n" in capsys.readouterr().out
    assert "superclass" not in read_class_averages(folder).columns
    assert "superclass" not in (folder / "report.html").read_text()


def test_every_file_is_there_and_as_the_manifest_says(finished: tuple[Path, StackData]):
    folder, _ = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = {f"class_averages.{kind}" for kind in ("mrcs", "star", "cs")}
    expected |= {"particles.star", "particles.cs", "rejected.star", "excluded.star"}
    expected |= {"classes.png", "frc.png", "noise.png", "posteriors.png"}
    expected |= {"report.html", "metrics.csv", "spectra.csv"}
    assert set(manifest["files"]) == expected
    for name, said in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert said["bytes"] == len(content)
        assert said["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["seed"] == 7
    assert manifest["iterations"] == 3
    assert set(manifest["objectives"]) == set(OBJECTIVES)
    newest = max(p.stat().st_mtime_ns for p in folder.iterdir())
    assert (folder / "manifest.json").stat().st_mtime_ns == newest
    assert not list(folder.glob(".*.part"))


def test_rows_in_are_classified_rejected_or_excluded(finished: tuple[Path, StackData]):
    folder, _ = finished
    counts = json.loads((folder / "manifest.json").read_text())["particles"]
    written = {}
    for name in ("particles.star", "particles.cs", "rejected.star"):
        table, left_out = read_particles(folder / name, require_ctf=False)
        assert len(left_out.table) == 0
        written[name] = len(table)
    assert written["particles.star"] == written["particles.cs"] == counts["classified"]
    assert written["rejected.star"] == counts["rejected"] > 0
    assert counts["excluded"] == UNUSABLE
    assert sum(counts[k] for k in ("classified", "rejected", "excluded")) == counts["total"]
    assert counts["total"] == PARTICLES + UNUSABLE


@pytest.mark.parametrize("name", ["particles.star", "particles.cs"])
def test_particles_read_back_with_class_and_pose(finished: tuple[Path, StackData], name: str):
    folder, data = finished
    found = make_assignments(PARTICLES)
    table, _ = read_particles(folder / name, require_ctf=False)
    rows = np.searchsorted(data.table.image_index, table.image_index)
    np.testing.assert_array_equal(table.alignment.class_index, found.class_index.numpy()[rows])
    turn = table.alignment.psi - found.psi.numpy()[rows]
    np.testing.assert_allclose(np.cos(turn), 1.0, atol=1e-9)
    np.testing.assert_allclose(table.alignment.shift, found.shift.numpy()[rows], atol=1e-5)
    np.testing.assert_allclose(
        table.alignment.class_posterior, found.class_posterior.numpy()[rows], atol=1e-5
    )
    np.testing.assert_array_equal(table.alignment.half, rows % 2)


def test_averages_read_back(finished: tuple[Path, StackData]):
    folder, _ = finished
    header = read_header(folder / "class_averages.mrcs")
    assert (header.nz, header.ny, header.nx) == (CLASSES, BOX, BOX)
    assert header.pixel_size == pytest.approx(3.0)
    found = Dataset.load(folder / "class_averages.cs")
    table, _ = read_particles(folder / "particles.star", require_ctf=False)
    members = np.bincount(table.alignment.class_index, minlength=CLASSES)
    np.testing.assert_array_equal(found["cryo2d/count"], members)
    assert np.isinf(found["blob/res_A"][-1])


def test_rejected_and_excluded_say_why(finished: tuple[Path, StackData]):
    folder, _ = finished
    kept = (folder / "particles.star").read_text()
    rejected, _ = read_particles(folder / "rejected.star", require_ctf=False)
    for survivor in rejected.columns.rows.column("cryo2dKeptImage"):
        assert survivor.decode() in kept
    text = (folder / "excluded.star").read_text()
    assert text.count('"image is constant"') == UNUSABLE
    for label in ("cryo2dReason", "cryo2dSourceFile", "cryo2dSourceRow"):
        assert f"_{label} " in text


def test_pictures_open_and_the_report_has_them(finished: tuple[Path, StackData]):
    folder, _ = finished
    for name in ("classes.png", "frc.png", "noise.png", "posteriors.png"):
        assert np.asarray(Image.open(folder / name)).std() > 5
    page = (folder / "report.html").read_text()
    for heading in ("Class averages", "Course of the run", "Ring correlation", "Noise"):
        assert heading in page
    assert "model.num_classes=6" in page
    assert f"Classes without particles: {CLASSES}." in page


def test_table_of_classes_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _finish(tmp_path / "run", StackData(tmp_path))
    printed = capsys.readouterr().out
    assert "particles" in printed
    assert f"{CLASSES - 1} of {CLASSES} classes in use" in printed
    assert "report.html" in printed


def test_without_duplicates_no_rejected_file_stays(tmp_path: Path):
    folder = tmp_path / "run"
    _finish(folder, StackData(tmp_path), min_separation=25.0)
    assert (folder / "rejected.star").exists()
    _finish(folder, StackData(tmp_path), remove_duplicates=False, plot_order="size", sort=False)
    assert not (folder / "rejected.star").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["particles"]["classified"] == PARTICLES


def test_tables_and_pictures_in_the_order_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    listed, pictures = {}, {}
    for sort, order in ((True, "size"), (False, "similarity")):
        folder = tmp_path / order
        _finish(folder, StackData(tmp_path), sort=sort, plot_order=order)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        rows = [line for line in lines if len(line) > 3 and line[0].isdigit() and line[1].isdigit()]
        listed[sort] = [int(row[0]) for row in rows], [int(row[1]) for row in rows]
        pictures[order] = (folder / "classes.png").read_bytes()
    numbers, counts = listed[True]
    assert counts == sorted(counts, reverse=True)
    assert numbers != sorted(numbers)
    assert listed[False][0] == sorted(numbers)
    assert pictures["size"] != pictures["similarity"]


def test_a_run_that_did_nothing_exports_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    module = FakeModule()
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False)
    Export().on_fit_end(trainer, module)
    assert "Nothing to export" in caplog.text
    assert not (tmp_path / "manifest.json").exists()


def test_unknown_order_is_refused():
    with pytest.raises(ValueError, match="similarity"):
        Export(plot_order="random")


def test_given_settings_of_hydra():
    assert given_settings("- a=1\n- b.c='x y'\n") == ["a=1", "b.c='x y'"]
    assert given_settings("[]\n") == []
