"""Particles that follow rules: nothing is lost, and the reason is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from classified import configured, easy, write_classified

from cryo2d.errors import InputError
from cryo2d.io.particles import read_particles
from cryo2d.jobs.subset import run


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two populations of errors; posteriors from 0.5 to 1."""
    rng = np.random.default_rng(0)
    error = np.concatenate([rng.normal(10, 1, 30), rng.normal(30, 1, 60)])
    return write_classified(tmp_path_factory.mktemp("in"), easy(90), error=error)


def subset(out: Path, *overrides: str) -> Path:
    run(configured("subset", *overrides), out)
    return out


def images(path: Path) -> set[int]:
    return set(read_particles(path)[0].image_index.tolist())


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_rules_keep_what_follows_them_and_lose_nothing(star, tmp_path, kind):
    path = star.with_suffix(f".{kind}")
    rules = "rules='class_posterior > 0.75 and class != 2'"
    out = subset(tmp_path, f"data.path={path}", rules)
    table, _ = read_particles(path)
    posterior, index = table.alignment.class_posterior, table.alignment.class_index
    expected = set(np.flatnonzero((posterior > 0.75) & (index != 1)).tolist())
    assert images(out / "particles.star") == images(out / "particles.cs") == expected
    assert images(out / "removed.star") == set(range(90)) - expected
    counts = json.loads((out / "manifest.json").read_text())["particles"]
    assert counts["total"] == counts["kept"] + counts["removed"] + counts["excluded"] == 90
    page = (out / "report.html").read_text()
    assert "class_posterior &gt; 0.75" in page


def test_the_reason_names_every_broken_rule(star, tmp_path):
    out = subset(tmp_path, f"data.path={star}", "rules='class_posterior > 0.6 and class == 1'")
    table, _ = read_particles(out / "removed.star")
    reasons = table.columns.rows.column("cryo2dReason").astype(str)
    low = table.alignment.class_posterior <= 0.6
    other = table.alignment.class_index != 0
    assert (np.char.count(reasons, "not class_posterior > 0.6") == low).all()
    assert (np.char.count(reasons, "not class == 1") == other).all()


@pytest.mark.parametrize(("worse", "gone"), [("high", range(30, 90)), ("low", range(30))])
def test_the_worse_population_goes(star, tmp_path, worse, gone):
    out = subset(tmp_path, f"data.path={star}", "mixture=error", f"worse={worse}")
    assert images(out / "removed.star") == set(gone)
    assert (out / "mixture.png").is_file()


def test_rules_come_before_the_populations(star, tmp_path):
    out = subset(tmp_path, f"data.path={star}", "mixture=error", "rules='class == 1'")
    kept = images(out / "particles.star")
    assert kept == {i for i in range(30) if i % 3 == 0}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "neither rules nor mixture"),
        (["rules='psi + 1 > 2'"], "psi . 1"),
        (["rules='class_posteriour > 2'"], "expected class_posterior"),
        (["mixture=nothing"], "the column nothing"),
        (["mixture=psi"], "worse=low"),
        (["mixture=class_count"], "one value of class_count"),
    ],
)
def test_what_cannot_be_done_is_said(star, tmp_path, overrides, says):
    with pytest.raises(InputError, match=says):
        subset(tmp_path, f"data.path={star}", *overrides)
    assert not (tmp_path / "particles.star").exists()
