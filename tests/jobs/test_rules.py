import math

import pytest

from cryo2d.jobs.rules import (
    Choice,
    Devices,
    Even,
    Flag,
    Object,
    Objects,
    OrNull,
    Real,
    Several,
    Text,
    Whole,
)

ACCEPTED = [
    (Flag(), [True, False], [0, 1, "true", None]),
    (Whole(1, 8), [1, 8], [0, 9, 1.0, True, "3", None]),
    (Even(16), [16, 64], [14, 17, 16.0, True]),
    (Real(above=0, most=1), [0.1, 1, 1.0], [0, 1.1, math.nan, math.inf, True, "0.5", None]),
    (Real(least=-1), [-1, 1e9], [-1.5, -math.inf]),
    (Text(), ["a"], ["", " ", 3, None]),
    (Choice("full", "flip"), ["full", "flip"], ["Full", "", None, 1]),
    (Several(Text()), ["a", [], ["a", "b"]], [[""], [1], None]),
    (OrNull(Whole()), [None, 0], [-1, "null"]),
    (Devices(), [1, 2, "auto", [0], [3, 1]], [0, -1, True, [], [0, 0], [-1], "1", "all"]),
    (Object(), [{"_target_": "a.B", "x": 1}], [{}, {"x": 1}, {"_target_": 1}, None, 3]),
    (Objects(), [{}, {"a": {"_target_": "a.B"}}], [{"a": {}}, {"a": 1}, None, []]),
]


@pytest.mark.parametrize(("rule", "good", "bad"), ACCEPTED)
def test_a_rule_accepts_exactly_what_it_says(rule, good, bad):
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []
    assert rule.expected


def test_the_message_names_range_and_unit():
    assert Real(above=0, most=2, unit="A").expected == "a number above 0 and at most 2 (A)"
    assert Real().expected == "a number"
    assert OrNull(Whole(1)).expected == "a whole number, 1 or more, or null"
