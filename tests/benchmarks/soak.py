"""Ten thousand small iterations: memory, descriptors, threads, time and disk have to stay flat.

    TMPDIR=/dev/shm python tests/benchmarks/soak.py --iterations 10000

A whole classification with all callbacks and the usual loggers, its folder and all that it writes.
Prints a row at every tenth of the run, and the slopes of the last three quarters.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir

from cryo2d import cli
from cryo2d.jobs import classify, settings_file
from cryo2d.simulate.particles import simulate

SIMULATION = {"num_particles": 60, "box": 24, "pixel_size": 6.0, "num_molecules": 2}
SETTINGS = [
    *("model.num_classes=2", "model.max_resolution=24", "optimizer.batch_per_class=5"),
    *("hardware=cpu", "hardware.threads=1", "seed=3"),
]


class Watch(pl.Callback):
    """Looks at the process and at the folder of the run now and then.

    Attributes:
        rows: iteration, resident memory (MB), descriptors, threads, objects, ms of the processor
            per iteration and size of the folder (MB), one row for each look.
    """

    rows: list[tuple[float, ...]] = []

    def __init__(self, every: int) -> None:
        self.every = every
        self.since = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every:
            return
        now = time.process_time()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        folder = Path(trainer.default_root_dir)
        row = (
            done,
            resident / 1e6,
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            len(gc.get_objects()),
            1e3 * (now - self.since) / self.every,
            sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        )
        Watch.rows.append(row)
        if len(Watch.rows) % 4 == 0:
            print("| " + " | ".join(f"{value:.1f}" for value in row) + " |", file=sys.stderr)
        self.since = time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("settings", nargs="*", help="more settings, as logger=none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        folder.mkdir()
        stack = simulate(Path(name, "stack"), **SIMULATION, snr=0.5, views=1, seed=1)
        watch = [
            "+callbacks.watch._target_=__main__.Watch",
            f"+callbacks.watch.every={options.iterations // 40}",
        ]
        typed = [*SETTINGS, *watch, *options.settings, f"data.path={stack}"]
        with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
            cfg = compose(
                "classify", overrides=[*typed, f"optimizer.iterations={options.iterations}"]
            )
            # Hydra knows the folder of a run only inside a run of its own
            for one in (cfg.logger or {}).values():
                one.save_dir = str(folder)
        settings_file.write_settings(cfg, folder)
        start = time.perf_counter()
        names = "iteration | MB of memory | descriptors | threads | objects | ms | MB of disk"
        print(f"| {names} |\n|" + 7 * "---|", file=sys.stderr)
        classify.run(cfg, folder)
        hours = (time.perf_counter() - start) / 3600
    report(np.array(Watch.rows), hours)


def report(rows: np.ndarray, hours: float) -> None:
    """Print the slopes of the last three quarters."""
    late = rows[len(rows) // 4 :]
    thousands = late[:, 0] / 1000
    names = ("MB of memory", "descriptors", "threads", "objects", "ms an iteration", "MB of disk")
    for index, what in enumerate(names, start=1):
        slope = np.polyfit(thousands, late[:, index], 1)[0]
        print(f"{slope:+.3f} {what} per 1,000 iterations")
    print(f"{hours:.2f} h")
    grown = np.polyfit(thousands, late[:, 1], 1)[0]
    sys.exit(bool(grown > 1.0 or np.ptp(late[:, 2]) > 2))


if __name__ == "__main__":
    main()
