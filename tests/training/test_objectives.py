import dataclasses

import pytest
import torch
from fake_run import CLASSES, make_assignments, make_summary

from cryo2d.training.objectives import (
    OBJECTIVES,
    epsilon_squared,
    junk_separation,
    mean_frc_resolution,
)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_is_a_number_of_the_run(name):
    value = OBJECTIVES[name](make_summary(2), make_assignments(120))
    assert isinstance(value, float)
    assert value == value  # not nan


def test_empty_classes_have_no_part_in_the_mean_resolution():
    summary = make_summary()
    resolution = torch.full((CLASSES, 2), 8.0)
    resolution[-1] = 100.0
    assert summary.counts[-1] == 0
    same = dataclasses.replace(summary, class_resolution=resolution)
    assert mean_frc_resolution(same, make_assignments(120)) == pytest.approx(8.0)


def test_junk_in_classes_of_its_own_is_separated():
    found = make_assignments(120)
    good = torch.arange(120) % 3 > 0
    fit = torch.where(good, 0.9, 0.1)
    fit += torch.linspace(-0.01, 0.01, 120)
    apart = dataclasses.replace(
        found,
        cross_cor=2 * fit * (found.image_pow * found.slice_pow).sqrt(),
        class_index=good.long(),
    )
    mixed = dataclasses.replace(apart, class_index=torch.arange(120) // 60)
    assert junk_separation(make_summary(), apart) > 0.95
    assert abs(junk_separation(make_summary(), mixed)) < 0.05


def test_random_classes_explain_nothing_however_many():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2000, generator=generator, dtype=torch.float64)
    values[0] = torch.nan
    for count in (2, 20, 200):
        classes = torch.randint(count, (2000,), generator=generator)
        assert abs(epsilon_squared(values, classes)) < 0.05
    assert epsilon_squared(values[1:4], torch.arange(3)) == 0.0
    assert epsilon_squared(torch.ones(9), torch.arange(9) % 2) == 0.0
