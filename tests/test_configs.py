"""Every configuration composes, fits the table of settings, and names classes that exist."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from cryo2d import cli
from cryo2d.jobs.rules import Object, Objects
from cryo2d.jobs.settings import SETTINGS, problems

CONF = cli.config_dir()
JOBS = sorted(path.stem for path in CONF.glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "simulation")
    # what needs a plugin of Hydra is in tests/jobs/test_sweep.py
    and "override /hydra/" not in path.read_text()
)


# Settings without a default.
NEEDED = {
    "convert": ["data.path=particles.star"],
    "deduplicate": ["data.path=particles.star"],
    "rank": ["run=outputs/classify/run"],
    "rebalance": ["run=outputs/classify/run"],
    "relion": ["data.path=particles.star"],
    "rerun": ["run=outputs/classify/run"],
    "select": ["run=outputs/classify/run"],
}


def composed(job: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(job, overrides=list(overrides))


def objects(node: Any, above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted key and mapping of every ``_target_``."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield above, node
        for key, value in node.items():
            yield from objects(value, f"{above}.{key}" if above else key)


def test_every_job_has_a_configuration_a_table_and_a_module():
    assert sorted(SETTINGS) == JOBS
    for job in JOBS:
        assert callable(importlib.import_module(f"cryo2d.jobs.{job}").run)


@pytest.mark.parametrize("job", JOBS)
def test_the_table_and_the_configuration_have_the_same_keys(job):
    assert list(problems(job, composed(job, *NEEDED.get(job, [])))) == []


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes(group, option):
    cfg = composed("classify", f"{group}={option}")
    assert list(problems("classify", cfg)) == []


def test_several_loggers_at_once():
    assert set(composed("classify", "logger=[csv,wandb]").logger) == {"csv", "wandb"}
    assert set(composed("classify").logger) == {"csv", "tensorboard"}
    assert not composed("classify", "logger=none").logger
    assert composed("classify", "logger=wandb").logger.wandb.offline is True


def test_the_reference_experiment_has_the_reference_schedule():
    optimizer = composed("classify", "experiment=reference").optimizer
    assert (optimizer.iterations, optimizer.batch_per_class) == (20, 100)
    assert (optimizer.full_iterations, optimizer.batch_growth) == (1, 1)


def test_every_object_exists_and_takes_the_arguments_it_is_given():
    cfg = composed("classify", "logger=[csv,tensorboard,wandb]")
    found = dict(objects(OmegaConf.to_container(cfg, resolve=False)))
    assert "hardware.trainer" in found
    for key, node in found.items():
        module, _, name = node["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        given = {argument for argument in node if argument != "_target_"}
        parameters = inspect.signature(target).parameters.values()
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        assert free or given <= {parameter.name for parameter in parameters}, key


def test_a_group_refers_to_no_folder_of_this_machine():
    for path in CONF.rglob("*.yaml"):
        assert not re.search(r"(?<![\w$}])/(home|root|work|tmp|data)/", path.read_text()), path


def commented(path: Path) -> set[str]:
    """Last parts of the keys that have a comment above them or above the keys they stand with."""
    found, explained = set(), False
    for line in path.read_text().splitlines():
        text = line.strip()
        key = re.match(r"([\w]+):", text)
        if text.startswith("#"):
            explained = True
        elif key and explained:
            found.add(key.group(1))
        elif not text:
            explained = False
    return found


@pytest.mark.parametrize("job", JOBS)
def test_every_setting_is_explained_where_it_is_set(job):
    files = [CONF / f"{job}.yaml", *CONF.glob("[!h]*/*.yaml"), *CONF.glob("hardware/*.yaml")]
    explained = set().union(*(commented(path) for path in files))
    free = {key for key, rule in SETTINGS[job].items() if isinstance(rule, Object | Objects)}
    keys = {key.rsplit(".", 1)[-1] for key in SETTINGS[job] if key not in free}
    assert keys - explained == set()


@pytest.mark.parametrize("job", JOBS)
def test_every_setting_is_read_by_something(job):
    code = "".join(
        path.read_text()
        for path in Path(cli.__file__).parent.rglob("*.py")
        if path.name != "settings.py"
    )
    referred = set(
        re.findall(r"\$\{([\w.]+)\}", "".join(p.read_text() for p in CONF.rglob("*.yaml")))
    )
    words = set(re.findall(r"\w+", code))
    unread = [key for key in SETTINGS[job] if key.rsplit(".", 1)[-1] not in words]
    assert set(unread) - referred == set()


def test_no_key_is_a_yaml_boolean():
    for path in CONF.rglob("*.yaml"):
        loaded = yaml.safe_load(path.read_text()) or {}
        assert all(isinstance(key, str) for key in loaded), path
