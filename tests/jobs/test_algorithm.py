"""What the settings of the E-step come to."""

import pytest
from truth import composed

from cryo2d.em.marginal import Marginalise
from cryo2d.em.posterior import maximise
from cryo2d.jobs.algorithm import expectation_of, faint_of

MANY, FEW = ("model.num_classes=50",), ("model.num_classes=20",)


@pytest.mark.parametrize("typed", [FEW, (*MANY, "model.force_max=false")])
def test_all_poses_count_from_the_beginning(typed):
    cfg = composed(*typed)
    assert isinstance(expectation_of(cfg), Marginalise)
    assert faint_of(cfg) is None


@pytest.mark.parametrize("typed", [(*MANY, "model.force_max=true"), (*FEW, "model.force_max=true")])
def test_the_best_poses_count_whatever_particles_gain(typed):
    cfg = composed(*typed)
    assert expectation_of(cfg) is maximise
    assert faint_of(cfg) is None


@pytest.mark.parametrize(("length", "iteration"), [(130, 20), (40, 6), (5, 3)])
def test_particles_decide_once_averages_have_taken_shape(length, iteration):
    decide = faint_of(composed(*MANY, f"optimizer.iterations={length}"))
    assert decide.iteration == iteration
    assert isinstance(decide.faint, Marginalise)
    assert decide.clear is maximise


def test_given_averages_are_not_spoiled_before_it_is_decided():
    given = "model.initial_references=averages.mrcs"
    assert expectation_of(composed(*MANY)) is maximise
    assert isinstance(expectation_of(composed(*MANY, given)), Marginalise)
    assert expectation_of(composed(*MANY, given, "model.force_max=true")) is maximise
