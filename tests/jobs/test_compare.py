"""Runs side by side: what is the same, what differs, and what they agree on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from classified import configured, easy, table_of, write_classified
from reference import picture, pictures, turn
from synthetic import PIXEL

from cryo2d.data.consensus import adjusted_rand, contingency
from cryo2d.errors import InputError
from cryo2d.geometry.fourier import fourier_resize
from cryo2d.io.averages import ClassAverages, read_class_averages, write_class_averages
from cryo2d.io.particles import read_particles, write_particles
from cryo2d.jobs import overrides, select, subset
from cryo2d.jobs.compare import (
    SHOWN,
    best_run,
    measure_name,
    measures,
    ranked,
    run,
    small_multiple,
    usual_measure,
)
from cryo2d.jobs.consensus import consensus_of
from cryo2d.jobs.finished import differing, finished_runs
from cryo2d.jobs.selection.members import Recording
from cryo2d.jobs.source import settings_of
from cryo2d.training.drawing.montage import grey_levels

COUNT, CLASSES = 90, 3
TURNED, MOVED = np.pi / 4, np.array([6.0, -3.0])


def write_run(folder: Path, images: Path, index: np.ndarray, resolution: float, seed: int) -> Path:
    """A finished run over the particles of another folder."""
    folder.mkdir(parents=True)
    table = table_of(easy(COUNT), images, class_index=index)
    write_particles(folder / "particles.star", table)
    columns = {"count": np.bincount(index, minlength=CLASSES), "resolution": np.full(CLASSES, 9.0)}
    write_class_averages(folder, ClassAverages(pictures(40, CLASSES).numpy(), PIXEL, columns))
    judged = {"likelihood": -seed, "stability": None, "junk_separation": 0.1 * seed}
    facts = {"particles": {"classified": COUNT}, "objectives": judged}
    (folder / "manifest.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(
        f"seed: {seed}\nmodel: {{num_classes: 3, icuf: {seed}.0}}\nlogger: {{dir: {folder}}}\n"
        "data: {path: p.star, invert: true}\noptimizer: {iterations: 5}\n"
    )
    (folder / "metrics.csv").write_text(
        "iteration,seconds,effective_classes,mean_posterior,median_resolution,best_resolution\n"
        f"0,1,2.5,0.9,{resolution + 3},8\n1,1,2.9,0.95,{resolution},7\n"
    )
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(f"- data.path=p.star\n- model.icuf={seed}\n")
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: the first two agree but for names, the third differs in a third of class 0."""
    folder = tmp_path_factory.mktemp("sweep")
    images = folder / "images"
    write_classified(images, easy(COUNT))
    (images / "particles.star").unlink()
    truth = np.arange(COUNT) % CLASSES
    other = np.array([2, 0, 1])[truth]
    third = truth.copy()
    third[np.flatnonzero(truth == 0)[::3]] = 1
    for number, (index, resolution) in enumerate([(truth, 9.0), (other, 8.0), (third, 7.0)]):
        write_run(folder / str(number), images, index, resolution, seed=number + 1)
    (folder / "3").mkdir()
    (folder / "3" / "config.yaml").write_text("seed: 4\n")
    return folder


def compare(out: Path, *settings: str) -> Path:
    out.mkdir(exist_ok=True)
    run(configured("compare", *settings), out)
    return out


@pytest.fixture(scope="module")
def out(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a comparison of the sweep leaves."""
    settings = (f"runs=[{sweep}]", "reference=0", "min_stability=0.7", "measure=median_resolution")
    return compare(tmp_path_factory.mktemp("out"), *settings)


def test_a_sweep_is_compared_and_its_best_run_named(out):
    manifest = json.loads((out / "manifest.json").read_text())
    agreement = np.array(manifest["agreement"])
    assert agreement[0, 1] == pytest.approx(1)
    assert 0.3 < agreement[0, 2] < 0.9
    np.testing.assert_allclose(agreement, agreement.T)
    assert manifest["best"] == "cryo2d data.path=p.star model.icuf=3 seed=3"
    page = (out / "report.html").read_text()
    assert "1 runs of" in page
    assert "model.icuf" in page
    assert "logger" not in page.split("<h2")[2]
    assert 'id="command">cryo2d data.path=p.star model.icuf=3 seed=3<' in page
    assert page.index('data-key="2">2</td>') < page.index('data-key="0">0</td>')
    assert page.count('alt="Run ') == 3
    assert {"settings.png", "agreement.png", "stability.png"} <= set(manifest["files"])


def test_stability_is_a_column_of_particles_and_classes(out):
    tables = [read_particles(out / f"{name}.star")[0] for name in ("particles", "removed")]
    found, index = (
        np.concatenate(parts)
        for parts in (
            [t.columns.rows.column("cryo2dStability").astype(float) for t in tables],
            [t.alignment.class_index for t in tables],
        )
    )
    classes = read_class_averages(out).columns["stability"]
    assert classes[2] == pytest.approx(1)
    assert classes[0] < classes[1] < 1 or classes[1] == pytest.approx(1)
    for k in range(CLASSES):
        assert found[index == k].mean() == pytest.approx(classes[k], abs=1e-3)


@pytest.fixture(scope="module")
def made(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The consensus of three runs: in one a class lies elsewhere, and a particle is missing."""
    folder = tmp_path_factory.mktemp("made")
    table, _ = read_particles(sweep / "0" / "particles.star")
    found = table.alignment
    assert found is not None
    # class 1 by an eighth of a turn, after a shift
    own = found.class_index == 1
    psi, shift = found.psi.copy(), found.shift.copy()
    psi[own] += TURNED
    cosine, sine = np.cos(found.psi[own]), np.sin(found.psi[own])
    shift[own] += np.stack(
        [MOVED[0] * cosine + MOVED[1] * sine, MOVED[1] * cosine - MOVED[0] * sine], axis=1
    )
    shutil.copytree(sweep / "0", folder / "fourth")
    elsewhere = table.with_alignment(replace(found, psi=psi, shift=shift))
    write_particles(folder / "fourth" / "particles.star", elsewhere.take(np.arange(1, COUNT)))
    averages = read_class_averages(folder / "fourth")
    images = averages.images.copy()
    images[1] = picture(40, 1, -TURNED, -np.array(turn(TURNED) @ MOVED) / PIXEL)
    # in a coarser box, as of a run that ends at another resolution
    images = fourier_resize(torch.from_numpy(images), 32).numpy()
    coarser = replace(averages, images=images, pixel_size=PIXEL * 40 / 32)
    write_class_averages(folder / "fourth", coarser)
    runs = ",".join(map(str, (sweep / "0", sweep / "2", folder / "fourth")))
    out = folder / "out"
    out.mkdir()
    (out / "config.yaml").write_text("min_stability: 0\n")
    return compare(out, f"runs=[{runs}]")


def test_the_consensus_is_a_classification_of_its_own(made):
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["classes_of"] == "the consensus"
    assert manifest["particles"] == {
        "total": COUNT,
        "kept": COUNT - 1,
        "removed": 0,
        "excluded": 0,
        "unshared": 1,
    }
    table, _ = read_particles(made / "particles.star")
    index = table.alignment.class_index
    truth = table.image_index % CLASSES
    assert adjusted_rand(contingency(index, truth)) == pytest.approx(1)
    averages = read_class_averages(made)
    assert averages.columns["count"].tolist() == np.bincount(index).tolist()
    assert averages.columns["resolution"].tolist() == [9.0] * CLASSES
    for k in range(CLASSES):
        shown = picture(40, int(truth[index == k][0]))
        assert np.corrcoef(averages.images[k].ravel(), shown.ravel())[0, 1] > 0.99
    unshared, _ = read_particles(made / "unshared.star")
    assert unshared.image_index.tolist() == [0]
    page = (made / "report.html").read_text()
    assert "Classes of the consensus" in page
    assert "<span>classes of the consensus</span>" in page


def test_what_goes_on_with_it_knows_how_the_runs_read_the_particles(made):
    # from the configuration of a run, by way of the manifest
    assert Recording.of_run(made).invert
    assert next(iter(settings_of(made))).min_stability == 0


def test_two_runs_have_no_consensus(sweep):
    runs, _ = finished_runs([sweep / "0", sweep / "2"])
    consensus = consensus_of(runs, None)
    assert not consensus.is_made
    assert measure_name(runs, consensus) == "run 0"
    assert np.isfinite(consensus.particles).all()


def test_poses_of_the_consensus_belong_to_its_averages(made, sweep):
    table, _ = read_particles(made / "particles.star")
    before, _ = read_particles(sweep / "0" / "particles.star")
    before = before.take(table.image_index)
    away = np.exp(1j * (table.alignment.psi - before.alignment.psi))
    for k in range(CLASSES):
        members = table.alignment.class_index == k
        assert np.abs(np.angle(away[members] / away[members][0])).max() < 1e-3


def test_classes_and_particles_are_chosen_by_their_stability(made, tmp_path):
    averages = read_class_averages(made).columns
    table, _ = read_particles(made / "particles.star")
    values = table.columns.rows.column("cryo2dStability").astype(float)
    limit = float(np.median(values))
    stable = averages["stability"] > limit
    wanted = {
        ("select", "stability"): averages["count"][stable].sum(),
        ("subset", "stability"): (values > limit).sum(),
        ("subset", "class_stability"): averages["count"][stable].sum(),
    }
    assert len({0, COUNT - 1, *wanted.values()}) == 4
    for number, ((job, name), count) in enumerate(wanted.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = configured(job, f"run={made}", f"rules='{name} > {limit}'")
        assert {"select": select, "subset": subset}[job].run(settings, folder) == count


def test_unstable_particles_go_if_asked_for(out):
    kept, gone = (read_particles(out / f"{name}.star")[0] for name in ("particles", "removed"))
    assert len(kept) + len(gone) == COUNT
    assert len(gone) == 10
    assert (gone.alignment.class_index == 0).all()


@pytest.mark.parametrize(
    ("measure", "best"), [("median_resolution", "icuf=3"), ("agreement", "icuf=1")]
)
def test_the_best_depends_on_the_measure(sweep, measure, best):
    runs, _ = finished_runs([sweep])
    consensus = consensus_of(runs, None)
    assert best in runs[best_run(runs, consensus, measure)].command
    assert usual_measure(runs, consensus) == "agreement"
    assert usual_measure(runs[:2], consensus_of(runs[:2], None)) == "median_resolution"


def test_what_differs_are_settings_that_matter(sweep):
    runs, notes = finished_runs([sweep])
    assert [r.name for r in runs] == ["0", "1", "2"]
    assert len(notes) == 1
    assert differing(runs) == {"seed": ["1", "2", "3"], "model.icuf": ["1.0", "2.0", "3.0"]}


def test_a_class_has_its_place_in_every_run(sweep):
    runs, _ = finished_runs([sweep])
    partner = consensus_of(runs, 0).partner
    first, second = (
        small_multiple(one.averages, own, np.arange(CLASSES), 2, ["run"])
        for one, own in zip(runs[:2], partner[:2], strict=True)
    )
    # the second run has the classes of the first under other numbers
    head, tile = first.shape[0] - 2 * 66, 56
    renamed = grey_levels(runs[1].averages.images)[partner[1]]
    for k in range(CLASSES):
        top, left = head + k // 2 * 66, k % 2 * 60
        shown = second[top : top + tile, left : left + tile, 0] / 255
        wanted = np.clip(renamed[k], 0, 1)
        assert np.abs(shown.mean() - wanted.mean()) < 0.02
    blank = small_multiple(runs[0].averages, np.array([-1, 1, 2]), np.arange(CLASSES), 2, ["run"])
    assert (blank[head : head + tile, :tile] == 0xF1).any()
    assert (first[head : head + tile, :tile] != blank[head : head + tile, :tile]).any()


@pytest.mark.parametrize("measure", SHOWN)
def test_runs_can_be_sorted_by_every_measure(sweep, measure):
    runs, _ = finished_runs([sweep])
    consensus = consensus_of(runs, None)
    assert configured("compare", f"measure={measure}").measure == measure
    assert sorted(ranked(runs, consensus, measure)) == [0, 1, 2]
    told = json.loads((sweep / "1" / "manifest.json").read_text())
    if measure in told["objectives"]:
        found, wanted = measures(runs[1], 1, consensus)[measure], told["objectives"][measure]
        assert found == pytest.approx(np.nan if wanted is None else wanted, nan_ok=True)


def test_runs_of_other_particles_are_still_listed(sweep, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_classified(elsewhere / "images", easy(COUNT))
    index = np.arange(COUNT) % CLASSES
    write_run(elsewhere / "run", elsewhere / "images", index, 5.0, seed=9)
    out = compare(tmp_path / "out", f"runs=[{sweep / '0'},{elsewhere / 'run'}]")
    assert "no particle in common" in (out / "report.html").read_text()
    assert not (out / "agreement.png").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "0 finished runs"),
        (["runs=[{sweep}/0]"], "1 finished run"),
        (["runs=[{sweep}/0,/nowhere]"], "no such folder"),
        (["runs=[{sweep}]", "reference=3"], "0 to 2"),
    ],
)
def test_what_cannot_be_done_is_said(sweep, tmp_path, settings, says):
    with pytest.raises(InputError, match=says):
        compare(tmp_path, *(text.format(sweep=sweep) for text in settings))


def test_folders_need_no_name_on_the_command_line():
    typed = ["a/b", "measure=agreement", "c d"]
    assert overrides.gathered("compare", typed) == ["measure=agreement", 'runs=["a/b","c d"]']
    assert overrides.gathered("compare", ["runs=[a,b]"]) == ["runs=[a,b]"]
    assert overrides.gathered("classify", ["a/b"]) == ["a/b"]
