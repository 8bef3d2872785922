"""The page as people use it, in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Browser
from finished_run import CLASSES, COUNTS, finished_run

from cryo2d.io.averages import write_class_averages
from cryo2d.io.particles import read_particles

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium")
ALL = list(range(1, CLASSES + 1))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, fresh) -> Iterator[Browser]:
    browser.complaints.clear()
    browser.open(fresh.server.address)
    yield browser
    assert browser.complaints == []


def tile(number: int) -> str:
    return f'figure[data-number="{number}"] canvas'


def selected(page: Browser) -> list[int]:
    script = "[...document.querySelectorAll('.tile.selected')].map(t => Number(t.dataset.number))"
    return sorted(page.run(script))


def shown(page: Browser) -> list[int]:
    return page.run("[...document.querySelectorAll('#grid figure')].map(t => +t.dataset.number)")


def text(page: Browser, identity: str) -> str:
    return page.run(f"document.getElementById('{identity}').textContent")


def slide(page: Browser, measure: str, step: int) -> None:
    slider = f"document.querySelector('input[data-measure={measure}]')"
    page.run(f"{slider}.value = {step}; {slider}.dispatchEvent(new Event('input'));")
    page.run(f"{slider}.dispatchEvent(new Event('change'));")


def test_the_secret_leaves_the_address(page):
    assert "token" not in page.run("location.href")
    assert page.run("document.cookie") == ""


def test_clicks_select_and_shift_selects_a_range(page, fresh):
    assert shown(page) == ALL, "largest first"
    page.click(tile(1))
    assert selected(page) == [1]
    page.click(tile(4), shift=True)
    assert selected(page) == [1, 2, 3, 4]
    page.click(tile(2))
    page.click(tile(3), shift=True)
    assert selected(page) == [1, 4], "a range becomes what its first click made"
    assert text(page, "tally-particles") == str(COUNTS[0] + COUNTS[3])
    page.wait("!document.getElementById('finish').disabled")
    fresh.session.memory.path.stat()


def test_keys_do_what_clicks_do(page):
    page.run("document.querySelector('#grid figure').focus()")
    page.press("ArrowRight")
    page.press(" ")
    assert selected(page) == [2]
    page.press("i")
    assert selected(page) == [1, 3, 4, 5, 6]
    page.press("n")
    assert selected(page) == []
    page.press("a")
    assert selected(page) == ALL
    for _ in range(3):
        page.press("u")
    assert selected(page) == [2]
    page.press("r")
    assert selected(page) == [1, 3, 4, 5, 6]
    page.press("/")
    assert page.run("document.getElementById('help').open")
    page.press("Escape")
    assert not page.run("document.getElementById('help').open")


def test_sorting_and_filtering(page):
    def sort(name: str) -> list[int]:
        page.run(
            f"(() => {{ const s = document.getElementById('sort'); s.value = '{name}';"
            "s.dispatchEvent(new Event('change')); })()"
        )
        return shown(page)

    assert sort("resolution") == [1, 2, 4, 3, 5, 6], "no resolution comes last"
    page.click("#direction")
    assert shown(page) == [6, 5, 3, 4, 2, 1]
    assert sort("ess") == [1, 2, 4, 3, 5, 6]
    assert sort("class") == ALL
    assert sorted(sort("similarity")) == ALL
    page.click(tile(2))
    page.click("[data-show=selected]")
    assert shown(page) == [2]
    page.click("[data-show=unselected]")
    assert 2 not in shown(page)
    page.click("[data-show=all]")
    assert sorted(shown(page)) == ALL


def test_thresholds_select_what_passes_and_are_one_step_of_undo(page):
    page.click("#show-thresholds")
    page.click(tile(6))
    slide(page, "count", 3)
    assert selected(page) == [1, 2, 3]
    assert "75 particles pass" in text(page, "threshold-count")
    slide(page, "resolution", 3)
    assert selected(page) == [1, 2]
    assert text(page, "threshold-rule") == "rules='count >= 20 and resolution <= 11'"
    page.press("u")
    assert selected(page) == [1, 2, 3]
    page.press("u")
    assert selected(page) == [6]


def test_the_menu_selects_better_and_worse(page):
    def choose(number: int, act: str, measure: str, better: bool) -> list[int]:
        page.click(tile(number), button="right")
        better_text = str(better).lower()
        page.click(f'#menu [data-act={act}][data-measure={measure}][data-better="{better_text}"]')
        return selected(page)

    assert choose(4, "add", "resolution", better=True) == [1, 2, 4]
    assert choose(2, "remove", "count", better=True) == [4]
    assert choose(5, "add", "ess", better=False) == [4, 5, 6]
    assert not page.run("document.getElementById('menu').matches(':popover-open')")


def test_a_class_looked_at_closely(page):
    page.click(tile(2), count=2)
    assert text(page, "zoom-title") == "Class 2"
    assert selected(page) == [], "opening selects nothing"
    assert page.run("document.getElementById('undo').disabled"), "nor is there anything to undo"
    page.wait("document.getElementById('members').width > 0")
    page.wait("document.getElementById('picks').width > 0")
    assert page.run("document.querySelector('#frc .curve').getTotalLength()") > 100
    assert f"of {COUNTS[1]}" in text(page, "member-count")
    page.press("ArrowRight")
    assert text(page, "zoom-title") == "Class 3"
    page.click("#zoom-toggle")
    assert selected(page) == [3]
    page.wait(f"document.getElementById('member-count').textContent.includes('of {COUNTS[2]}')")
    page.press("Escape")
    assert not page.run("document.getElementById('zoom').open")


def test_classes_of_one_view_are_shown_and_chosen_together(page):
    views = "[...document.querySelectorAll('#menu button')].filter(b => /view/.test(b.textContent))"
    page.click(tile(2), button="right")
    assert page.run(f"{views}.length") == 0
    page.press("Escape")
    page.click(tile(5), button="right")
    assert page.run(f"{views}[0].textContent") == "Select all 2 classes of its view"
    assert page.run(f"{views}[0].title") == "#1, #5"
    page.run(f"{views}[0].click()")
    assert selected(page) == [1, 5]
    page.run("document.getElementById('sort').value = 'superclass'")
    page.run("document.getElementById('sort').dispatchEvent(new Event('change'))")
    assert shown(page) == [1, 5, 2, 3, 4, 6]
    page.click(tile(1), count=2)
    assert text(page, "zoom-alike") == "The same view: #5."
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert text(page, "zoom-alike") == ""
    page.press("Escape")


def test_scores_and_their_reasons_are_shown(page, fresh):
    run = fresh.session.view().run
    for number in (1, 3):
        score, reason = run.measures["score"][number - 1], run.reasons[number - 1]
        words = f"Score {score:.2f}: {reason}"
        assert reason
        assert (
            page.run(f"document.querySelector('figure[data-number=\"{number}\"]').title") == words
        )
        page.click(tile(number), count=2)
        assert text(page, "zoom-reason") == words
        page.press("Escape")
    doubtful = page.run(
        "[...document.querySelectorAll('.tile.doubtful')].map(t => +t.dataset.number)"
    )
    assert sorted(doubtful) == (np.flatnonzero(run.measures["score"] < 0.5) + 1).tolist()


def test_finish_writes_and_says_where(page, fresh):
    page.click(tile(1))
    page.click(tile(3))
    page.click("#finish")
    page.wait("!document.getElementById('end').hidden")
    assert fresh.session.done.wait(5)
    assert text(page, "end-folder") == str(fresh.out)
    assert "particles_selected.star" in text(page, "end-files")
    manifest = json.loads((fresh.out / "manifest.json").read_text())
    assert manifest["classes"] == [1, 3]
    table, _ = read_particles(fresh.out / "particles_selected.cs")
    assert len(table) == COUNTS[0] + COUNTS[2]


def test_the_choice_is_there_when_the_page_is_opened_again(page, fresh):
    page.click(tile(5))
    page.click(tile(2))
    page.wait("document.querySelectorAll('.tile.selected').length === 2")
    page.open(fresh.server.address)
    assert selected(page) == [2, 5]


def test_a_run_is_followed_and_finished_when_it_is(browser, make_client, tmp_path):
    run = finished_run(tmp_path / "going")
    (run.folder / "manifest.json").rename(tmp_path / "later")
    client = make_client(run)
    browser.open(client.server.address)
    assert text(browser, "stage") == "not finished, iteration 5"
    browser.click(tile(1))
    assert browser.run("document.getElementById('finish').disabled")
    (tmp_path / "later").rename(run.folder / "manifest.json")
    write_class_averages(run.folder, run.averages)
    browser.run("dispatchEvent(new Event('focus'))")
    browser.wait("document.getElementById('stage').hidden")
    browser.wait("!document.getElementById('finish').disabled")
    assert selected(browser) == [1]


def test_names_from_the_data_run_nothing(browser, make_client, tmp_path):
    name = "<img src=x onerror=document.title='taken'>.mrc"
    folder = tmp_path / "<b onclick=alert(1)>"
    browser.complaints.clear()
    client = make_client(finished_run(folder, micrographs=(name,)))
    browser.open(client.server.address)
    browser.click(tile(1), count=2)
    browser.wait("document.getElementById('micrograph').options.length === 1")
    assert name in text(browser, "micrograph")
    assert browser.run("document.title").startswith("Select classes")
    assert (
        browser.run("document.querySelectorAll('main img, dialog img, header b[onclick]').length")
        == 0
    )
    browser.press("Escape")
    assert browser.complaints == []


def test_scripts_that_are_not_of_the_page_do_not_run(page):
    page.run(
        "const image = '<img src=icon.svg onload=\"window.taken = 1\">';"
        "document.body.insertAdjacentHTML('beforeend', image);"
        "const s = document.createElement('script'); s.textContent = 'window.taken = 1';"
        "document.body.append(s);"
    )
    page.wait("document.querySelector('body > img').complete")
    assert page.run("window.taken === undefined")
    assert any("Content Security Policy" in line for line in page.complaints)
    page.complaints.clear()


def test_everything_is_drawn_before_it_is_printed(page):
    page.run("dispatchEvent(new Event('beforeprint'))")
    drawn = "[...document.querySelectorAll('#grid canvas')].every(canvas => canvas.width > 100)"
    assert page.run(drawn)


def test_the_files_of_the_page_are_all_there(fresh):
    folder = Path(__file__).parents[3] / "cryo2d" / "jobs" / "selection" / "page"
    served = {path.removeprefix("/") or "index.html" for path in fresh.server.files}
    assert served == {
        p.name for p in folder.iterdir() if p.suffix in (".html", ".css", ".js", ".svg")
    }
    for path in folder.iterdir():
        if path.is_file():
            assert len(path.read_text().splitlines()) < 400
