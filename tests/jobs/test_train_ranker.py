import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from truth import simulated

from cryo2d import cli
from cryo2d.errors import InputError
from cryo2d.io.averages import ClassAverages
from cryo2d.jobs import labelled as examples
from cryo2d.jobs import train_ranker
from cryo2d.jobs.labelled import Draw, _clutter, label
from cryo2d.ranking.ranker import read_ranker
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.phantom import project
from cryo2d.types import Assignments

EASY = {
    "num_particles": 90,
    "box": 32,
    "pixel_size": 6.0,
    "views": 2,
    "snr": 0.5,
    "junk_fraction": 0.3,
    "neighbours": 0.0,
    "num_micrographs": 4,
}
SHORT = {
    "model.num_classes": 6,
    "model.max_resolution": 14.0,
    "optimizer.iterations": 2,
    "optimizer.batch_per_class": 10,
    "seed": 1,
}


def easy(names: tuple[str, ...], particles: int, rng: np.random.Generator) -> Draw:
    recipe = EASY | {"molecules": list(names), "seed": int(rng.integers(1000))}
    return Draw(recipe, SHORT)


def test_the_job_writes_a_ranker_that_can_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(examples.Draw, "random", easy)
    monkeypatch.setattr(train_ranker, "HELD_OUT", (("shell",), ("barrel",)))
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        # in so few iterations no class is good: what is less bad has to do
        easier = ["min_good=0.75", "min_likeness=0.3", "gap=0.01"]
        cfg = compose("train_ranker", overrides=["classifications=2", "seed=3", *easier])
        area = train_ranker.run(cfg, tmp_path)
    ranker = read_ranker(tmp_path / "ranker.json")
    assert ranker.about["held_out_auc"]["all"] == pytest.approx(area, abs=1e-3)
    assert "seed=3" in ranker.about["command"]
    counts = ranker.about["classes"]
    assert sum(counts.values()) <= 12
    assert (tmp_path / "roc.png").stat().st_size > 1000
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["classes"] == counts


def test_drawn_settings_can_be_simulated_and_differ():
    drawn = [Draw.random(("shell", "antibody"), 500, np.random.default_rng(i)) for i in range(30)]
    for draw in drawn:
        box, pixel = draw.simulation["box"], draw.simulation["pixel_size"]
        diameter = max(m.diameter for m in molecules(draw.simulation["molecules"]))
        assert box * pixel > 1.3 * diameter
        mask = draw.classification["model.mask_diameter"]
        assert mask is None or mask < box * pixel
    assert len({draw.simulation["snr"] for draw in drawn}) == 30
    assert {len(draw.simulation["molecules"]) for draw in drawn} == {1, 2}


def test_a_clean_average_of_one_view_is_like_its_particles_and_noise_is_not(tmp_path):
    stack = simulated(tmp_path, **(EASY | {"num_molecules": 1, "views": 1, "junk_fraction": 0.2}))
    count = len(stack.truth["kind"])
    good = torch.from_numpy(stack.good)
    psi = torch.from_numpy(np.radians(np.nan_to_num(stack.truth["psi"])))
    values = {name: torch.ones(count) for name in Assignments.__dataclass_fields__}
    values["class_index"] = torch.where(good, torch.arange(count) % 2, 1)
    values["psi"] = psi
    values["shift"] = torch.from_numpy(-stack.truth["shift"] * stack.pixel)
    noise = np.random.default_rng(0).normal(size=(32, 32))
    images = np.stack([stack.truth["clean_views"][0], noise]).astype(np.float32)
    averages = ClassAverages(images, stack.pixel, {"count": np.array([1, 1])})
    found = label(averages, Assignments(**values), stack.truth)
    assert found.good[0] == 1.0
    assert found.good[1] < 0.8
    assert found.likeness[0] > 0.95
    assert found.likeness[1] < 0.3
    assert found.names == ("barrel",)
    assert found.clutter[0] == 0.0


def test_a_neighbour_beside_a_molecule_is_clutter(tmp_path):
    barrel = molecules(["barrel"])[0]
    apart = torch.tensor([[0.0, 0.0], [0.9 * barrel.diameter / 6.0, 0.0]])
    alone, other = project(barrel, torch.eye(3).expand(2, 3, 3), apart, 64, 6.0)
    clutter = [_clutter(alone + x * other, alone, barrel.diameter / 6.0) for x in (0.0, 0.1, 1.0)]
    assert clutter[0] == clutter[1] == 0.0
    assert clutter[2] > 0.2


def test_too_few_classes_teach_nothing(tmp_path):
    lessons = train_ranker.Lessons({}, np.ones(5), np.ones(5), np.zeros(5), np.zeros(5))
    with pytest.raises(InputError, match="5 good and 0 bad"):
        train_ranker.teach(lessons, train_ranker.Standard(), "", tmp_path)


def test_unclear_classes_are_near_a_limit():
    standard = train_ranker.Standard(0.7, 0.5, 0.1, 0.05)
    share = np.array([0.9, 0.72, 0.65, 0.9, 0.9, 0.2, 0.9, 0.9])
    likeness = np.array([0.9, 0.9, 0.9, 0.45, 0.3, 0.9, 0.9, 0.9])
    clutter = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.07, 0.3])
    lessons = train_ranker.Lessons({}, share, likeness, clutter, np.zeros(8))
    assert np.flatnonzero(standard.good(lessons)).tolist() == [0, 1, 6]
    assert np.flatnonzero(standard.clear(lessons)).tolist() == [0, 4, 5, 7]
