import json
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cryo2d.cli import config_dir
from cryo2d.data.store import Shared
from cryo2d.errors import InputError
from cryo2d.jobs import overrides, sweep
from cryo2d.jobs.particles import store_of
from cryo2d.training.objectives import OBJECTIVES


def ended(folder: Path, *, compare: bool = False, job: str = "classify") -> None:
    config = OmegaConf.create(
        {"hydra": {"sweep": {"dir": str(folder)}, "job": {"config_name": job}}}
    )
    end = sweep.SweepEnd(compare)
    end.on_multirun_start(config)
    end.on_multirun_end(config)


def test_every_objective_has_a_better_direction():
    assert set(sweep.DIRECTION) == set(OBJECTIVES)
    assert OmegaConf.create({"d": "${direction:stability}"}).d == "maximize"


def test_the_end_of_a_sweep_tells_failures_and_exits_with_the_worst(tmp_path, capsys):
    for name, code in (("10", 3), ("2", 2)):
        (tmp_path / name).mkdir()
        sweep.record_failure(tmp_path / name, code, f"problems:\n  no {name}\n  more")
    with pytest.raises(SystemExit) as stop:
        ended(tmp_path)
    assert stop.value.code == 3
    first, second = capsys.readouterr().err.splitlines()
    assert "run 2 of" in first
    assert first.endswith("failed (2): no 2")
    assert second.endswith("failed (3): no 10")


def test_the_end_of_a_sweep_names_the_comparison_and_removes_the_shared_particles(tmp_path, capsys):
    (tmp_path / sweep.CACHE).mkdir()
    for name in "01":
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    ended(tmp_path)
    assert capsys.readouterr().out == f"\ncryo2d compare {tmp_path}\n"
    assert not (tmp_path / sweep.CACHE).exists()
    ended(tmp_path, job="simulate")
    (tmp_path / "0" / "manifest.json").unlink()
    ended(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ({"path": "a.star", "cache": "ram"}, True),
        ({"path": None, "cache": "ram"}, False),
        ({"path": "a.star", "cache": "off"}, False),
    ],
)
def test_runs_of_a_sweep_share_the_particles(tmp_path, monkeypatch, given, shared):
    task = {"hydra": {"overrides": {"task": []}, "runtime": {"cwd": str(tmp_path)}}}
    monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create(task["hydra"]))
    cfg = OmegaConf.create({"data": given, "hardware": {"memory_fraction": 0.8, "devices": 1}})
    sweep.share_particles(cfg, tmp_path)
    assert (cfg.data.cache == str(tmp_path / sweep.CACHE)) == shared
    assert isinstance(store_of(cfg), Shared) == shared
    task["hydra"]["overrides"]["task"] = ["data.cache=ram"]
    cfg = OmegaConf.create({"data": given})
    sweep.share_particles(cfg, tmp_path)
    assert cfg.data.cache == given["cache"]


def test_a_failure_is_a_table_that_programs_read(tmp_path):
    sweep.record_failure(tmp_path, 3, "no room")
    told = json.loads((tmp_path / "failure.json").read_text())
    assert told == {"exit_code": 3, "message": "no room"}


@pytest.mark.parametrize(
    ("typed", "plugin", "extra"),
    [
        ("hparams_search=optuna", "hydra_optuna_sweeper", "sweep"),
        ("hydra/launcher=joblib", "hydra_joblib_launcher", "sweep"),
        ("hydra/launcher=submitit_local", "hydra_submitit_launcher", "slurm"),
        ("hardware=slurm", "hydra_submitit_launcher", "slurm"),
    ],
)
def test_plugins_are_used_or_asked_for(typed, plugin, extra):
    try:
        __import__(f"hydra_plugins.{plugin}")
    except ImportError:
        with pytest.raises(InputError, match=rf"pip install 'cryo2d\[{extra}\]'"):
            overrides.check("classify", [typed], config_dir(), multirun=True)
    else:
        overrides.check("classify", [typed], config_dir(), multirun=True)
