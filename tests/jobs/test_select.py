import json
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from finished_run import CLASSES, COUNTS, FinishedRun, finished_run
from omegaconf import DictConfig, OmegaConf

from cryo2d.errors import InputError
from cryo2d.io.averages import ClassAverages, read_class_averages, write_class_averages
from cryo2d.io.cs import read_array
from cryo2d.io.particles import read_particles
from cryo2d.jobs.select import memory_of, run
from cryo2d.ranking.ranker import read_ranker

PARTS = ("selected", "excluded")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finished_run(tmp_path_factory.mktemp("run"))


def settings(folder: Path, **given: object) -> DictConfig:
    values = {"rules": None, "classes": None, "templates": False, "host": "127.0.0.1", "port": None}
    return OmegaConf.create({"run": str(folder), **values, **given})


def star_rows(path: Path) -> dict[int, bytes]:
    """The text of each row by the number of its image."""
    table, _ = read_particles(path, require_ctf=False, require_stacks=False)
    rows = table.columns.rows
    text = [b" ".join(row.split()) for row in rows.lines(0, len(rows))]
    return dict(zip(table.image_index.tolist(), text, strict=True))


def test_every_particle_is_selected_or_excluded_and_stays_as_it_is(finished, tmp_path):
    number = run(settings(finished.folder, rules="resolution < 12 and count > 20"), tmp_path)
    assert number == COUNTS[0] + COUNTS[1]
    before = star_rows(finished.folder / "particles.star")
    parts = [star_rows(tmp_path / f"particles_{part}.star") for part in PARTS]
    assert not parts[0].keys() & parts[1].keys()

    def without_stack(row: bytes) -> list[bytes]:
        return [word for word in row.split() if b"@" not in word]

    assert len(before) == sum(COUNTS)
    after = parts[0] | parts[1]
    assert {i: without_stack(r) for i, r in after.items()} == {
        i: without_stack(r) for i, r in before.items()
    }
    old = read_array(finished.folder / "particles.cs")
    new = np.concatenate([read_array(tmp_path / f"particles_{part}.cs") for part in PARTS])
    new = new[np.argsort(new["blob/idx"])]
    for name in old.dtype.names:
        if name != "blob/path":
            np.testing.assert_array_equal(new[name], old[name])
    assert set(read_array(tmp_path / "particles_selected.cs")["alignments2D/class"]) == {0, 1}


def test_the_images_are_found_from_the_new_folder(finished, tmp_path):
    run(settings(finished.folder, classes=[2]), tmp_path)
    table, excluded = read_particles(tmp_path / "particles_selected.star")
    assert (len(table), len(excluded.table)) == (COUNTS[1], 0)
    assert Path(table.stacks[0]).samefile(finished.folder / "particles.mrcs")


def test_averages_keep_their_numbers(finished, tmp_path):
    run(settings(finished.folder, classes=[4, 2]), tmp_path)
    selected = read_class_averages(tmp_path, name="averages_selected")
    excluded = read_class_averages(tmp_path, name="averages_excluded")
    assert selected.columns["class_number"].tolist() == [2, 4]
    assert excluded.columns["class_number"].tolist() == [1, 3, 5, 6]
    np.testing.assert_array_equal(selected.images, finished.averages.images[[1, 3]])
    np.testing.assert_array_equal(selected.columns["resolution"], [9, 11])
    assert not (tmp_path / "templates.mrcs").exists()


def test_a_selection_can_be_repeated_from_its_manifest(finished, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    run(settings(finished.folder, rules="count >= 20"), first)
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["rules"] == "count >= 20"
    assert manifest["classes"] == [1, 2, 3]
    assert manifest["particles"] == {"total": 100, "selected": 75, "excluded": 25}
    assert set(manifest["files"]) | {"manifest.json"} == {p.name for p in first.iterdir()}
    assert manifest["repeat"].endswith("classes=[1,2,3]")
    run(settings(finished.folder, classes=manifest["classes"]), second)
    again = json.loads((second / "manifest.json").read_text())
    assert again["files"] == manifest["files"]


def test_all_classes_leave_nothing_excluded(finished, tmp_path):
    assert run(settings(finished.folder, rules="class > 0"), tmp_path) == sum(COUNTS)
    assert not list(tmp_path.glob("*excluded*"))


def test_templates_are_the_selected_averages_in_the_centre(finished, tmp_path):
    folder = finished_run(tmp_path / "run").folder
    moved = np.roll(finished.averages.images, (3, -4), axis=(1, 2))
    averages = finished.averages
    write_class_averages(folder, ClassAverages(moved, 3.0, averages.columns))
    out = tmp_path / "out"
    out.mkdir()
    run(settings(folder, classes=[1, 3], templates=True), out)
    templates = read_class_averages(out, name="templates")
    assert templates.columns["class_number"].tolist() == [1, 3]
    y, x = np.indices(moved.shape[1:]) - moved.shape[-1] // 2
    for image, off in zip(templates.images, moved[[0, 2]], strict=True):
        bright = np.where(image > 0.2 * image.max(), image, 0)
        before = np.where(off > 0.2 * off.max(), off, 0)
        assert np.hypot((x * bright).sum(), (y * bright).sum()) / bright.sum() < 0.3
        assert np.hypot((x * before).sum(), (y * before).sum()) / before.sum() > 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rules": "size > 0.5"}, "the column size"),
        ({"rules": "count > 1000"}, "at least one class"),
        ({"classes": [1, CLASSES + 1]}, f"classes=\\[{CLASSES + 1}\\].*1 to {CLASSES}"),
        ({"classes": [1], "rules": "count > 1"}, "one of them"),
    ],
)
def test_what_cannot_be_selected_is_refused_and_nothing_written(finished, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        run(settings(finished.folder, **given), tmp_path)
    assert not list(tmp_path.iterdir())


def test_scores_are_used_where_the_classes_have_them(finished, tmp_path):
    folder = finished_run(tmp_path / "run").folder
    scores = {"score": np.linspace(0, 1, CLASSES)}
    averages = finished.averages
    scored = ClassAverages(averages.images, 3.0, averages.columns | scores)
    write_class_averages(folder, scored)
    run(settings(folder, rules="score > 0.5 and count > 0"), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["classes"] == [4, 5]


def test_classes_without_scores_are_scored(finished, tmp_path):
    scores = read_ranker()(finished.averages).score.round(4)
    middle = float(np.median(scores))
    run(settings(finished.folder, rules=f"score > {middle}"), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["classes"] == (np.flatnonzero(scores > middle) + 1).tolist()
    kept = read_class_averages(tmp_path, name="averages_selected").columns
    np.testing.assert_allclose(kept["score"], scores[scores > middle], atol=1e-4)


def test_the_page_is_served_until_its_choice_is_written(tmp_path, capsys):
    run_dir, folder = tmp_path / "out", finished_run(tmp_path / "run").folder
    run_dir.mkdir()
    shown: list[str] = []

    def finish() -> None:
        while not any("token=" in text for text in shown):
            shown.append(capsys.readouterr().out)
            time.sleep(0.01)
        address = next(word for text in shown for word in text.split() if "token=" in word)
        place = urlsplit(address)
        connection = HTTPConnection(place.netloc, timeout=10)
        connection.request("GET", f"{place.path}?{place.query}")
        answer = connection.getresponse()
        answer.read()
        headers = {
            "Cookie": answer.headers["Set-Cookie"].partition(";")[0],
            "Origin": f"http://{place.netloc}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/finish", '{"selected": [1, 2], "revision": 1}', headers)
        shown.append(connection.getresponse().read().decode())
        connection.close()

    browser = threading.Thread(target=finish)
    browser.start()
    assert run(settings(folder), run_dir) == COUNTS[0] + COUNTS[1]
    browser.join()
    assert "ssh -L" in shown[-2]
    assert json.loads(shown[-1])["folder"] == str(run_dir)
    assert json.loads((run_dir / "manifest.json").read_text())["chosen_by"] == "page"


def test_the_choice_on_a_page_is_kept_where_it_can_be(tmp_path, monkeypatch, caplog):
    assert memory_of(tmp_path, tmp_path / "out") == tmp_path / "selection.json"
    monkeypatch.setattr("os.access", lambda *args: False)
    assert memory_of(tmp_path, tmp_path / "out") == tmp_path / "out" / "selection.json"
    assert "cannot be written" in caplog.text


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    folder = finished_run(tmp_path / "run").folder
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        run(settings(folder, classes=[1]), tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        run(settings(tmp_path / "nothing", classes=[1]), tmp_path)
    with pytest.raises(InputError, match="no class_averages.star"):
        run(settings(tmp_path, classes=[1]), tmp_path)


def test_particles_of_another_run_are_refused(finished, tmp_path):
    folder = finished_run(tmp_path / "run").folder
    write_class_averages(folder, finished.averages.take(np.arange(3)))
    with pytest.raises(InputError, match="classes 1 to 5; expected a class from 1 to 3"):
        run(settings(folder, classes=[1]), tmp_path)
