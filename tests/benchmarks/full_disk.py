"""Fill a real disk at different moments of a classification, make room, resume, and compare.

    python tests/benchmarks/full_disk.py --moments 40
    unshare -rm python tests/benchmarks/full_disk.py    # where only root may mount

The command line works in a folder on a small disk of its own (tmpfs) on which so much is left that
it fills up at another moment each time: while the folder is made, at the settings, a checkpoint, a
picture, the report. Then the program has to end with 3 and name the reason without a traceback, the
last finished iteration has to be whole, nothing may say that the run is complete, and once there is
room ``cryo2d resume=RUN`` has to end in the files of a run that was never disturbed.
"""

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from kill_storm import SETTINGS, SIMULATION, differing, ended, started

from cryo2d.jobs import classify
from cryo2d.simulate.particles import simulate
from cryo2d.training.callbacks.checkpoint import newest_checkpoint

FILLER = "filler"
ROOM = 1 << 20
"""Beyond what the run needs, after there is room again (bytes)."""


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of its own that holds so many bytes.

    Raises:
        SystemExit: if this user may not mount one.
    """
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "cryo2d", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr.strip()}\nhint: unshare -rm python {' '.join(sys.argv)}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(disk)
    with (disk / FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - left, 1))


def size_of(folder: Path) -> int:
    """Bytes that the files of a folder take from a disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*"))


def stopped_at(run: Path) -> str:
    """Where the disk filled up, checked to be a state that can be gone on from.

    Raises:
        AssertionError: if something is torn, or claims to be complete.
    """
    assert not (run / "manifest.json").is_file(), "it claims to be complete"
    assert not list(run.rglob(".*.part")), "a part of a file stays"
    newest = newest_checkpoint(run)
    if newest is not None:
        # no generation is torn, not only the one that serves
        assert newest[0].name == "last.safetensors", newest[0]
        return f"after iteration {newest[1]['epoch'] + 1}"
    return "before the first" if (run / "config.yaml").is_file() else "before its settings"


def one_moment(folder: Path, words: list[str], left: int) -> tuple[str, str]:
    """A run on a disk with so many bytes left; where it stopped, and its message."""
    (folder / "out").unlink(missing_ok=True)
    size = size_of(folder / "whole") + ROOM
    with small_disk(folder / f"disk{left}", size) as disk:
        run = disk / "run"
        fill(disk, left)
        code = ended(started([*words, f"hydra.run.dir={run}"], folder))
        said = (folder / "out").read_text()
        if code == 0:
            wrong = differing(folder / "whole", run)
            assert not wrong, wrong
            return "not at all", ""
        assert code == 3, f"{left} bytes left: exit code {code}\n{said[-3000:]}"
        assert "No space left on device" in said, said[-3000:]
        assert "Traceback" not in said, said[-3000:]
        where = stopped_at(run)
        (disk / FILLER).unlink()
        begun = (run / "config.yaml").is_file()
        again = [f"resume={run}"] if begun else [*words, f"hydra.run.dir={run}"]
        code = ended(started(again, folder))
        assert code == 0, f"resume: exit code {code}\n{(folder / 'out').read_text()[-3000:]}"
        wrong = differing(folder / "whole", run)
        assert not wrong, f"{left} bytes left: {wrong}"
    last = [line for line in said.splitlines() if line.startswith("cryo2d:")]
    return where, last[0].replace(str(disk), "DISK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("settings", nargs="*", help="more settings, as logger=csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert callable(classify.run), "imported before the processes are made"
    logging.raiseExceptions = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = simulate(folder / "stack", **SIMULATION, snr=0.5, views=2, seed=1)
        words = [f"data.path={stack}", *SETTINGS, f"optimizer.iterations={options.iterations}"]
        words += options.settings
        start = time.perf_counter()
        assert ended(started([*words, "hydra.run.dir=whole"], folder)) == 0, folder
        needed = size_of(folder / "whole")
        seen, messages = Counter[str](), Counter[str]()
        for number in range(options.moments):
            left = number * needed // options.moments // 4096 * 4096
            where, message = one_moment(folder, words, left)
            seen[where] += 1
            messages[message] += 1
    print(f"{needed / 1e6:.1f} MB for a run; the disk filled up", end=" ")
    print("; ".join(f"{where} ({count})" for where, count in seen.items()))
    print("\n".join(f"{count} x {message}" for message, count in messages.items() if message))
    print(f"{time.perf_counter() - start:.0f} s in all; different: nothing")


if __name__ == "__main__":
    main()
