"""Damaged inputs for as long as wanted; every finding is kept as a file and shown.

    nice python tests/fuzz/long.py [star cs mrc compressed settings] [--minutes 30]
        [--max-examples 500] [--keep FOLDER] [--seed 0]

With atheris (``pip install atheris``) the inputs are those that reach new lines of the readers;
without it, or with ``--blind``, hypothesis makes them. A case may take 2 s of the
processor, the process 500 MB more than it has at the start. The exit code is 1 if anything was
found.
"""

import argparse
import hashlib
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from child import little_memory
from damaged import TARGETS, Target, damaged, seeds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

LONGEST = 2.0


class Watch:
    """Runs one target and keeps what breaks it."""

    def __init__(self, name: str, keep: Path) -> None:
        self.name, self.target, self.keep = name, TARGETS[name], keep
        self.cases, self.slowest = 0, 0.0
        self.seen: dict[str, Path] = {}

    def __call__(self, data: bytes) -> None:
        start = time.process_time()
        self.cases += 1
        try:
            self.target(data)
        except Exception as error:
            self._keep(data, _place(error), traceback.format_exc())
        seconds = time.process_time() - start
        if seconds > LONGEST:
            self._keep(data, "slow", f"{seconds:.1f} s\n")
        self.slowest = max(self.slowest, seconds)

    def _keep(self, data: bytes, place: str, text: str) -> None:
        if place in self.seen:
            return
        path = self.keep / f"{self.name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        self.seen[place] = path
        path.write_bytes(data)
        print(f"{self.name}: {path}\n{text}", flush=True)


def _place(error: Exception) -> str:
    """Where an error comes from: its kind and the innermost lines of this project."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{f.filename}:{f.lineno}" for f in frames if "site-packages" not in f.filename]
    return f"{type(error).__name__} {ours[-1] if ours else ''}"


def blind(watch: Watch, minutes: float, examples: int, seed: int) -> None:
    """Inputs by hypothesis, with a new seed every so many examples."""
    end = time.monotonic() + 60 * minutes

    def case(data: bytes) -> None:
        watch(data)

    while time.monotonic() < end:
        found = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(damaged(watch.name))(case))
        seeded(seed)(found)()
        seed += 1


def guided(targets: dict[str, Watch], minutes: float, folder: Path) -> None:
    """Inputs by atheris, which ends the process: the first byte chooses the target."""
    import atheris

    watches = list(targets.values())
    for number, watch in enumerate(watches):
        for i, data in enumerate(seeds()[watch.name]):
            (folder / f"seed-{number}-{i}").write_bytes(bytes([number]) + data)

    def one(data: bytes) -> None:
        if data:
            watches[data[0] % len(watches)](data[1:])

    atheris.instrument_all()
    arguments = [sys.argv[0], f"-max_total_time={int(60 * minutes)}", "-max_len=20000", str(folder)]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--max-examples", type=int, default=500)
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--blind", action="store_true")
    args = parser.parse_args()
    names = args.targets or list(TARGETS)
    logging.disable()
    args.keep.mkdir(parents=True, exist_ok=True)
    watches = {name: Watch(name, args.keep) for name in names}
    for name in names:
        warm_up(TARGETS[name], name)
    with little_memory():
        if not args.blind and has_atheris():
            guided(watches, args.minutes, args.keep)
        for name, watch in watches.items():
            blind(watch, args.minutes / len(names), args.max_examples, args.seed)
            found = len(watch.seen)
            print(f"{name}: {watch.cases} cases, {found} findings, slowest {watch.slowest:.2f} s")
    sys.exit(any(watch.seen for watch in watches.values()))


def warm_up(target: Target, name: str) -> None:
    """Import and start everything, so that the limit is on the cases alone."""
    for data in seeds()[name]:
        target(data)


def has_atheris() -> bool:
    """Whether atheris can be imported."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    main()
