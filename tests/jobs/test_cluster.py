import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryo2d.simulate.particles import simulate

# submits to the machine itself what would go to a cluster
PROGRAM = """
import sys

import submitit

from cryo2d.cli import main

submitted = submitit.AutoExecutor


def here(cluster, **given):
    executor = submitted(cluster="local", **given)
    update = executor.update_parameters

    def told(**parameters):
        print("SUBMITTED", cluster, parameters)
        update(**parameters)

    executor.update_parameters = told
    return executor


submitit.AutoExecutor = here
main()
"""


@pytest.mark.slow
def test_runs_go_through_the_queue(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    star = simulate(tmp_path / "stack", num_particles=60, box=32, pixel_size=6.0, seed=1)
    settings = [
        *("-m", "hardware=slurm", "hardware.trainer.accelerator=cpu", "hardware.threads=1"),
        *(f"data.path={star}", "logger=none"),
        *("model.num_classes=2", "model.max_resolution=20", "model.force_max=true"),
        *("optimizer.iterations=1", "optimizer.batch_per_class=20", "seed=1"),
        *("hydra.launcher.timeout_min=10", "hydra.launcher.partition=gpu"),
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = next(line for line in done.stdout.splitlines() if line.startswith("SUBMITTED"))
    assert told.startswith("SUBMITTED slurm")
    for asked in ("'gpus_per_node': 1", "'timeout_min': 10", "'slurm_partition': 'gpu'"):
        assert asked in told
    manifest = json.loads(Path(tmp_path, "sweep", "0", "manifest.json").read_text())
    assert manifest["particles"]["classified"] == 60
    assert list(Path(tmp_path, "sweep", ".submitit").glob("*/*_submitted.pkl"))
