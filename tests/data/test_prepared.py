"""No image that would poison an average gets past the preprocessing, wherever it is kept."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cryo2d.data.prepared import PreparedParticles
from cryo2d.data.store import InMemory, Nowhere, OnDisk, Store
from cryo2d.errors import EnvironmentFault
from cryo2d.geometry.polar import PolarGrid
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import read_particles
from cryo2d.physics.preprocess import Preprocessor

BOX, COUNT = 24, 12
HALF = BOX // 2


def poisonous() -> tuple[np.ndarray, dict[int, str]]:
    """Images, and for those that cannot be used a word of the reason."""
    images = np.random.default_rng(0).normal(3, 2, (COUNT, BOX, BOX)).astype(np.float32)
    row, column = np.indices((BOX, BOX)) - HALF
    images[1] *= 1e30
    images[2, HALF, HALF] = 1e30
    images[3, HALF, HALF] = 1e9
    images[4, np.hypot(row, column) > 0.8 * HALF] = 0.5
    images[5, 2, 2] = np.nan
    images[6] = 0
    images[7, 5, 5] = -np.inf
    images[8] = 1e-30 * images[8]
    reasons = {
        1: "holds values up to",
        2: "holds values up to 1e+30",
        3: "far above its background",
        4: "a background that is constant",
        5: "NaN or infinity",
        6: "constant (0 everywhere)",
        7: "NaN or infinity",
        8: "constant",
    }
    return images, reasons


def prepared(path: Path) -> PreparedParticles:
    table, _ = read_particles(path, require_ctf=False)
    return PreparedParticles(table, Preprocessor(PolarGrid(16, 6), BOX), 2)


@pytest.mark.parametrize("kind", ["memory", "disk", "nowhere"])
def test_what_is_left_is_finite_and_as_without_the_others(tmp_path: Path, kind: str) -> None:
    stores: dict[str, Store] = {
        "memory": InMemory(),
        "disk": OnDisk(tmp_path / "cache"),
        "nowhere": Nowhere(),
    }
    images, reasons = poisonous()
    write_stack(tmp_path / "all.mrcs", images, 2.0)
    good = np.setdiff1d(np.arange(COUNT), list(reasons))
    write_stack(tmp_path / "good.mrcs", images[good], 2.0)
    samples = {}
    for name in ("all", "good"):
        filled = stores[kind].fill(prepared(tmp_path / f"{name}.mrcs"), lambda _: None)
        rows = np.arange(len(good))
        found = filled.samples
        samples[name] = found if isinstance(found, torch.Tensor) else found(rows)
        assert sorted(filled.bad) == (sorted(reasons) if name == "all" else [])
        for row, text in filled.bad.items():
            assert text.startswith(f"image {row + 1} of {tmp_path / 'all.mrcs'} ")
            assert reasons[row] in text
    assert torch.isfinite(samples["all"]).all()
    assert torch.equal(samples["all"], samples["good"])


@pytest.mark.parametrize("how", ["deleted", "cut", "replaced", "failing"])
def test_what_can_no_longer_be_read_stops_the_run(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mrcs"
    images = np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32)
    write_stack(path, images, 2.0)
    particles = prepared(path)
    filled = Nowhere().fill(particles, lambda _: None)
    assert not isinstance(filled.samples, torch.Tensor)
    before = filled.samples(np.arange(COUNT))
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        os.truncate(path, 5000)
    elif how == "replaced":
        write_stack(path, images[::-1], 2.0)
    else:
        waited: list[float] = []
        monkeypatch.setattr("time.sleep", waited.append)

        def fail(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "preadv", fail)
    assert torch.isfinite(before).all()
    with pytest.raises(EnvironmentFault, match=r"a\.mrcs .*though it could be read before"):
        filled.samples(np.arange(3))
