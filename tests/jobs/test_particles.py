"""What the settings of the particles turn into."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cryo2d.data.store import InMemory, Nowhere, OnDisk
from cryo2d.jobs.particles import store_of, threads_of


@pytest.mark.parametrize(
    ("cache", "store"),
    [
        ("ram", InMemory(0.5)),
        ("off", Nowhere()),
        ("scratch", OnDisk(Path.cwd() / "scratch", 0.5)),
    ],
)
def test_the_cache_is_memory_a_folder_or_nothing(cache, store):
    hardware = {"memory_fraction": 0.5, "devices": 1}
    cfg = OmegaConf.create({"data": {"cache": cache}, "hardware": hardware})
    assert store_of(cfg) == store


def test_processes_share_memory_and_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    hardware = {"memory_fraction": 0.5, "devices": 4, "threads": None}
    cfg = OmegaConf.create({"data": {"cache": "ram"}, "hardware": hardware})
    assert store_of(cfg) == InMemory(0.125)
    assert threads_of(cfg) == 2
    cfg.hardware.threads = 3
    assert threads_of(cfg) == 3
