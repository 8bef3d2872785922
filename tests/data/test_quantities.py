"""What rules can ask of particles."""

import numpy as np
import pytest
from classified import easy, write_classified

from cryo2d.data.quantities import Quantities
from cryo2d.io.particles import read_particles


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(1, 9, 30) for name in ("error", "cross_cor", "slice_pow")}
    write_classified(folder, easy(30), **values, image_pow=np.full(30, 50.0))
    return folder


@pytest.mark.parametrize("kind", ["star", "cs"])
def test_both_formats_have_the_same_quantities(folder, kind):
    table, _ = read_particles(folder / f"particles.{kind}")
    classes = {"resolution": np.array([5.0, 6.0, 7.0]), "superclass": np.array([1, 2])}
    words = {"ess": np.full(3, 9.0), "reason": np.array([b"a", b"b", b"c"])}
    found = Quantities(table, classes | words)
    index = table.alignment.class_index
    assert np.array_equal(found["class"], index + 1)
    assert np.array_equal(found["class_count"], np.full(30, 10))
    assert np.array_equal(found["class_resolution"], 5.0 + index)
    # there are but two superclasses, and the particles have an ESS of their own
    wanted = np.choose(index, [1, 2, np.nan])
    assert np.array_equal(found["class_superclass"], wanted, equal_nan=True)
    assert (found["class_ess"] < 9).all()
    assert "class_reason" not in found
    assert np.allclose(found["shift"], np.hypot(found["shift_x"], found["shift_y"]))
    assert np.allclose(np.sin(np.radians(found["psi"])), np.sin(table.alignment.psi))
    assert (np.abs(found["correlation"]) <= 1).all()
    assert {"defocus", "class_posterior", "class_ess", "error"} <= set(found)
    assert not [name for name in found if name.startswith(("cryo2d", "alignments2D"))]


def test_the_error_in_class_is_a_robust_score(folder):
    table, _ = read_particles(folder / "particles.star")
    found = Quantities(table)
    for k in range(3):
        members = found["class"] == k + 1
        score, error = found["error_in_class"][members], found["error"][members]
        assert np.median(score) == pytest.approx(0, abs=1e-6)
        assert np.median(np.abs(score)) * 1.4826 == pytest.approx(1)
        assert np.array_equal(np.argsort(score), np.argsort(error))


def test_columns_of_the_input_have_their_own_name(folder):
    text = (folder / "particles.star").read_text()
    lines = text.splitlines()
    first = max(i for i, line in enumerate(lines) if line.startswith("_"))
    count = int(lines[first].split("#")[1])
    lines.insert(first + 1, f"_rlnCtfMaxResolution #{count + 1}")
    lines.insert(first + 2, f"_rlnComment #{count + 2}")
    lines = [f"{x} 4.5 good" if "@" in x else x for x in lines]
    (folder / "more.star").write_text("\n".join(lines) + "\n")
    table, _ = read_particles(folder / "more.star")
    found = Quantities(table)
    assert (found["rlnCtfMaxResolution"] == 4.5).all()
    assert "rlnComment" not in found
