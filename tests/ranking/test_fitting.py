import numpy as np
import pytest

from cryo2d.ranking.features import FEATURES
from cryo2d.ranking.fitting import Fit, area_under, held_out, roc


def test_the_area_is_the_chance_that_good_is_above_bad():
    rng = np.random.default_rng(0)
    score, good = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = score[good][:, None] - score[~good]
    assert area_under(score, good) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    false, true = roc(score, good)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.isnan(area_under(score, np.ones(60, bool)))


def lessons() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Features of which one decides, one misleads in its direction, and some are unknown."""
    rng = np.random.default_rng(1)
    features = {name: rng.normal(size=160) for name in FEATURES}
    good = features["agreement"] > 0
    features["rim"] = 2.0 * good + rng.normal(size=160)  # known to be bad
    features["certainty"][::3] = np.nan
    return features, good, np.arange(160) % 4


def test_a_fit_learns_what_decides_and_never_against_what_is_known():
    features, good, group = lessons()
    fit = Fit(networks=1, steps=80)
    ranker = fit(features, good, {})
    inputs = ranker.inputs(features)
    assert area_under(ranker.log_odds(inputs), good) > 0.97
    worse = inputs.copy()
    worse[:, ranker.features.index("rim")] -= 1.0
    assert (ranker.log_odds(worse) <= ranker.log_odds(inputs)).all()
    clear = np.ones(160, bool)
    assert area_under(held_out(features, good, clear, group, fit), good) > 0.9


def test_what_is_held_out_is_not_learnt_from():
    features, good, group = lessons()
    fit = Fit(networks=1, steps=5)
    before = held_out(features, good, np.ones(160, bool), group, fit)
    other = good ^ (group == 2)
    after = held_out(features, other, np.ones(160, bool), group, fit)
    np.testing.assert_array_equal(before[group == 2], after[group == 2])
    assert not np.allclose(before[group == 1], after[group == 1])
