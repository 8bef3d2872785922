"""From one format to the other and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from classified import configured, easy, write_classified

from cryo2d.errors import InputError
from cryo2d.io.particles import read_particles
from cryo2d.jobs.convert import run


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classified(tmp_path_factory.mktemp("in"), easy(24))


def convert(out: Path, *overrides: str) -> dict:
    out.mkdir(exist_ok=True)
    run(configured("convert", *overrides), out)
    return json.loads((out / "manifest.json").read_text())


def test_there_and_back_is_the_same(star, tmp_path):
    first = convert(tmp_path / "a", f"data.path={star}")
    assert list(first["files"]) == ["particles.cs", "report.html"]
    path = tmp_path / "a" / "particles.cs"
    second = convert(tmp_path / "b", f"data.path={path}", f"out={star.parent / 'back.star'}")
    assert second["particles"] == {"total": 24, "written": 24, "excluded": 0}
    tables = [read_particles(p)[0] for p in (star, star.parent / "back.star")]
    for name in ("class_index", "psi", "shift", "class_posterior"):
        values = [getattr(table.alignment, name) for table in tables]
        np.testing.assert_allclose(*values, atol=2e-6)
    assert (tables[0].image_index == tables[1].image_index).all()
    assert tables[1].stacks == tables[0].stacks


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["out=particles.txt"], "NAME.star"),
        (["out={star}"], "another file"),
        (["recenter=true"], "no pick locations"),
    ],
)
def test_what_cannot_be_done_is_said(star, tmp_path, overrides, says):
    texts = [text.format(star=star) for text in overrides]
    with pytest.raises(InputError, match=says):
        convert(tmp_path, f"data.path={star}", *texts)
