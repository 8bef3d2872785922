"""Whoever wants the same thing waits for the one who makes it, but not for the dead."""

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cryo2d.data import turn as turn_module
from cryo2d.data.turn import turn

FOREVER = 1e9


def never() -> bool:
    return False


def hold(path: Path, ready, end) -> None:
    """Take one's turn and keep it."""
    with turn(path, never, never, FOREVER):
        ready.set()
        end.wait()


@pytest.fixture
def holder(tmp_path: Path):
    """A process at work, and the file that it has locked."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "lock", ready, end))
    process.start()
    assert ready.wait(60)
    yield process, tmp_path / "lock", end
    process.kill()
    process.join(60)


def waiting(path: Path, patience: float = FOREVER, work: Callable[[], object] = never):
    """A thread that waits for its turn, and what says that it has come."""
    come = threading.Event()

    def take() -> None:
        with turn(path, never, work, patience):
            come.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return come, thread


def test_one_waits_for_the_other_and_leaves_nothing_behind(holder) -> None:
    process, path, end = holder
    come, thread = waiting(path)
    assert not come.wait(0.6)
    assert str(process.pid) in path.read_text()
    end.set()
    assert come.wait(60)
    thread.join(60)
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_is_not_waited_for(holder, number) -> None:
    process, path, _ = holder
    come, _ = waiting(path)
    assert not come.wait(0.3)
    os.kill(process.pid, number)
    assert come.wait(60)


def test_a_process_that_does_nothing_is_not_waited_for_either(holder, caplog) -> None:
    process, path, _ = holder
    os.kill(process.pid, signal.SIGSTOP)
    assert waiting(path, patience=0.3)[0].wait(60)
    assert "nothing happens" in caplog.text
    # as long as something happens it is
    come, thread = waiting(path, patience=1.0, work=time.monotonic)
    assert not come.wait(2.0)
    process.kill()
    thread.join(60)


def test_what_is_done_needs_no_turn(holder) -> None:
    _, path, _ = holder
    with turn(path, lambda: True, never, FOREVER):
        pass
    assert path.exists()


def test_the_lock_of_a_file_that_was_removed_counts_for_nothing(tmp_path, monkeypatch) -> None:
    path, opened = tmp_path / "lock", []
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        # the one before has ended between opening and locking
        if not opened:
            path.unlink()
        opened.append(descriptor)
        lock(descriptor, how)

    monkeypatch.setattr(turn_module.fcntl, "flock", late)
    with turn(path, never, never, FOREVER):
        assert len(opened) == 2
        assert path.exists()


def test_where_nothing_can_be_locked_all_do_the_work_and_are_told(
    tmp_path, monkeypatch, caplog
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(turn_module.fcntl, "flock", refuse)
    path = tmp_path / "lock"
    mine, others = (turn(path, never, never, FOREVER) for _ in range(2))
    with caplog.at_level(logging.WARNING), mine, others:
        assert "No locks available" in caplog.text
