"""What the page is told, what it changes, and what it leaves."""

import io
import json
import os
import threading
from dataclasses import replace
from http import HTTPStatus

import numpy as np
import pytest
from finished_run import BOX, CLASSES, COUNTS, PIXEL, RESOLUTION, finished_run
from PIL import Image

from cryo2d.errors import EnvironmentFault, InputError
from cryo2d.io.averages import ClassAverages, write_class_averages
from cryo2d.io.particles import read_particles
from cryo2d.jobs.selection.memory import Memory
from cryo2d.jobs.selection.server import SelectionServer
from cryo2d.jobs.selection.session import Session


def picture(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)))


def test_the_classes_and_their_numbers(client):
    held = client.get("/classes.json").json
    assert held["measures"]["class"] == list(range(1, CLASSES + 1))
    assert held["measures"]["count"] == list(COUNTS)
    finite = [value if np.isfinite(value) else None for value in RESOLUTION]
    assert held["measures"]["resolution"] == finite, "JSON knows no infinity"
    assert sorted(held["similarity"]) == list(range(CLASSES))
    assert (held["extent"], held["finished"]) == (BOX * PIXEL, True)


def test_the_sheet_has_a_tile_for_each_class(client):
    held = client.get("/classes.json").json
    sheet = picture(client.get("/averages.png?version=1").body)
    tile, columns = held["tile"], held["columns"]
    assert sheet.dtype == np.uint8
    assert sheet.shape == (-(-CLASSES // columns) * tile, columns * tile)
    for k, average in enumerate(client.run.averages.images):
        top, left = k // columns * tile, k % columns * tile
        shown = sheet[top : top + tile, left : left + tile]
        small = Image.fromarray(shown).resize((BOX, BOX), Image.Resampling.BOX)
        assert np.corrcoef(np.asarray(small).ravel(), average.ravel())[0, 1] > 0.95


def test_a_class_with_its_particles_and_picks(client):
    facts = client.get("/class/2.json").json
    assert facts["members"] == COUNTS[1]
    assert facts["posteriors"] == sorted(facts["posteriors"], reverse=True)
    assert sum(m["members"] for m in facts["micrographs"]) == COUNTS[1]
    np.testing.assert_allclose(facts["frc"], client.run.averages.rings.frc[1], rtol=1e-5)
    sheet = picture(client.get("/class/2/members.png").body)
    assert sheet.shape[1] == facts["shown"] * sheet.shape[0] / 2
    table = client.run.table
    for micrograph in facts["micrographs"]:
        picks = client.get(f"/class/2/picks/{micrograph['index']}.json").json
        there = table.locations.micrograph == micrograph["name"]
        np.testing.assert_allclose(picks["x"], table.locations.x[there], atol=0.06)
        np.testing.assert_allclose(picks["y"], table.locations.y[there], atol=0.06)
        assert picks["member"] == (table.alignment.class_index[there] == 1).tolist()
        assert picks["box"] == BOX * PIXEL / 1.5
        assert picks["width"] > max(picks["x"])


def test_an_empty_class_has_nothing_to_show(client):
    facts = client.get(f"/class/{CLASSES}.json").json
    assert (facts["members"], facts["shown"], facts["micrographs"]) == (0, 0, [])
    assert client.get(f"/class/{CLASSES}/members.png").status == HTTPStatus.NOT_FOUND


def test_the_choice_is_kept_from_click_to_click_and_from_start_to_start(fresh):
    first = fresh.post("/choice", {"selected": [3, 1], "revision": 1})
    assert first.json == {"selected": [1, 3], "revision": 1}
    kept = json.loads((fresh.run.folder / "selection.json").read_text())
    assert kept["selected"] == [1, 3]
    again = Session(fresh.run.folder, fresh.out, fresh.run.folder / "selection.json")
    assert again.memory.choice.selected == (1, 3)
    assert not list(fresh.out.iterdir()), "nothing is written before the end"


def test_two_pages_do_not_overwrite_each_other(fresh):
    fresh.post("/choice", {"selected": [1], "revision": 1})
    late = fresh.post("/choice", {"selected": [2], "revision": 1})
    assert late.status == HTTPStatus.CONFLICT
    assert late.json["choice"] == {"selected": [1], "revision": 1}
    assert fresh.post("/finish", {"selected": [2], "revision": 1}).status == HTTPStatus.CONFLICT
    assert not fresh.session.done.is_set()


def test_many_clicks_at_once_are_all_counted(fresh):
    done = []

    def click(number: int) -> None:
        while True:
            revision = fresh.session.memory.choice.revision + 1
            answer = fresh.post("/choice", {"selected": [number], "revision": revision})
            if answer.status == HTTPStatus.OK:
                done.append(answer.json["revision"])
                return

    threads = [threading.Thread(target=click, args=(k + 1,)) for k in range(CLASSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(1, CLASSES + 1))


def test_finish_writes_the_files_and_ends(fresh):
    fresh.post("/choice", {"selected": [2], "revision": 1})
    answer = fresh.post("/finish", {"selected": [2, 4], "revision": 2})
    assert answer.status == HTTPStatus.OK
    assert answer.json["folder"] == str(fresh.out)
    assert answer.json["selected"] == COUNTS[1] + COUNTS[3]
    assert fresh.session.done.wait(5)
    assert {p.name for p in fresh.out.iterdir()} == {*answer.json["files"], "manifest.json"}
    table, _ = read_particles(fresh.out / "particles_selected.star")
    assert set(table.alignment.class_index) == {1, 3}
    manifest = json.loads((fresh.out / "manifest.json").read_text())
    assert (manifest["chosen_by"], manifest["classes"]) == ("page", [2, 4])
    assert Memory(fresh.run.folder / "selection.json", CLASSES).choice.selected == (2, 4)


def test_the_files_are_written_once(fresh):
    first = fresh.post("/finish", {"selected": [2], "revision": 1})
    second = fresh.post("/finish", {"selected": [3], "revision": 2})
    assert second.json == first.json
    assert json.loads((fresh.out / "manifest.json").read_text())["classes"] == [2]


def test_nothing_selected_is_no_end(fresh):
    answer = fresh.post("/finish", {"selected": [], "revision": 1})
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert answer.json["error"] == "no class selected"
    assert not fresh.session.done.is_set()
    assert not list(fresh.out.iterdir())


def test_a_full_disk_is_said_and_nothing_lost(fresh, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise EnvironmentFault("cannot write: No space left on device")

    monkeypatch.setattr("cryo2d.jobs.selection.session.write_selection", full)
    answer = fresh.post("/finish", {"selected": [1], "revision": 1})
    assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "No space left" in answer.json["error"]
    assert not fresh.session.done.is_set()
    assert fresh.get("/state.json").json["revision"] == 1


def test_a_run_is_followed_while_it_goes_on(make_client, tmp_path):
    run = finished_run(tmp_path / "going")
    manifest = (run.folder / "manifest.json").read_bytes()
    (run.folder / "manifest.json").unlink()
    client = make_client(run)
    state = client.get("/state.json").json
    assert (state["finished"], state["iteration"]) == (False, 5)
    before = client.get("/averages.png").body
    assert "finished" in client.get("/class/1.json").json["why_not"]
    assert client.get("/class/1/members.png").status == HTTPStatus.NOT_FOUND
    client.post("/choice", {"selected": [2], "revision": 1})
    refused = client.post("/finish", {"selected": [2], "revision": 2})
    assert refused.status == HTTPStatus.BAD_REQUEST
    assert "not finished" in refused.json["error"]

    averages = replace(run.averages, images=run.averages.images[::-1].copy(), iteration=6)
    write_class_averages(run.folder, averages)
    os.utime(run.folder / "class_averages.star", (1, 1))
    later = client.get("/state.json").json
    assert later["iteration"] == 6
    assert later["version"] != state["version"]
    assert client.get("/averages.png").body != before
    assert client.get("/classes.json").json["choice"]["selected"] == [2]

    (run.folder / "manifest.json").write_bytes(manifest)
    end = client.get("/state.json").json
    assert end["finished"]
    assert end["version"] != later["version"], "the page has to look again"
    revision = end["revision"] + 1
    assert client.post("/finish", {"selected": [2], "revision": revision}).status == HTTPStatus.OK


def test_without_the_images_everything_else_still_works(make_client, tmp_path):
    run = finished_run(tmp_path / "moved")
    (run.folder / "particles.mrcs").unlink()
    client = make_client(run)
    facts = client.get("/class/1.json").json
    assert facts["members"] == COUNTS[0]
    assert "not found" in facts["why_not"]
    assert client.get("/class/1/members.png").status == HTTPStatus.NOT_FOUND
    finish = client.post("/finish", {"selected": [1], "revision": 1})
    assert finish.status == HTTPStatus.OK


def test_scores_and_reasons_of_the_run_are_shown(make_client, tmp_path):
    run = finished_run(tmp_path / "scored")
    columns = run.averages.columns | {
        "score": np.linspace(0, 1, CLASSES),
        "reason": np.array([f"reason {k}".encode() for k in range(CLASSES)]),
    }
    write_class_averages(run.folder, ClassAverages(run.averages.images, PIXEL, columns))
    held = make_client(run).get("/classes.json").json
    assert held["measures"]["score"] == pytest.approx(np.linspace(0, 1, CLASSES))
    assert held["reasons"] == [f"reason {k}" for k in range(CLASSES)]


def test_a_port_that_is_taken_is_said(client):
    with pytest.raises(EnvironmentFault, match="choose another port"):
        SelectionServer(client.session, "127.0.0.1", client.server.guard.port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"num_classes": 6, "selected": ["x"], "revision": 1}', "cannot be read"),
        ('{"num_classes": 5, "selected": [1], "revision": 1}', "among other classes"),
        ('{"num_classes": 6, "selected": [7], "revision": 1}', "among other classes"),
    ],
)
def test_a_foreign_choice_is_not_taken_up(tmp_path, text, message):
    path = tmp_path / "selection.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Memory(path, 6)
    assert path.read_text() == text
