"""The page of a live classification."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fake_run import CLASSES, make_summary

from cryo2d.training.callbacks.page import PAGE, LivePage
from cryo2d.training.drawing.growth import draw_growth
from cryo2d.training.drawing.report import data_url


class Held:
    """So many particles."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def shown(page: LivePage, folder: Path, iteration: int, count: int) -> str:
    """The page after an iteration with so many particles."""
    (folder / "config.yaml").write_text("seed: 1\n")
    waiting = {str(folder / f"piece{i}.star") for i in range(7)}
    particles = SimpleNamespace(
        held=Held(count),
        excluded=SimpleNamespace(table=Held(3)),
        feed=SimpleNamespace(
            watch=folder, waiting=waiting, unreadable={"x/bad.star": "a <stack> is missing"}
        ),
        folder=folder,
    )
    trainer = SimpleNamespace(
        datamodule=particles,
        is_global_zero=True,
        default_root_dir=str(folder),
        current_epoch=iteration,
        max_epochs=-1,
    )
    module = SimpleNamespace(summary=make_summary(iteration), pixel_size=3.0)
    page.on_train_epoch_end(trainer, module)
    return (folder / PAGE).read_text() if (folder / PAGE).is_file() else ""


def test_the_page_says_what_has_come_and_what_has_not(tmp_path):
    text = shown(LivePage(every=7.0), tmp_path, 0, 1234)
    assert "1,234 in the classification" in text
    assert "3 left out" in text
    assert "piece4.star and 2 more" in text
    assert "bad.star cannot be read: a &lt;stack&gt; is missing" in text
    assert "location.reload(); }, 7000)" in text
    rows = [f'alt="class {k + 1}"' for k in range(CLASSES - 1)]
    places = [text.index(row) for row in rows]
    assert places == sorted(places), "classes keep their places"


def test_pages_are_not_written_more_often_than_asked_for(tmp_path):
    page = LivePage(every=1000.0)
    first = shown(page, tmp_path, 0, 100)
    assert shown(page, tmp_path, 1, 200) == first
    assert [row[:2] for row in page.history] == [(0, 100), (1, 200)]


def test_growth_goes_on_after_an_interruption(tmp_path):
    before = LivePage(every=0.0)
    for iteration in range(3):
        shown(before, tmp_path, iteration, 100 * iteration)
    after = LivePage(every=0.0)
    after.load_state_dict(before.state_dict())
    text = shown(after, tmp_path, 3, 400)
    iteration, particles, resolution = zip(*after.history, strict=True)
    assert particles == (0, 100, 200, 400)
    assert np.isfinite(resolution).all()
    assert data_url(draw_growth(iteration, particles, resolution)) in text
