import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cryo2d.io.digits import fixed, general, planes, zero_padded


def texts(matrix: np.ndarray) -> list[str]:
    return [bytes(row).decode() for row in matrix.T]


@settings(max_examples=100)
@given(st.lists(st.integers(-(10**11), 10**11), min_size=1, max_size=20), st.integers(0, 6))
def test_fixed_is_percent_f(numbers: list[int], decimals: int) -> None:
    # Multiples of half a unit in the last place less a bit: no ties to be rounded either way.
    values = (np.array(numbers) // 2 + 0.3) / 10.0**decimals
    expected = [f"{v:.{decimals}f}" for v in values]
    expected = [e if float(e) else e.lstrip("-") for e in expected]
    assert [t.strip() for t in texts(fixed(values, decimals))] == expected


def test_fixed_aligns_right_and_writes_minus_next_to_the_number() -> None:
    assert texts(fixed(np.array([-1.5, 10.25, -0.0]), 2)) == [" -1.50", " 10.25", "  0.00"]


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e20])
def test_fixed_falls_back(odd: float) -> None:
    values = np.array([1.25, odd])
    assert [float(t) for t in texts(fixed(values, 6))] == pytest.approx(values, nan_ok=True)


@settings(max_examples=50)
@given(arrays(np.float32, 8, elements=st.floats(width=32)))
def test_general_holds_float32(values: np.ndarray) -> None:
    back = np.array([float(t) for t in general(values)], np.float32)
    np.testing.assert_array_equal(back, values)


@settings(max_examples=50)
@given(arrays(np.float64, 8, elements=st.floats()))
def test_general_holds_float64(values: np.ndarray) -> None:
    np.testing.assert_array_equal([float(t) for t in general(values)], values)


def test_general_whole_numbers_and_zero_padding() -> None:
    assert general(np.array([2**64 - 1, 7], np.uint64)).tolist() == [b"18446744073709551615", b"7"]
    assert texts(zero_padded(np.array([42, 1234567]), 7)) == ["0000042", "1234567"]
    assert texts(planes(np.array([b"a", b"bcd"]))) == ["a  ", "bcd"]


def test_many_float32_are_held_exactly(rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2**32, 100_000, np.uint32)
    odd = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1, 10, 1e9, 0.1, 1e-38, 3.4e38], np.float32)
    any_float = np.nan_to_num(bits.view(np.float32))
    values = np.concatenate([odd, any_float, 10.0 ** np.arange(-30, 30, dtype=np.float32)])
    np.testing.assert_array_equal(general(values).astype(np.float64).astype(np.float32), values)
