"""Bad particles in a run: every row is accounted for, the others are as without them."""

import logging
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from guided import SHORT, made
from omegaconf import OmegaConf
from truth import Stack, classified, composed

from cryo2d.errors import InputError
from cryo2d.jobs.classify import run

BAD = {7: np.nan, 30: np.inf, 31: 1e30, 90: 0.0}


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    """A stack with four bad images, and particles.star with one bad CTF and one row beyond it."""
    stack = made(tmp_path_factory.mktemp("stack"), num_particles=150)
    images = stack.star.parent / "particles.mrcs"
    with mrcfile.open(images, "r+") as file:
        for row, value in BAD.items():
            if np.isfinite(value):
                file.data[row] = value * file.data[row]
            else:
                file.data[row, 3, 3] = value
    tables = starfile.read(stack.star, always_dict=True)
    particles = tables["particles"]
    particles.loc[50, "rlnDefocusU"] = np.nan
    particles.loc[60, "rlnImageName"] = "000999@particles.mrcs"
    starfile.write(tables, stack.star, overwrite=True)
    return stack


SETTINGS = ("model.force_max=true", "optimizer.iterations=2")


def without_bad(stack: Stack) -> Stack:
    """The same stack, its bad rows left out of the star."""
    tables = starfile.read(stack.star, always_dict=True)
    tables["particles"] = tables["particles"].drop(index=[*BAD, 50, 60])
    path = stack.star.with_name("good.star")
    starfile.write(tables, path, overwrite=True)
    changed = dict(vars(stack)) | {"star": path}
    return type(stack)(**changed)


@pytest.mark.parametrize("cache", ["ram", "'off'"])
def test_the_others_are_as_in_a_run_without_the_bad_ones(stack: Stack, cache: str) -> None:
    settings = (*SHORT, *SETTINGS, f"data.cache={cache}")
    found, alone = (classified(one, *settings) for one in (stack, without_bad(stack)))
    assert np.isfinite(found.averages).all()
    np.testing.assert_array_equal(found.averages, alone.averages)
    np.testing.assert_array_equal(found.classes, alone.classes)


def test_every_row_ends_in_one_file_and_says_why(stack: Stack, tmp_path: Path) -> None:
    cfg = composed(f"data.path={stack.star}", *SHORT, *SETTINGS)
    cfg.callbacks = OmegaConf.create({"export": OmegaConf.to_container(cfg.callbacks.export)})
    run(cfg, tmp_path)
    names = ("particles", "rejected", "excluded")
    files = {n: tmp_path / f"{n}.star" for n in names}
    tables = {
        name: starfile.read(path, always_dict=True)["particles"]
        for name, path in files.items()
        if path.is_file()
    }
    rows = [image for table in tables.values() for image in table["rlnImageName"]]
    given = starfile.read(stack.star, always_dict=True)["particles"]["rlnImageName"]
    assert sorted(text.split("@")[0] for text in rows) == sorted(t.split("@")[0] for t in given)
    excluded = tables["excluded"]
    assert len(excluded) == 6
    lines = stack.star.read_text().split("\n")
    for _, row in excluded.iterrows():
        number = row["rlnImageName"].split("@")[0]
        assert f"{number}@" in lines[int(row["cryo2dSourceRow"]) - 1]
        assert row["cryo2dSourceFile"] == str(stack.star)
        assert row["cryo2dReason"]


@pytest.mark.parametrize("cache", ["ram", "'off'"])
def test_too_many_bad_particles_end_a_run_before_it_begins(stack: Stack, cache: str) -> None:
    few = ("data.max_bad_fraction=0.01", f"data.cache={cache}")
    with pytest.raises(InputError, match=r"2 of 150 particles .*at most 1 %"):
        classified(stack, *SHORT, *SETTINGS, *few)
    some = ("data.max_bad_fraction=0.02", f"data.cache={cache}")
    with pytest.raises(InputError, match=r"4 of 148 particles .*at most 2 %"):
        classified(stack, *SHORT, *SETTINGS, *some)


def test_dark_particles_are_told_of(tmp_path: Path, caplog) -> None:
    stack = made(tmp_path, num_particles=260, snr=1.0)
    with mrcfile.open(stack.star.parent / "particles.mrcs", "r+") as file:
        file.data[:] = -file.data
    with caplog.at_level(logging.WARNING):
        classified(stack, *SHORT, *SETTINGS)
    assert "particles look darker than their background" in caplog.text
    caplog.clear()
    classified(stack, *SHORT, *SETTINGS, "data.invert=true")
    assert "than their background" not in caplog.text
