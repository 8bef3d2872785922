import pytest

from cryo2d.em.anneal import PowerLaw, ResolutionRamp, Uncertainty


def test_step_size_starts_whole_falls_and_stays_above_its_floor():
    law = PowerLaw(exponent=0.7, offset=2.0, floor=0.15)
    values = [law(t) for t in range(200)]
    assert values[0] == 1.0
    assert all(0 < value <= 1 for value in values)
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert values[-1] == 0.15
    assert values[1] == pytest.approx(3.0**-0.7)


def test_without_memory_every_batch_counts_alike():
    # exponent 1 from t = 1 on without offset: the running mean
    law, mean = PowerLaw(exponent=1.0, offset=1.0, floor=0.0), 0.0
    data = [3.0, -1.0, 7.0, 2.0, 2.5]
    for t, value in enumerate(data):
        gamma = law(t)
        mean = (1 - gamma) * mean + gamma * value
    assert mean == pytest.approx(sum(data) / len(data))


def test_uncertainty_falls_linearly_to_one():
    factor = Uncertainty(initial=4.0, start=2, length=6)
    assert [factor(t) for t in (0, 1, 2)] == [4.0, 4.0, 4.0]
    assert factor(5) == pytest.approx(2.5)
    assert [factor(t) for t in (8, 9, 100)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("length", [0, 15])
def test_uncertainty_one_is_one_throughout(length):
    assert {Uncertainty(initial=1.0, start=2, length=length)(t) for t in range(30)} == {1.0}


def test_no_annealing_time_is_a_step():
    factor = Uncertainty(initial=3.0, start=4, length=0)
    assert [factor(t) for t in (0, 4, 5)] == [3.0, 3.0, 1.0]


def test_resolution_ramp_grows_to_its_end():
    ramp = ResolutionRamp(first=4, last=20, length=8.0)
    rings = [ramp(t) for t in range(12)]
    assert rings[0] == 4
    assert rings[4] == 12
    assert rings[8:] == [20] * 4
    assert all(a <= b for a, b in zip(rings, rings[1:], strict=False))
    assert ResolutionRamp(first=9, last=9, length=0.0)(0) == 9
