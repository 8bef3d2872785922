import json
from dataclasses import replace

import numpy as np
import pytest
from averages import FLAWS, classes

from cryo2d.errors import InputError
from cryo2d.io.averages import read_class_averages, write_class_averages
from cryo2d.ranking.features import FEATURES
from cryo2d.ranking.ranker import EMPTY, WORDS, Ranker, read_ranker


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return read_ranker()


def test_the_ranker_of_the_package_has_been_shown_to_work(ranker):
    assert set(ranker.features) == set(FEATURES)
    assert ranker.about["held_out_auc"]["all"] >= 0.95
    assert min(ranker.about["held_out_auc"].values()) >= 0.9
    assert ranker.about["command"].startswith("cryo2d train_ranker")


def test_a_good_class_comes_first_and_noise_last(ranker):
    score = dict(zip(FLAWS, ranker(classes()).score, strict=True))
    assert score["view"] > 0.8
    assert score["noise"] < 0.2
    assert score["empty"] == 0.0
    assert score["view"] > score["blurred"] > score["noise"]
    assert score["crowded"] < score["view"] - 0.3


def test_the_reasons_name_the_flaw(ranker):
    reason = dict(zip(FLAWS, ranker(classes()).reasons, strict=True))
    assert "off-centre" in reason["moved"]
    assert "neighbours" in reason["crowded"]
    assert "neighbours" not in reason["view"]
    assert "low resolution" in reason["noise"]
    assert reason["empty"] == EMPTY
    assert "off-centre" not in reason["view"]


def test_more_of_what_is_good_never_lowers_a_score(ranker):
    inputs = np.random.default_rng(0).uniform(-2, 2, (40, len(ranker.features)))
    before = ranker.log_odds(inputs)
    for f, name in enumerate(ranker.features):
        if FEATURES[name]:
            better = inputs.copy()
            better[:, f] += 0.5
            assert (ranker.log_odds(better) >= before - 1e-9).all(), name


def test_scores_need_neither_numbers_nor_curves(ranker):
    bare = replace(classes(), columns={}, rings=None)
    score = ranker(bare).score
    assert np.isfinite(score).all()
    assert score[FLAWS.index("view")] > score[FLAWS.index("noise")]


def test_no_class_at_all(ranker):
    one = classes()
    none = replace(one.take(np.zeros(len(one), bool)))
    assert len(ranker(none).score) == len(ranker(none).reasons) == 0


def test_words_stand_for_every_feature_once():
    names = [name for group in WORDS.values() for name in group]
    assert sorted(names) == sorted(FEATURES)


def test_a_ranker_is_written_and_read(ranker, tmp_path):
    path = tmp_path / "ranker.json"
    path.write_text(ranker.text())
    np.testing.assert_allclose(read_ranker(path)(classes()).score, ranker(classes()).score)
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize(
    "broken",
    [
        lambda held: held.pop("mean"),
        lambda held: held.update(bias=[0.0]),
        lambda held: held["features"].__setitem__(0, "beauty"),
    ],
)
def test_another_file_is_no_ranker(ranker, tmp_path, broken):
    held = json.loads(ranker.text())
    broken(held)
    path = tmp_path / "ranker.json"
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match="train_ranker"):
        read_ranker(path)
    with pytest.raises(InputError, match="nothing"):
        read_ranker(tmp_path / "nothing.json")


def test_scores_and_reasons_travel_with_the_averages(ranker, tmp_path):
    scores = ranker(classes())
    write_class_averages(tmp_path, scores.added_to(classes()))
    columns = read_class_averages(tmp_path).columns
    np.testing.assert_allclose(columns["score"], scores.score, atol=1e-4)
    assert [text.decode() for text in columns["reason"]] == list(scores.reasons)
