"""What is written by the clock."""

from types import SimpleNamespace

import pytest
from fake_run import fit

from cryo2d.training.callbacks.montage import Montage
from cryo2d.training.callbacks.pace import Pace
from cryo2d.training.callbacks.tracks import TrackClasses
from cryo2d.training.drawing.tracks import read_tracks


@pytest.mark.parametrize(
    ("seconds", "passing"),
    [(0, [0, 1, 2, 3, 4, 5, 6]), (2.5, [0, 3, 6]), (4, [0, 4, 6]), (100, [0, 6])],
)
def test_first_and_last_and_by_the_clock(seconds, passing):
    """Iterations of a second each."""
    now = SimpleNamespace(current_epoch=0, max_epochs=7)
    pace = Pace(seconds, clock=lambda: float(now.current_epoch))
    found = []
    for now.current_epoch in range(7):
        if pace.passes(now):
            found.append(now.current_epoch)
    assert found == passing


def test_between_them_nothing_is_drawn(tmp_path):
    fit(tmp_path, [Montage(seconds=1000)], epochs=4)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == ["iteration_000.png", "iteration_003.png"]


def test_tracks_write_what_stays_and_the_last(tmp_path):
    seen = []

    class Watch(TrackClasses):
        def on_train_epoch_end(self, trainer, pl_module):
            super().on_train_epoch_end(trainer, pl_module)
            seen.append(read_tracks(tmp_path).iteration.tolist())

    fit(tmp_path, [Watch(most=2)], epochs=8)
    kept = [[0], [0, 1], [0, 2], [0, 2], [0, 4], [0, 4], [0, 4], [0, 4, 7]]
    assert seen == kept
    # a run that is resumed goes on with them
    fit(tmp_path, [TrackClasses(most=3)], epochs=1)
    assert read_tracks(tmp_path).iteration.tolist() == [0]
