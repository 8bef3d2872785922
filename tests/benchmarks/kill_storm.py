"""Kill a classification at random moments, resume it each time, and compare the files it leaves.

    python tests/benchmarks/kill_storm.py --kills 200 --iterations 500 --span 1.2

A small run without disturbance, then one that signals end again and again, at random moments of
its start, its iterations and its output, each time going on by ``cryo2d resume=RUN``. After SIGTERM
and SIGUSR1, by which queues end jobs, it has to leave by itself within 30 s, with 143. What it
leaves in the end has to be, byte for byte, what the undisturbed run left; but for times, and for
what writes down every start. The processes are forks of this one, which has imported everything:
a kill costs what the run costs. With a short span and many iterations all signals strike one run;
one that has reached its end before the last signal is compared and begun anew.
"""

import argparse
import csv
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from cryo2d import cli
from cryo2d.jobs import classify
from cryo2d.simulate.particles import simulate
from cryo2d.training.callbacks.checkpoint import FOLDER, LAST, newest_checkpoint

SIMULATION = {"num_particles": 120, "box": 32, "pixel_size": 5.0, "num_molecules": 2}
SETTINGS = [
    *("model.num_classes=4", "model.max_resolution=16", "optimizer.batch_per_class=10"),
    *("hardware=cpu", "hardware.threads=1", "logger=none", "seed=3"),
    # every iteration is written, so that signals strike where it is
    *(f"callbacks.{name}.seconds=0" for name in ("montage", "averages", "checkpoint")),
]
GRACE = 30.0
"""Time that queues leave (s)."""

TIMES = ("seconds", "particles_per_second", "memory_gb")
"""Columns of metrics.csv that no two runs share."""

TIMED = ("report.html", "metrics.csv")
"""Files with times in them."""

OWN = (
    *(".hydra", ".lock", "checkpoints", "classify.log", "config.yaml", "report.html", "run.json"),
    *("csv", "tensorboard"),
)
"""What tells of times and starts; the state in the checkpoint is compared by itself."""


def started(words: list[str], folder: Path) -> int:
    """A process that runs a command line in a folder; its number."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    with open("out", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.argv = ["cryo2d", *words]
    code = 4
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def worked(child: int) -> float:
    """Processor time of a process so far (s): what others do on the machine is not in it."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_running(child: int) -> bool:
    """Whether a process has not ended by itself."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def ended(child: int) -> int:
    """Exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(path: Path) -> object:
    """What has to be the same in two runs."""
    if path.name == "metrics.csv":
        with path.open(newline="") as table:
            return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(table)]
    if path.name == "manifest.json":
        facts = json.loads(path.read_text())
        facts.pop("finished")
        facts["files"] = {k: v for k, v in facts["files"].items() if k not in TIMED}
        return facts
    return path.read_bytes()


def differing(one: Path, other: Path) -> list[str]:
    """Files that are not the same in two runs, and parts of the state of their last iteration."""
    names = {
        str(path.relative_to(folder))
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in OWN
    }
    wrong = []
    for name in sorted(names):
        first, second = one / name, other / name
        if not (first.is_file() and second.is_file()) or content(first) != content(second):
            wrong.append(name)
    states = [newest_checkpoint(folder)[1] for folder in (one, other)]
    for part in ("state_dict", "optimizer_states", "assignments"):
        if not same(states[0][part], states[1][part]):
            wrong.append(f"{FOLDER}/{LAST}: {part}")
    return wrong


def same(one: object, other: object) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def iteration(run: Path) -> int:
    """Iterations that a run would not have to repeat."""
    found = newest_checkpoint(run)
    return 0 if found is None else found[1]["epoch"] + 1


def struck(child: int, number: signal.Signals) -> str:
    """Send a signal to a process, and wait for its end; what happened.

    Raises:
        AssertionError: if it did not end as it should.
    """
    os.kill(child, number)
    start = time.perf_counter()
    code = ended(child)
    left = time.perf_counter() - start
    if code == 0:
        return "ended before"
    expected = -number if number == signal.SIGKILL else 143
    assert code == expected, f"{number.name}: {code}"
    assert left < GRACE, f"{number.name}: {left:.0f} s"
    return f"ended by {number.name}"


def storm(
    folder: Path, words: list[str], kills: int, signals: list[str], span: float, seed: int
) -> Counter[str]:
    """End a run so many times, at random moments of its first ``span`` seconds of work.

    Returns:
        What happened, and how often.
    """
    random.seed(seed)
    run, seen, before = folder / "storm", Counter[str](), 0
    for number in range(kills + 1):
        again = [f"resume={run}"] if (run / "config.yaml").is_file() else words
        if not (run / "config.yaml").is_file():
            shutil.rmtree(run, ignore_errors=True)
        child = started(again, folder)
        if number == kills:
            break
        moment = random.uniform(0.05, span)
        while is_running(child) and worked(child) < moment:
            time.sleep(0.002)
        seen[struck(child, signal.Signals[f"SIG{signals[number % len(signals)]}"])] += 1
        now = iteration(run)
        assert now >= before, f"iteration {before} was lost: {now}"
        seen["in the first iteration" if now == 0 else "later"] += 1
        before = now
        if (run / "manifest.json").is_file():
            # killed too late: once more from the beginning
            seen["whole runs"] += 1
            wrong = differing(folder / "whole", run)
            assert not wrong, wrong
            shutil.rmtree(run)
            before = 0
    assert ended(child) == 0, (folder / "out").read_text()[-3000:]
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=["KILL", "TERM", "USR1"])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--span", type=float, help="latest moment of a kill (s of work)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert callable(classify.run), "imported before the processes are made"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = simulate(folder / "stack", **SIMULATION, snr=0.5, views=2, seed=1)
        words = [f"data.path={stack}", *SETTINGS, f"optimizer.iterations={options.iterations}"]
        start = time.perf_counter()
        assert ended(started([*words, "hydra.run.dir=whole"], folder)) == 0, folder
        whole = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        span = options.span or 0.6 * whole
        words.append(f"hydra.run.dir={folder / 'storm'}")
        seen = storm(folder, words, options.kills, options.signals, span, options.seed)
        wrong = differing(folder / "whole", folder / "storm")
        print(f"undisturbed run: {whole:.1f} s of work; kills within {span:.1f} s of each start")
        print("; ".join(f"{count} {what}" for what, count in seen.items()))
        print(f"{time.perf_counter() - start:.0f} s in all; different: {wrong or 'nothing'}")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
