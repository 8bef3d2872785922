"""What the settings of the particles turn into."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cryo2d.data.store import InMemory, Nowhere, OnDisk
from cryo2d.jobs.particles import store_of


@pytest.mark.parametrize(
    ("cache", "store"),
    [
        ("ram", InMemory(0.5)),
        ("off", Nowhere()),
        ("scratch", OnDisk(Path.cwd() / "scratch", 0.5)),
    ],
)
def test_the_cache_is_memory_a_folder_or_nothing(cache, store):
    cfg = OmegaConf.create({"data": {"cache": cache}, "hardware": {"memory_fraction": 0.5}})
    assert store_of(cfg) == store
